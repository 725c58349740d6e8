"""More of what two representations say of the neighbours of each image: Jaccard, ranks, cosines."""

import numpy as np
import torch

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.forms import POOLED, Settings
from robust_stitching.similarity.measure import ROTATIONS, SCALE, SHIFT, Measure
from robust_stitching.similarity.measures.neighbours import (
    EuclideanNeighbours,
    Neighbours,
    too_few,
)

PART = 10_000
"""How many cosines are taken together."""


def _common(x: Neighbours, y: Neighbours) -> tuple[np.ndarray, ...]:
    """Of every neighbour that an image may have on both sides, in one dimension each: the image,
    how surely it has it on both, and its rank on either. Where a side tells nothing, all others are
    neighbours as surely, and of the middle rank."""
    n = len(x.undirected)
    chance, middle = x.k / (n - 1), (x.k + 1) / 2
    both = x.shares.multiply(y.shares).tocoo()
    ranks = (np.asarray(side.ranks[both.row, both.col]).ravel() for side in (x, y))
    parts = [(both.row, both.data, *ranks)]
    for blind, other in ((x, y), (y, x)):
        rows = np.flatnonzero(blind.undirected & ~other.undirected)
        found = other.shares[rows].tocoo()
        rank = other.ranks[rows].tocoo().data
        parts.append((rows[found.row], chance * found.data, rank, np.full(len(rank), middle)))
    rows = np.flatnonzero(x.undirected & y.undirected)
    alone = (np.full(len(rows), value) for value in (x.k * chance, middle, middle))
    parts.append((rows, *alone))
    return tuple(np.concatenate(values) for values in zip(*parts, strict=True))


def _jaccard(x: Neighbours, y: Neighbours) -> float:
    if not (x.defined and y.defined):
        return float("nan")
    image, sure, *_ = _common(x, y)
    shared = np.bincount(image, sure, minlength=len(x.undirected))
    return float((shared / (2 * x.k - shared)).mean())


def _rank_similarity(x: Neighbours, y: Neighbours) -> float:
    from scipy.special import digamma  # a stitch, which never gets here, goes without scipy

    if not (x.defined and y.defined):
        return float("nan")
    n = len(x.undirected)
    image, sure, first, second = _common(x, y)
    near = 2 / ((1 + np.abs(first - second)) * (first + second))
    found = np.bincount(image, sure * near, minlength=n)
    shared = np.bincount(image, sure, minlength=n)
    most = digamma(shared + 1) + np.euler_gamma  # 1 + 1/2 + … + 1/shared, and between whole ones
    return float(np.divide(found, most, out=np.zeros(n), where=shared > 0).clip(max=1).mean())


def _second_order(x: Neighbours, y: Neighbours) -> float:
    if not (x.defined and y.defined):
        return float("nan")
    n = len(x.undirected)
    either = (x.shares + y.shares).tocoo()
    u, v = (_cosines(side, either.row, either.col) for side in (x, y))
    products = [np.bincount(either.row, pair, minlength=n) for pair in (u * v, u * u, v * v)]
    return float(_cosine(*products).mean())


def _cosines(side: Neighbours, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The cosines of some rows with some others, one of each."""
    directions = side.directions
    places = torch.from_numpy(np.stack([rows, columns])).long().to(directions.device)
    parts = places.split(PART, dim=1)
    cosines = [(directions[i] * directions[j]).sum(dim=1) for i, j in parts]
    return torch.cat(cosines).cpu().numpy()


def _cosine(uv: np.ndarray, uu: np.ndarray, vv: np.ndarray) -> np.ndarray:
    """Cosines from products; of a vector of zeros 1 with another one, 0 with all others."""
    both = (uu == 0) & (vv == 0)
    length = np.sqrt(uu * vv)
    return np.divide(uv, length, out=both.astype(float), where=length > 0)


def _measure(name: str, title: str, estimator: str, euclidean: bool, **other) -> Measure:
    by = "euclidean distance" if euclidean else "cosine similarity"
    return Measure(
        name=f"euclidean-{name}" if euclidean else name,
        title=f"{title}, euclidean" if euclidean else title,
        estimator=f"{estimator} of the k nearest neighbours (k = {{k}}, {by})",
        high=1,
        same=1,
        cost="one pass, rows² × channels products",
        form=EuclideanNeighbours if euclidean else Neighbours,
        limits=too_few,
        ignores=ROTATIONS | {SCALE, SHIFT} if euclidean else ROTATIONS | {SCALE},
        **other,
    )


_JACCARD = {
    "name": "jaccard-knn",
    "title": "Jaccard index of neighbours",
    "estimator": "Jaccard index",
    "low": 0,
    "value": _jaccard,
}
_RANKS = {
    "name": "rank-similarity",
    "title": "rank similarity",
    "estimator": "rank similarity",
    "low": 0,
    "value": _rank_similarity,
}
_SECOND_ORDER = {
    "name": "second-order-cosine",
    "title": "second-order cosine",
    "estimator": "cosine of the two sides' cosine similarities to the neighbours on either side, "
    "mean over images,",
    "low": -1,
    "value": _second_order,
}
MEASURES = (
    _measure(**_JACCARD, euclidean=False),
    _measure(**_JACCARD, euclidean=True),
    _measure(**_RANKS, euclidean=False),
    _measure(**_RANKS, euclidean=True),
    _measure(**_SECOND_ORDER, euclidean=False),
)
JACCARD_KNN, EUCLIDEAN_JACCARD_KNN, RANK, EUCLIDEAN_RANK, SECOND_ORDER = MEASURES


def jaccard_knn(x: Array, y: Array, *, k: int = Settings.k, positions: str = POOLED) -> float:
    """The Jaccard index |N ∩ N′| / |N ∪ N′| of the k nearest neighbours N, N′ of an image in both
    representations, mean over images, in [0, 1] (Schumacher et al., 2021).

    By cosine similarity, the image itself left out by its number. With ties, |N ∩ N′| is its
    expectation over how they are broken. n rows take n² · d products, as for the others here.

    Parameters, result and errors are those of `mutual_knn`.
    """
    return between(JACCARD_KNN, x, y, k=k, positions=positions)


def euclidean_jaccard_knn(
    x: Array, y: Array, *, k: int = Settings.k, positions: str = POOLED
) -> float:
    """The same by euclidean distance.

    Parameters and errors are those of `mutual_knn`; NaN where a side does not vary.
    """
    return between(EUCLIDEAN_JACCARD_KNN, x, y, k=k, positions=positions)


def rank_similarity(x: Array, y: Array, *, k: int = Settings.k, positions: str = POOLED) -> float:
    """Do common neighbours stand at the same places? Mean over images, in [0, 1].

    Of an image with m neighbours common to both sides, at the places r and r′ from 1 to k, it is
    Σ 2/((1 + |r − r′|)(r + r′)) / (1 + 1/2 + … + 1/m), 0 for m = 0 (Wang et al., 2020). Which
    neighbours are common is what `jaccard_knn` tells: where few are, it says little. With ties,
    neighbours count as surely as they are some, at the mean of the places that tied ones take, and
    the sum 1 + … + 1/m is taken between whole m.

    Parameters, result and errors are those of `mutual_knn`.
    """
    return between(RANK, x, y, k=k, positions=positions)


def euclidean_rank_similarity(
    x: Array, y: Array, *, k: int = Settings.k, positions: str = POOLED
) -> float:
    """The same by euclidean distance.

    Parameters and errors are those of `mutual_knn`; NaN where a side does not vary.
    """
    return between(EUCLIDEAN_RANK, x, y, k=k, positions=positions)


def second_order_cosine(
    x: Array, y: Array, *, k: int = Settings.k, positions: str = POOLED
) -> float:
    """Has an image the same cosine similarities to its neighbours? Mean over images, in [−1, 1].

    The cosine of the vectors (cos(x_i, x_j))_j and (cos(y_i, y_j))_j over all j that are one of the
    k nearest neighbours of i on either side (Hamilton, Leskovec and Jurafsky, 2016). All tied ones
    are such. An image of zeros has cosines of 0: it counts 1 where the other side has the same, and
    0 where not.

    Parameters, result and errors are those of `mutual_knn`.
    """
    return between(SECOND_ORDER, x, y, k=k, positions=positions)
