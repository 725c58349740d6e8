"""All distances between the rows of a representation, prepared once for what compares them."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robust_stitching.similarity.forms import (
    CHANNELS,
    Channels,
    Form,
    Settings,
    of_length_1,
    rows_of,
)

PRECISION = 2.0**40
"""Correlations closer than 1/PRECISION are equal: those of copies of an image are, but for
rounding, and ranks should see it."""

NEGLIGIBLE = 1e-9
"""Distances that vary by less than this share of them are all the same."""


SCORES = "scores", "rank_scores"


@dataclass(frozen=True)
class Distances(Form):
    """The n(n − 1)/2 distances between n rows.

    Attributes
    ----------
    channels : the rows.
    upper : the upper triangle of the matrix of distances row by row, without the diagonal, float64
        of shape (n(n − 1)/2,): 16 MB for 2,000 rows, 400 MB for 10,000.
    """

    of: ClassVar[str] = CHANNELS
    preparing: ClassVar[str] = "measuring distances"

    channels: Channels
    upper: Tensor

    @classmethod
    def prepared(cls, seen: Channels, settings: Settings) -> "Distances":
        return cls(seen, cls.between(seen))

    @staticmethod
    @abstractmethod
    def between(channels: Channels) -> Tensor:
        """`upper` of these rows."""

    @property
    def n(self) -> int:
        """How many rows there are."""
        return len(self.channels.rows)

    def __len__(self) -> int:
        return len(self.channels)

    def only(self, images: Tensor) -> "Distances":
        kept = self.channels.rows_of(images).to(self.upper.device)
        matrix = self.square(self.upper)
        first, second = torch.triu_indices(len(kept), len(kept), 1, device=self.upper.device)
        upper = matrix[kept[first], kept[second]]
        return replace(self, channels=self.channels.only(images), upper=upper)

    def permuted(self, order: Sequence[int] | Tensor) -> "Distances":
        """The distances are the same ones between other numbers, and so are their scores."""
        order = torch.as_tensor(order, device="cpu")
        places = _places(order, self.channels.per_image).to(self.upper.device)
        found = replace(self, channels=self.channels.permuted(order), upper=self.upper[places])
        known = {name: vars(self)[name][places] for name in SCORES if name in vars(self)}
        vars(found).update(known)
        return found

    def square(self, upper: Tensor) -> Tensor:
        """A number for each pair of rows, as they stand in `upper`, as a symmetric matrix (n, n)
        with zeros on the diagonal."""
        matrix = upper.new_zeros(self.n, self.n)
        first, second = torch.triu_indices(self.n, self.n, 1, device=upper.device)
        matrix[first, second] = matrix[second, first] = upper
        return matrix

    @cached_property
    def scores(self) -> Tensor:
        """`upper` without its mean, of length 1; NaN where all distances are the same."""
        return _standardised(self.upper)

    @cached_property
    def rank_scores(self) -> Tensor:
        """The same of the ranks of the distances, equal ones sharing the mean of their ranks."""
        from scipy.stats import rankdata  # a stitch, which never gets here, goes without scipy

        return _standardised(torch.from_numpy(rankdata(self.upper.cpu().numpy())))

    @cached_property
    def sums(self) -> Tensor:
        """The sum of the distances of each row to all others, (n,)."""
        first, second = torch.triu_indices(self.n, self.n, 1, device=self.upper.device)
        sums = self.upper.new_zeros(self.n)
        return sums.index_add_(0, first, self.upper).index_add_(0, second, self.upper)


@lru_cache(maxsize=1)  # all layers are permuted alike
def _places(order: Tensor, per_image: int) -> Tensor:
    """Where the distances between rows stand in `Distances.upper` that come from images in another
    order."""
    rows = rows_of(order, per_image)
    one, other = (rows[side] for side in torch.triu_indices(len(rows), len(rows), 1))
    first, second = torch.minimum(one, other), torch.maximum(one, other)
    return first * (2 * len(rows) - first - 1) // 2 + second - first - 1


def _standardised(values: Tensor) -> Tensor:
    centred = values - values.mean()
    varies = centred.norm() > NEGLIGIBLE * values.norm()
    return centred / centred.norm() if varies else torch.full_like(values, torch.nan)


class EuclideanDistances(Distances):
    """‖x_i − x_j‖; exactly 0 for equal rows."""

    @staticmethod
    def between(channels: Channels) -> Tensor:
        return F.pdist(channels.centred())

    @cached_property
    def uniformity(self) -> float:
        """log of the mean of e^(−2d²) over all pairs of rows, each with itself, too."""
        total = self.n + 2 * (-2 * self.upper.square()).exp().sum()
        return float((total / self.n**2).log())


class SphereDistances(EuclideanDistances):
    """The same between rows brought to length 1; rows of zeros stay there."""

    @staticmethod
    def between(channels: Channels) -> Tensor:
        return F.pdist(of_length_1(channels.rows.double(), dim=1))


class CorrelationDistances(Distances):
    """1 − r, with r the correlation of two rows over their channels. A row that is the same in all
    channels, as a row of zeros is, correlates 0 with every row."""

    undefined: ClassVar[str] = (
        "all correlations of images over channels are the same, as with a single channel"
    )

    @property
    def defined(self) -> bool:
        return not bool(self.scores.isnan().any())

    @staticmethod
    def between(channels: Channels) -> Tensor:
        profiles = Channels(channels.rows.T)  # a row that does not vary leaves no rounding
        rows = of_length_1(profiles.centred().T, dim=1)
        alike = (rows @ rows.T).mul_(PRECISION).round_().div_(PRECISION)
        first, second = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
        return 1 - alike[first, second].clamp(-1, 1)
