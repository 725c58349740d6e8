"""A split of a dataset in memory: uint8 images on the device, batches by indexing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from robust_stitching.data.augment import DRAWS, Augmentation, as_float

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Split:
    """Images with labels, all on one device.

    Attributes
    ----------
    name : of the dataset, as in file names ("CIFAR10").
    images : uint8 Tensor of shape (N, C, H, W).
    labels : int64 Tensor of shape (N,).
    classes : their names.
    augmentation : what `epoch` does to each image; None for a split one only evaluates on.
    source : what `load` finds the dataset by: its key, or the path of its folder.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    augmentation: Augmentation | None = None
    source: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.images.shape[1]

    def to(self, device: torch.device | str) -> "Split":
        """The same split on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def between(self, start: int, stop: int) -> "Split":
        """The images from `start` to before `stop`."""
        rows = slice(start, stop)
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def sample(self, n: int, seed: int = 0) -> "Split":
        """`n` images at random, in their order; all of them where there are no more. Folders come
        sorted by class, so the first `n` would not do."""
        if n >= len(self):
            return self
        order = torch.randperm(len(self), generator=generator_for(seed))[:n].sort().values
        rows = order.to(self.images.device)
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in order, as they are: (images in [0, 1], labels)."""
        for start in range(0, len(self), batch_size):
            rows = slice(start, start + batch_size)
            yield _laid_out(as_float(self.images[rows])), self.labels[rows]

    def epoch(self, batch_size: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """All images once, shuffled and augmented.

        Order and augmentation depend on `seed` and `epoch` alone, so an epoch can be entered again
        after its first `skip` batches.
        """
        generator = generator_for(seed, epoch)
        order = torch.randperm(len(self), generator=generator).to(self.images.device)
        draws = torch.rand(len(self), DRAWS, generator=generator).to(self.images.device)
        for start in range(skip * batch_size, len(self), batch_size):
            rows = order[start : start + batch_size]
            images = self.images[rows]
            if self.augmentation is None:
                images = as_float(images)
            else:
                images = self.augmentation(images, draws[start : start + batch_size])
            yield _laid_out(images), self.labels[rows]

    def batches_per_epoch(self, batch_size: int) -> int:
        """How many batches `epoch` and `batches` yield; the last may be smaller."""
        return -(-len(self) // batch_size)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel in [0, 1], over all pixels, in float64."""
        mean, std = [], []
        values = torch.arange(256, dtype=torch.float64, device=self.images.device) / 255
        for channel in range(self.channels):
            counts = torch.bincount(self.images[:, channel].flatten(), minlength=256).double()
            m = (counts * values).sum() / counts.sum()
            mean.append(float(m))
            std.append(float(((counts * (values - m) ** 2).sum() / counts.sum()).sqrt()))
        return mean, std


def generator_for(*seeds: int) -> torch.Generator:
    """A generator whose stream depends on all of `seeds` (below 2⁶⁴), and differs for any other
    tuple."""
    words = [word for seed in seeds for word in (seed & 0xFFFFFFFF, seed >> 32)]
    state = np.random.SeedSequence([len(seeds), *words]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def _laid_out(images: Tensor) -> Tensor:
    """Channels last, the layout in which convolutions are fastest on CPU and GPU."""
    return images.contiguous(memory_format=torch.channels_last)
