"""Distance correlation: are the distances between images dependent on each other?"""

import torch
from torch import Tensor

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.distances import NEGLIGIBLE, EuclideanDistances
from robust_stitching.similarity.forms import POOLED
from robust_stitching.similarity.gram import GramSums
from robust_stitching.similarity.measure import (
    ROTATIONS,
    SCALE,
    SHIFT,
    Measure,
    Stacked,
    at_least,
)
from robust_stitching.similarity.stacks import doubly_centred

LEAST_IMAGES = 4
"""Below this the bias-corrected estimate does not exist."""


def _covariance(x: EuclideanDistances, y: EuclideanDistances) -> Tensor:
    """dCov², the mean product of the distances without the means of their rows and columns."""
    n = x.n
    products = 2 * (x.upper @ y.upper) / n**2
    means = x.sums / n, y.sums / n
    return products - 2 * (means[0] @ means[1]) / n + means[0].mean() * means[1].mean()


def _unbiased_covariance(x: EuclideanDistances, y: EuclideanDistances) -> Tensor:
    """The same with U-centred distances, Σ_{i≠j} A_ij B_ij / (n(n − 3))."""
    n = x.n
    products = 2 * (x.upper @ y.upper) - 2 * (x.sums @ y.sums) / (n - 2)
    products += x.sums.sum() * y.sums.sum() / ((n - 1) * (n - 2))
    return products / (n * (n - 3))


def _centred(x: EuclideanDistances) -> Tensor:
    """The distances without the means of their rows and columns, of norm 1; all NaN where a side
    does not vary."""
    return _of_norm_1(doubly_centred(x.square(x.upper)), _covariance(x, x) > 0)


def _u_centred(x: EuclideanDistances) -> Tensor:
    """The same U-centred, with zeros on the diagonal."""
    n, sums = x.n, x.sums / (x.n - 2)
    matrix = x.square(x.upper) - sums[:, None] - sums + x.sums.sum() / ((n - 1) * (n - 2))
    varies = _unbiased_covariance(x, x) > NEGLIGIBLE**2 * x.upper.square().mean()
    return _of_norm_1(matrix.fill_diagonal_(0), varies)


def _of_norm_1(matrix: Tensor, varies: Tensor) -> Tensor:
    return torch.where(varies, matrix / matrix.norm(), torch.nan).float()


def _from_centred(sums: GramSums) -> Tensor:
    return sums.products.clamp(0, 1).sqrt()


def _from_u_centred(sums: GramSums) -> Tensor:
    return sums.products.clamp(-1, 1)


def _distance_correlation(x: EuclideanDistances, y: EuclideanDistances) -> float:
    own, other = _covariance(x, x), _covariance(y, y)
    if not (own > 0 and other > 0):
        return float("nan")
    return float((_covariance(x, y) / (own * other).sqrt()).clamp(0, 1).sqrt())


def _unbiased(x: EuclideanDistances, y: EuclideanDistances) -> float:
    own, other = _unbiased_covariance(x, x), _unbiased_covariance(y, y)
    rounding = (NEGLIGIBLE**2 * side.upper.square().mean() for side in (x, y))
    if not (own > next(rounding) and other > next(rounding)):
        return float("nan")
    return float((_unbiased_covariance(x, y) / (own * other).sqrt()).clamp(-1, 1))


_ABOUT = {
    "high": 1,
    "same": 1,
    "cost": "one pass, rows² × channels products; keeps rows²/2 numbers of each layer",
    "form": EuclideanDistances,
    "ignores": ROTATIONS | {SCALE, SHIFT},
}
MEASURES = (
    Measure(
        name="distance-correlation",
        title="distance correlation",
        estimator="distance correlation (V-statistic, its root taken)",
        low=0,
        value=_distance_correlation,
        stacked=Stacked(_centred, _from_centred),
        **_ABOUT,
    ),
    Measure(
        name="unbiased-distance-correlation",
        title="unbiased distance correlation",
        estimator="bias-corrected distance correlation (on the squared scale, no root taken)",
        low=-1,
        value=_unbiased,
        stacked=Stacked(_u_centred, _from_u_centred),
        limits=at_least(LEAST_IMAGES),
        **_ABOUT,
    ),
)
DISTANCE_CORRELATION, UNBIASED = MEASURES


def distance_correlation(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """Distance correlation of two representations of the same images, in [0, 1].

    dCor = √(dCov²(X, Y) / √(dCov²(X, X) dCov²(Y, Y))), where dCov² is the mean of A_ij B_ij over
    all pairs of images, diagonal included, and A and B are the matrices of euclidean distances
    without the means of their rows and columns (Székely, Rizzo and Bakirov, 2007, definitions 4 and
    5). It is biased: with few images, or many channels, independent sides are far from 0. Distances
    of n rows take n² · d products and n²/2 numbers.

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), two images or more.
    positions : of maps, "pooled" takes the mean over positions as the row of an image, "all" has a
        row for each position, see `rows.Rows`.

    Returns
    -------
    NaN where a side does not vary.

    Raises
    ------
    ValueError : for other shapes, other numbers of images, and values that are not finite.
    """
    return between(DISTANCE_CORRELATION, x, y, positions=positions)


def unbiased_distance_correlation(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """The square of distance correlation without its bias: 0 on average for independent sides, so
    it may be negative, in [−1, 1].

    As `distance_correlation`, without the outer root, and with A and B U-centred: the sums of rows
    divided by n − 2, the total by (n − 1)(n − 2), no diagonal (Székely and Rizzo, 2013). Four
    images or more, and NaN where all distances of a side are the same, too; parameters and errors
    are those of `distance_correlation`.
    """
    return between(UNBIASED, x, y, positions=positions)
