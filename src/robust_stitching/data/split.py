"""A split of a dataset: what every split can do, and one in memory, with batches by indexing."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.labels import are_attributes
from robust_stitching.basics.seeds import generator_for
from robust_stitching.data.augment import DRAWS, as_float, augmented, scaled
from robust_stitching.data.source import Augmentation

Batch = tuple[Tensor, Tensor]

MOST_IN_MEMORY = 2**30
"""Bytes of uint8 images up to which a dataset is kept as the images that networks see."""

READ_AT_ONCE = 100
"""Images whose pixels are looked at together, where all of them are in turn."""


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
    notes : what people have to know of these images, in sentences: files that were left out, a size
        that is not their own.
    """

    name: str
    labels: Tensor
    classes: tuple[str, ...]
    augmentation: Augmentation | None
    source: str
    notes: tuple[str, ...]

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
        """This split with its batches on another device."""

    @abstractmethod
    def take(self, rows: slice | Tensor) -> "AnySplit":
        """Some of the images, by a slice or by numbers on the CPU."""

    def between(self, start: int, stop: int) -> "AnySplit":
        """The images from `start` to before `stop`."""
        return self.take(slice(start, stop))

    def sample(self, n: int, seed: int = 0) -> "AnySplit":
        """`n` images at random, in their order; all of them where there are no more.

        Folders come sorted by class, so the first `n` would not do.
        """
        self._require_images()
        if n < 1:
            raise UserError(f"a sample of {n} images of {self.name} is none; take 1 at least.")
        return self if n >= len(self) else self.take(self.drawn(n, seed))

    def drawn(self, n: int | None, seed: int = 0) -> Tensor:
        """The numbers of the images of `sample`; of all for None."""
        if n is None or n >= len(self):
            return torch.arange(len(self))
        return torch.randperm(len(self), generator=generator_for(seed))[:n].sort().values

    def relabelled(self, order: Sequence[int]) -> "AnySplit":
        """These images with their classes, or attributes, in another order.

        Class i is the one that had the number ``order[i]``.
        """
        number = torch.tensor(order, device=self.device)
        labels = self.labels[:, number] if self.attributes else number.argsort()[self.labels]
        return replace(self, labels=labels, classes=tuple(self.classes[old] for old in order))

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in order, as they are: (images in [0, 1], labels).

        The last batch may be smaller.
        """
        self._require_images(batch_size)
        return self._in_order(sizes_in_order(len(self), batch_size))

    def equal_batches(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in order, in batches as large as one another but for one image.

        None is of an image alone unless there is no other: what gives batch norms their statistics.
        """
        self._require_images(batch_size)
        return self._in_order(equal_sizes(len(self), batch_size))

    def epoch(
        self, batch_size: int, *, seed: int, epoch: int, skip: int = 0, fold: bool = True
    ) -> Iterator[Batch]:
        """All images once, shuffled and augmented.

        Order and augmentation depend on `seed` and `epoch` alone, so an epoch can be entered again
        after its first `skip` batches.

        Parameters
        ----------
        fold : put a last image that would be a batch of its own into the batch before, since batch
            norms have nothing to normalise one image by; see `sizes_of_epoch`.
        """
        self._require_images(batch_size)
        sizes = (sizes_of_epoch if fold else sizes_in_order)(len(self), batch_size)
        return self._shuffled(sizes, skip, generator_for(seed, epoch))

    def batches_per_epoch(self, batch_size: int) -> int:
        """How many batches `epoch` yields."""
        self._require_images(batch_size)
        return len(sizes_of_epoch(len(self), batch_size))

    def _require_images(self, batch_size: int = 1) -> None:
        if not len(self):
            raise UserError(f"there are no images in this part of {self.name}; take another.")
        if batch_size < 1:
            raise UserError(f"batches of {batch_size} images are none; take 1 at least.")

    @abstractmethod
    def _in_order(self, sizes: Sequence[int]) -> Iterator[Batch]:
        """All images once, in order, in batches of `sizes`."""

    @abstractmethod
    def _shuffled(
        self, sizes: Sequence[int], skip: int, generator: torch.Generator
    ) -> Iterator[Batch]:
        """All images once, augmented, in the generator's order, in batches of `sizes`, of which the
        first `skip` are left out."""

    @abstractmethod
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel in [0, 1], over all pixels, in float64."""


def notes_of(*splits: AnySplit | None) -> list[str]:
    """What people have to know of the images of some splits, each sentence once."""
    there = [split for split in splits if split is not None]
    return list(dict.fromkeys(note for split in there for note in split.notes))


@dataclass(frozen=True)
class Split(AnySplit):
    """Images with labels in memory, all on one device.

    Attributes
    ----------
    images : uint8 Tensor of shape (N, C, H, W).
    size : pixels of the side that images are scaled to whenever they come out, where all of them
        at that size would fill the memory; None leaves them as they are.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    augmentation: Augmentation | None = None
    source: str = ""
    notes: tuple[str, ...] = ()
    size: int | None = None

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_size(self) -> int:
        return self.size or self.images.shape[-1]

    @property
    def content(self) -> tuple[Tensor, ...]:
        return self.images, self.labels

    def to(self, device: torch.device | str) -> "Split":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def take(self, rows: slice | Tensor) -> "Split":
        rows = rows if isinstance(rows, slice) else rows.to(self.device)
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def _in_order(self, sizes: Sequence[int]) -> Iterator[Batch]:
        start = 0
        for size in sizes:
            rows = slice(start, start + size)
            yield laid_out(as_float(self._pixels(rows))), self.labels[rows]
            start += size

    def _shuffled(
        self, sizes: Sequence[int], skip: int, generator: torch.Generator
    ) -> Iterator[Batch]:
        order, draws = (t.to(self.device) for t in order_and_draws(len(self), generator))
        start = sum(sizes[:skip])
        for size in sizes[skip:]:
            rows, own = order[start : start + size], draws[start : start + size]
            yield laid_out(augmented(self._pixels(rows), self.augmentation, own)), self.labels[rows]
            start += size

    def is_grey(self) -> bool:
        """Whether all channels of all images are the same."""
        return are_grey(self.images)

    def _pixels(self, rows: slice | Tensor) -> Tensor:
        images = self.images[rows]
        return images if self.size is None else scaled(images, self.size)

    def statistics(self) -> tuple[list[float], list[float]]:
        self._require_images()
        at_once = READ_AT_ONCE if self.size else len(self)
        parts = (slice(i, i + at_once) for i in range(0, len(self), at_once))
        return mean_and_deviation(map(self._pixels, parts))


def sizes_in_order(n: int, batch_size: int) -> list[int]:
    """Of `n` images in batches, the last of what is left."""
    return [min(batch_size, n - start) for start in range(0, n, batch_size)]


def sizes_of_epoch(n: int, batch_size: int) -> list[int]:
    """Of `n` images in batches, where none of an epoch has to be of one image.

    What would be joins the batch before, where there is one and batches are of more than one.
    """
    sizes = sizes_in_order(n, batch_size)
    if batch_size > 1 and n > 1 and sizes[-1] == 1:
        sizes[-2:] = [batch_size + 1]
    return sizes


def equal_sizes(n: int, batch_size: int) -> list[int]:
    """Of `n` images in batches as equal as can be.

    They are of `batch_size` at most, but of two at least where there are two.
    """
    count = max(1, min(-(-n // batch_size), n // 2))
    return [n // count + (i < n % count) for i in range(count)]


def order_and_draws(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The order of an epoch of `n` images (n,), and uniform numbers (n, DRAWS) for each in turn."""
    order = torch.randperm(n, generator=generator)
    return order, torch.rand(n, DRAWS, generator=generator)


def are_grey(images: Tensor) -> bool:
    """Whether all channels of images (N, C, H, W) are the same."""
    return bool((images[:, :1] == images).all())


def mean_and_deviation(batches: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in [0, 1], over all pixels, in float64.

    Parameters
    ----------
    batches : of uint8 images (N, C, H, W).
    """
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


def laid_out(images: Tensor) -> Tensor:
    """Channels last, the layout in which convolutions are fastest on CPU and GPU."""
    return images.contiguous(memory_format=torch.channels_last)
