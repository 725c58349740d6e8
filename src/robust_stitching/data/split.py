"""A split of a dataset: what every split can do, and one in memory, with batches by indexing."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from robust_stitching.data.augment import DRAWS, Augmentation, as_float
from robust_stitching.labels import are_attributes

Batch = tuple[Tensor, Tensor]


class AnySplit(ABC):
    """Images with labels, wherever the images are.

    A subclass is a frozen dataclass with these fields: ``replace(split, augmentation=None)`` works
    on every one.

    Attributes
    ----------
    name : of the dataset, as in file names ("CIFAR10").
    labels : int64 Tensor of shape (N,), or (N, A) of 0 and 1 for attributes, on the device on which
        batches come out.
    classes : their names, or those of the attributes.
    augmentation : what `epoch` does to each image; None for a split one only evaluates on.
    source : what `load` finds the dataset by: its key, or the path of its folder.
    """

    name: str
    labels: Tensor
    classes: tuple[str, ...]
    augmentation: Augmentation | None
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where batches come out."""
        return self.labels.device

    @property
    def attributes(self) -> bool:
        """Whether labels are attributes rather than classes."""
        return are_attributes(self.labels)

    @property
    @abstractmethod
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Pixels of an image's side."""

    @property
    @abstractmethod
    def content(self) -> tuple[Tensor, ...]:
        """Tensors that differ where two splits hold other images or labels."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "AnySplit":
        """The same split with its batches on another device."""

    @abstractmethod
    def take(self, rows: slice | Tensor) -> "AnySplit":
        """Some of the images, by a slice or by numbers on the CPU."""

    def between(self, start: int, stop: int) -> "AnySplit":
        """The images from `start` to before `stop`."""
        return self.take(slice(start, stop))

    def sample(self, n: int, seed: int = 0) -> "AnySplit":
        """`n` images at random, in their order; all of them where there are no more. Folders come
        sorted by class, so the first `n` would not do."""
        if n >= len(self):
            return self
        return self.take(torch.randperm(len(self), generator=generator_for(seed))[:n].sort().values)

    def relabelled(self, order: Sequence[int]) -> "AnySplit":
        """The same images with their classes, or attributes, in another order: class i is the one
        that had the number ``order[i]``."""
        number = torch.tensor(order, device=self.device)
        labels = self.labels[:, number] if self.attributes else number.argsort()[self.labels]
        return replace(self, labels=labels, classes=tuple(self.classes[old] for old in order))

    @abstractmethod
    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in order, as they are: (images in [0, 1], labels)."""

    @abstractmethod
    def epoch(self, batch_size: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """All images once, shuffled and augmented.

        Order and augmentation depend on `seed` and `epoch` alone, so an epoch can be entered again
        after its first `skip` batches.
        """

    def batches_per_epoch(self, batch_size: int) -> int:
        """How many batches `epoch` and `batches` yield; the last may be smaller."""
        return -(-len(self) // batch_size)

    @abstractmethod
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel in [0, 1], over all pixels, in float64."""


@dataclass(frozen=True)
class Split(AnySplit):
    """Images with labels in memory, all on one device.

    Attributes
    ----------
    images : uint8 Tensor of shape (N, C, H, W).
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    augmentation: Augmentation | None = None
    source: str = ""

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_size(self) -> int:
        return self.images.shape[-1]

    @property
    def content(self) -> tuple[Tensor, ...]:
        return self.images, self.labels

    def to(self, device: torch.device | str) -> "Split":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def take(self, rows: slice | Tensor) -> "Split":
        rows = rows if isinstance(rows, slice) else rows.to(self.device)
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def batches(self, batch_size: int) -> Iterator[Batch]:
        for start in range(0, len(self), batch_size):
            rows = slice(start, start + batch_size)
            yield laid_out(as_float(self.images[rows])), self.labels[rows]

    def epoch(self, batch_size: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        generator = generator_for(seed, epoch)
        order, draws = (t.to(self.device) for t in order_and_draws(len(self), generator))
        for start in range(skip * batch_size, len(self), batch_size):
            rows = order[start : start + batch_size]
            images = self.images[rows]
            yield (
                laid_out(augmented(images, self.augmentation, draws[start : start + batch_size])),
                self.labels[rows],
            )

    def statistics(self) -> tuple[list[float], list[float]]:
        return mean_and_deviation([self.images])


def order_and_draws(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The order of an epoch of `n` images (n,), and uniform numbers (n, DRAWS) for each in turn."""
    order = torch.randperm(n, generator=generator)
    return order, torch.rand(n, DRAWS, generator=generator)


def augmented(images: Tensor, augmentation: Augmentation | None, draws: Tensor) -> Tensor:
    """uint8 images as floats in [0, 1], augmented where there is an augmentation."""
    return as_float(images) if augmentation is None else augmentation(images, draws)


def mean_and_deviation(batches: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation in [0, 1] of each channel of uint8 images (N, C, H, W), over all
    pixels, in float64."""
    counts = sum(_histograms(images) for images in batches)
    values = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
    total = counts.sum(dim=1)
    mean = (counts * values).sum(dim=1) / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(dim=1) / total
    return mean.tolist(), variance.sqrt().tolist()


def _histograms(images: Tensor) -> Tensor:
    """How often each value occurs in each channel, float64 of shape (C, 256)."""
    channels = images.unbind(dim=1)
    return torch.stack([torch.bincount(c.flatten(), minlength=256) for c in channels]).double()


def generator_for(*seeds: int | str) -> torch.Generator:
    """A generator whose stream depends on all of `seeds`, numbers below 2⁶⁴ and names of what it is
    for, and differs for any other tuple."""
    numbers = [int.from_bytes(s.encode()[:8], "big") if isinstance(s, str) else s for s in seeds]
    words = [word for number in numbers for word in (number & 0xFFFFFFFF, number >> 32)]
    state = np.random.SeedSequence([len(seeds), *words]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def laid_out(images: Tensor) -> Tensor:
    """Channels last, the layout in which convolutions are fastest on CPU and GPU."""
    return images.contiguous(memory_format=torch.channels_last)
