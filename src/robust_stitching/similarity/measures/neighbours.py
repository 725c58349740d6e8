"""Do two representations find the same images alike? Mutual k-nearest neighbours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.forms import (
    CHANNELS,
    POOLED,
    Channels,
    Form,
    Settings,
    of_length_1,
)
from robust_stitching.similarity.measure import ROTATIONS, SCALE, SHIFT, Measure

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

BLOCK = 1000
PRECISION = 2.0**40
"""Cosines, and distances as a share of the norm of all rows, closer than 1/PRECISION are a tie:
copies of an image are, but for rounding."""


@dataclass(frozen=True)
class Neighbours(Form):
    """The k nearest neighbours of each of n rows by cosine similarity, itself left out.

    Where more rows are equally near than there is room for, each of them is taken with the same
    probability, so that what two representations share owes nothing to the order of the images.

    Attributes
    ----------
    channels : the rows.
    k : how many neighbours.
    shares : how surely row j is a neighbour of i, sparse of shape (n, n); rows add up to k, those
        of `undirected` rows are empty.
    undirected : the rows that point nowhere, as a row of zeros does: all others are equally near.
        All of them where all rows lie along one line.
    ranks : the place of neighbour j among those of i, from 1 on, sparse where `shares` is; equally
        near ones have the mean of the places that they take.
    """

    of: ClassVar[str] = CHANNELS
    preparing: ClassVar[str] = "finding neighbours"
    undefined: ClassVar[str] = (
        "all cosines are ±1 or 0, so that nothing tells near images from far ones, as with a "
        "single channel"
    )

    channels: Channels
    k: int
    shares: "csr_matrix"
    undirected: np.ndarray
    ranks: "csr_matrix"

    @classmethod
    def prepared(cls, seen: Channels, settings: Settings) -> "Neighbours":
        return cls.among(seen, settings.k)

    @classmethod
    def among(cls, channels: Channels, k: int) -> "Neighbours":
        """The neighbours of these rows."""
        return cls(channels, k, *nearest(channels.rows, k))

    @property
    def defined(self) -> bool:
        return not self.undirected.all()

    def __len__(self) -> int:
        return len(self.channels)

    def permuted(self, order: Sequence[int] | Tensor) -> "Neighbours":
        """The neighbours are the same ones and only change their numbers."""
        order = torch.as_tensor(order, device="cpu")
        rows = self.channels.rows_of(order).numpy()
        return replace(
            self,
            channels=self.channels.permuted(order),
            shares=self.shares[rows][:, rows],
            undirected=self.undirected[rows],
            ranks=self.ranks[rows][:, rows],
        )

    def only(self, images: Tensor) -> "Neighbours":
        """Others take the places of neighbours that are left out."""
        return self.among(self.channels.only(images), self.k)

    @cached_property
    def directions(self) -> Tensor:
        """The rows, each of length 1, but rows of zeros."""
        return of_length_1(self.channels.rows.double(), dim=1)


class EuclideanNeighbours(Neighbours):
    """The same by euclidean distance: `undirected` are all rows where they are all the same, else
    none."""

    undefined: ClassVar[str] = "all images are the same"

    @classmethod
    def among(cls, channels: Channels, k: int) -> "EuclideanNeighbours":
        rows, n = channels.centred() / channels.norm, len(channels.rows)
        if not channels.norm > 0:
            return cls(channels, k, *_nobody(n, k))

        def alike(start: int) -> Tensor:
            exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}  # 0 for equal rows
            return -torch.cdist(rows[start : start + BLOCK], rows, **exact)

        undirected = torch.zeros(n, dtype=torch.bool, device=rows.device)
        return cls(channels, k, *_found(alike, k, undirected))


Found = tuple["csr_matrix", np.ndarray, "csr_matrix"]


def nearest(rows: Tensor, k: int) -> Found:
    """`Neighbours.shares`, `undirected` and `ranks` of rows (n, p), n > k, by cosine similarity."""
    if on_a_line(rows):
        return _nobody(len(rows), k)
    undirected = (rows == 0).all(dim=1)
    rows = of_length_1(rows.double(), dim=1)
    return _found(lambda start: rows[start : start + BLOCK] @ rows.T, k, undirected)


def _nobody(n: int, k: int) -> Found:
    from scipy.sparse import csr_matrix  # a stitch, which never gets here, goes without scipy

    _require_enough(n, k)
    return csr_matrix((n, n)), np.ones(n, dtype=bool), csr_matrix((n, n))


def _found(block: Callable[[int], Tensor], k: int, undirected: Tensor) -> Found:
    """The same from `block(start)`, how alike `BLOCK` rows from `start` on are to all of them."""
    from scipy.sparse import csr_matrix

    n = len(undirected)
    _require_enough(n, k)
    places, shares, ranks = [], [], []
    for start in range(0, n, BLOCK):
        alike = block(start).mul_(PRECISION).round_()
        alike.diagonal(offset=start).fill_(-torch.inf)
        best = alike.topk(k, dim=1).values
        nearer, tied = alike > best[:, -1:], alike == best[:, -1:]
        room = k - nearer.sum(dim=1, keepdim=True)
        share = nearer.double() + tied * (room / tied.sum(dim=1, keepdim=True))
        share[undirected[start : start + BLOCK]] = 0
        entries = share.nonzero()
        row, column = entries.T
        own, others = alike[row, column, None], best[row]
        rank = (others > own).sum(dim=1) + ((others == own).sum(dim=1) + 1) / 2
        shares.append(share[row, column].cpu())
        ranks.append(rank.double().cpu())
        places.append((entries + torch.tensor([start, 0], device=entries.device)).cpu())
    rows_and_columns = torch.cat(places).T.numpy()
    sparse = (
        csr_matrix((torch.cat(values).numpy(), rows_and_columns), shape=(n, n))
        for values in (shares, ranks)
    )
    return next(sparse), undirected.cpu().numpy(), next(sparse)


def _require_enough(n: int, k: int) -> None:
    if not 0 < k < n:
        raise ValueError(f"each of {n} images has {n - 1} neighbours, not {k}")


def on_a_line(rows: Tensor) -> bool:
    """Whether all rows (n, p) lie along one line through 0, as those of a single channel do: then
    all cosines are 1, −1 or 0, and nothing tells near images from far ones."""
    rows = of_length_1(rows.double(), dim=1)
    directed = rows[(rows != 0).any(dim=1)]
    if not len(directed):
        return True
    return bool(((directed @ directed[0]).abs() > 1 - 1 / PRECISION).all())


def _mutual(x: Neighbours, y: Neighbours) -> float:
    if not (x.defined and y.defined):
        return float("nan")
    n = len(x.undirected)
    shared = float(x.shares.multiply(y.shares).sum())
    by_chance = int((x.undirected | y.undirected).sum()) * x.k**2 / (n - 1)
    return (shared + by_chance) / (n * x.k)


def too_few(n: int, settings: Settings) -> str | None:
    """Why n images are too few for the k neighbours of each, see `Measure.limits`."""
    k = settings.k
    if k < 1:
        return f"needs at least 1 neighbour to look at, not {k}"
    if n < k + 2:
        return (
            f"needs at least {k + 2} images for {k} neighbours, not {n}, or every image is a "
            "neighbour of every other"
        )
    return None


MEASURES = (
    Measure(
        name="mutual-knn",
        title="mutual kNN",
        estimator="mutual k-nearest neighbours (k = {k}, cosine similarity; expected over ties)",
        low=0,
        high=1,
        same=1,
        cost="one pass, rows² × channels products",
        form=Neighbours,
        value=_mutual,
        limits=too_few,
        default=True,
        ignores=ROTATIONS | {SCALE},
    ),
    Measure(
        name="euclidean-mutual-knn",
        title="mutual kNN, euclidean",
        estimator="mutual k-nearest neighbours (k = {k}, euclidean distance; expected over ties)",
        low=0,
        high=1,
        same=1,
        cost="one pass, rows² × channels products",
        form=EuclideanNeighbours,
        value=_mutual,
        limits=too_few,
        ignores=ROTATIONS | {SCALE, SHIFT},
    ),
)
MUTUAL_KNN, EUCLIDEAN_MUTUAL_KNN = MEASURES


def mutual_knn(x: Array, y: Array, *, k: int = Settings.k, positions: str = POOLED) -> float:
    """The mean share of its k nearest neighbours that an image has in both representations, [0, 1].

    By cosine similarity of the rows as they are, the image itself left out (Huh et al., 2024,
    appendix A, without their clipping of outliers); with ties its expectation over how they are
    broken in either. Unrelated representations share k/(n − 1) on average.

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), k + 2 images or more.
    k : how many neighbours.
    positions : of maps, "pooled" takes the mean over positions as the row of an image, "all" has a
        row for each position, see `rows.Rows`.

    Returns
    -------
    NaN where all rows of a side lie along one line through 0, so that nothing tells near from far.

    Raises
    ------
    ValueError : for fewer images, other shapes, other numbers of images, and values that are not
        finite.
    """
    return between(MUTUAL_KNN, x, y, k=k, positions=positions)


def euclidean_mutual_knn(
    x: Array, y: Array, *, k: int = Settings.k, positions: str = POOLED
) -> float:
    """The same by euclidean distance of the rows.

    Parameters and errors are those of `mutual_knn`; NaN where a side does not vary.
    """
    return between(EUCLIDEAN_MUTUAL_KNN, x, y, k=k, positions=positions)
