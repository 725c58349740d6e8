"""What is prepared of a representation, once, for all measures that need it.

A form knows what becomes of it when its images come in another order, and when some of them are
left out; so permutation nulls and jackknife intervals are the same few lines for every measure.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from robust_stitching.basics.modes import without_tf32
from robust_stitching.plans import ComparePlan
from robust_stitching.plans.parts import POSITIONS
from robust_stitching.similarity.blocks import centred
from robust_stitching.similarity.gram import GramSums, MinibatchSums
from robust_stitching.similarity.moments import CUTOFF, ROUNDING

MAPS, CHANNELS, OUTPUTS = "maps", "channels", "outputs"
"""What a form is made of: whole feature maps, channels of layers, or the networks' answers."""

VARIANCE = 0.99
"""SVCCA keeps the leading directions that hold this share of the variance (Raghu et al., 2017)."""

PART = 1000
"""How many images of a Gram matrix are looked at together."""

POOLED, ALL = POSITIONS


@dataclass(frozen=True)
class Settings:
    """What changes the value of some measures.

    Attributes
    ----------
    batch_size : of minibatch CKA.
    k : how many neighbours are looked at.
    positions : what measures of channels take for rows, see `rows.Rows`.
    seed : of the order of images in batches, and of the choice of positions.
    attributes : whether each answer is one of its own (yes above 0), rather than all together one
        choice of a class.
    """

    batch_size: int = ComparePlan.batch_size
    k: int = ComparePlan.neighbours
    positions: str = ComparePlan.positions
    seed: int = ComparePlan.seed
    attributes: bool = False


class Form(ABC):
    """One representation of some images, in the form that a measure needs; `len` counts the images.

    Class attributes
    ----------------
    of : `MAPS`, `CHANNELS` or `OUTPUTS`.
    preparing : what is being done while forms are prepared, for a progress bar.
    undefined : where a representation has no such form, in words.
    """

    of: ClassVar[str]
    preparing: ClassVar[str] = "preparing"
    undefined: ClassVar[str] = ""

    @classmethod
    @abstractmethod
    def prepared(cls, seen: Any, settings: Settings) -> "Form":
        """The form of what was seen of the images: activations (n, …) of `MAPS`, `Channels`, or
        logits (n, answers)."""

    @property
    def defined(self) -> bool:
        """Whether there is anything to compare, see `undefined`."""
        return True

    @abstractmethod
    def __len__(self) -> int: ...

    def permuted(self, order: Sequence[int] | Tensor) -> "Form":
        """The form of the same images in another order: image i is the one that was order[i]."""
        return self.only(torch.as_tensor(order, device="cpu"))

    def lasting(self) -> "Form":
        """The form itself, which from now on keeps what it is asked for again and again."""
        return self

    @abstractmethod
    def only(self, images: Tensor) -> "Form":
        """The form of those images alone, in that order."""

    def without(self, block: slice | Sequence[int] | Tensor) -> "Form":
        """The form of all images but those of `block`."""
        kept = torch.ones(len(self), dtype=torch.bool)
        kept[block if isinstance(block, slice) else torch.as_tensor(block, device="cpu")] = False
        return self.only(kept.nonzero()[:, 0])


@dataclass(frozen=True)
class Gram(Form):
    """The Gram matrix of all images, (n, n), of which any images in any order are looked at without
    a copy of it.

    Features are shifted by what a stream begins with: a measure of it may depend on the distances
    of the images from each other, not on where the origin is.
    """

    of: ClassVar[str] = MAPS
    Sums: ClassVar[type] = GramSums

    matrix: Tensor
    images: Tensor

    @classmethod
    def prepared(cls, seen: Tensor, settings: Settings) -> "Gram":
        rows = centred(seen)
        with without_tf32():
            return cls.around(rows @ rows.T, settings)

    @classmethod
    def around(cls, matrix: Tensor, settings: Settings) -> "Gram":
        """The form whose Gram matrix is there already."""
        return cls(matrix, torch.arange(len(matrix), device=matrix.device))

    def __len__(self) -> int:
        return len(self.images)

    def only(self, images: Tensor) -> "Gram":
        return replace(self, images=self.images[images.to(self.images.device)])

    def part(self, rows: slice, columns: slice) -> Tensor:
        """The Gram matrix of some of the images with some others."""
        return self.matrix[self.images[rows, None], self.images[columns]]

    def sums(self, other: "Gram") -> GramSums:
        """The sums over both matrices, from which HSIC follows."""
        sums = GramSums(len(self), 2, self.matrix.device)
        parts = list(_parts(len(self)))
        for i, rows in enumerate(parts):
            for columns in parts[i:]:
                grams = torch.stack([form.part(rows, columns) for form in (self, other)])
                sums.add(rows, columns, grams)
        return sums


@dataclass(frozen=True)
class MinibatchGram(Gram):
    """The same, looked at in batches of the images as they stand."""

    Sums: ClassVar[type] = MinibatchSums

    batch_size: int

    @classmethod
    def around(cls, matrix: Tensor, settings: Settings) -> "MinibatchGram":
        return cls(matrix, torch.arange(len(matrix), device=matrix.device), settings.batch_size)

    def sums(self, other: Gram) -> MinibatchSums:
        sums = MinibatchSums(2)
        for batch in _parts(len(self), self.batch_size):
            sums.add(torch.stack([form.part(batch, batch) for form in (self, other)]))
        return sums


def _parts(n: int, size: int = PART) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


@dataclass(frozen=True)
class Channels(Form):
    """Rows (n, p), one for each image or `per_image` for each, a channel in each column. All that
    follows from them is float64."""

    of: ClassVar[str] = CHANNELS

    rows: Tensor
    per_image: int = 1

    @classmethod
    def prepared(cls, seen: "Channels", settings: Settings) -> "Channels":
        return seen

    def __len__(self) -> int:
        return len(self.rows) // self.per_image

    def only(self, images: Tensor) -> "Channels":
        return replace(self, rows=self.rows[self.rows_of(images).to(self.rows.device)])

    def permuted(self, order: Sequence[int] | Tensor) -> "Channels":
        """What is known of the rows by then holds in any order, and is not computed again."""
        other = super().permuted(order)
        known = {name: value for name, value in vars(self).items() if name not in vars(other)}
        rows = self.rows_of(torch.as_tensor(order, device="cpu")).to(self.rows.device)
        vars(other).update(known, _centred=self._centred[rows])
        return other

    def lasting(self) -> "Channels":
        self._centred  # noqa: B018
        return self

    def rows_of(self, images: Tensor) -> Tensor:
        """The numbers of the rows of some images."""
        return rows_of(images, self.per_image)

    @property
    def enough(self) -> bool:
        """Whether there are more rows than channels: else CCA is 1 whatever the channels hold."""
        return self.enough_of(len(self))

    def enough_of(self, images: int) -> bool:
        """The same where there are so many images."""
        return images * self.per_image > self.rows.shape[1]

    @cached_property
    def alive(self) -> Tensor:
        """Which channels vary by more than rounding."""
        rows = self.rows.double()
        return rows.std(dim=0, correction=0) > ROUNDING * rows.mean(dim=0).abs()

    @cached_property
    def norm(self) -> Tensor:
        """Frobenius norm of the centred rows."""
        return self.centred().norm()

    def centred(self) -> Tensor:
        """The rows without their mean, dead channels exactly 0."""
        return vars(self)["_centred"] if "_centred" in vars(self) else self._centre()

    def _centre(self) -> Tensor:
        rows = self.rows.double()
        return (rows - rows.mean(dim=0)) * self.alive

    @cached_property
    def _centred(self) -> Tensor:
        """Kept only where rows are permuted, for it takes twice the memory of the rows."""
        return self._centre()

    @cached_property
    def whitening(self) -> Tensor:
        """W (p, rank) for which the columns of `centred` @ W are an orthonormal basis of what the
        channels span. The rank is that of the correlation matrix, as in `Moments.least_squares`."""
        return _whitening(self.centred())

    @cached_property
    def span(self) -> Tensor:
        """The same for the rows as they are, not centred."""
        return _whitening(self.rows.double())

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (p,), the smallest first, and eigenvectors (p, p) of the products of the
        centred channels."""
        rows = self.centred()
        return torch.linalg.eigh(rows.T @ rows)

    @cached_property
    def leading(self) -> Tensor:
        """`whitening` for the fewest principal directions with 99% of the variance."""
        variances, directions = (values.flip(-1) for values in self.spectrum)
        before = variances.cumsum(0) - variances
        kept = before < VARIANCE * variances.sum()
        return directions[:, kept] / variances[kept].sqrt()


def of_length_1(values: Tensor, dim: int) -> Tensor:
    """Vectors along a dimension brought to length 1, whatever their size; those of zeros stay."""
    lengths = values.norm(dim=dim, keepdim=True)
    return torch.where(lengths > 0, values / lengths, 0.0)


def rows_of(images: Tensor, per_image: int) -> Tensor:
    """The numbers of the rows of some images, of which each has so many."""
    return (images[:, None] * per_image + torch.arange(per_image)).flatten()


def _whitening(rows: Tensor) -> Tensor:
    scale = rows.norm(dim=0)
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    variances, directions = torch.linalg.eigh((rows * inverse).T @ (rows * inverse))
    kept = variances > CUTOFF * variances[-1].clamp(min=torch.finfo(torch.float64).tiny)
    return inverse[:, None] * directions[:, kept] / variances[kept].sqrt()


@dataclass(frozen=True)
class Logits(Form):
    """The answers of a network, (n, classes), or (n, attributes), each of which is then one."""

    of: ClassVar[str] = OUTPUTS

    values: Tensor
    attributes: bool = False

    @classmethod
    def prepared(cls, seen: Tensor, settings: Settings) -> "Logits":
        return cls(seen, settings.attributes)

    def __len__(self) -> int:
        return len(self.values)

    def only(self, images: Tensor) -> "Logits":
        return replace(self, values=self.values[images.to(self.values.device)])
