"""GULP: how differently two representations predict, at worst, by ridge regression.

With the covariances Σ of rows that are centred and scaled to a mean squared length of 1,

    d² = tr(A_X²) + tr(A_Y²) − 2 tr((Σ_X + λ)⁻¹ Σ_XY (Σ_Y + λ)⁻¹ Σ_YX),   A_X = (Σ_X + λ)⁻¹ Σ_X

(Boix-Adserà, Lawrence, Stepaniants and Rigollet, 2022, section 2). Without λ it is the squared
canonical correlations that are missing.
"""

from torch import Tensor

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.forms import POOLED, Channels
from robust_stitching.similarity.measure import LINEAR_MAPS, ROTATIONS, SCALE, SHIFT, Measure
from robust_stitching.similarity.measures.linear import canonical_correlations


def _without_ridge(x: Channels, y: Channels) -> float:
    correlations = canonical_correlations(x, y)
    if not len(correlations):
        return float("nan")
    ranks = x.whitening.shape[1] + y.whitening.shape[1]
    return float((ranks - 2 * correlations.square().sum()).clamp(min=0).sqrt())


def _with_ridge(x: Channels, y: Channels, ridge: float) -> float:
    if not (x.norm > 0 and y.norm > 0):
        return float("nan")
    (left, own), (right, other) = (_smoothed(side, ridge) for side in (x, y))
    shared = (left.T @ (x.centred().T @ y.centred()) @ right).square().sum()
    return float((own + other - 2 * shared).clamp(min=0).sqrt())


def _smoothed(side: Channels, ridge: float) -> tuple[Tensor, Tensor]:
    """(Σ + λ)^(−1/2) as a map of the rows as they are, up to a rotation, (p, p), and tr(A²)."""
    variances, directions = side.spectrum
    variances = variances.clamp(min=0) / side.norm**2
    smoothed = directions / (variances + ridge).sqrt() / side.norm
    return smoothed, (variances / (variances + ridge)).square().sum()


def _measure(name: str, ridge: str, **other) -> Measure:
    return Measure(
        name=name,
        title=f"GULP, λ = {ridge}",
        estimator=f"GULP distance (λ = {ridge}; both sides centred, mean squared length 1; 0 is "
        "alike)",
        low=0,
        high=float("inf"),
        same=0,
        cost="one pass",
        form=Channels,
        **other,
    )


MEASURES = (
    _measure(
        "gulp-0",
        "0",
        value=_without_ridge,
        more_rows_than=(1, 2),
        ignores=LINEAR_MAPS | {SHIFT},
    ),
    _measure(
        "gulp-1e-4",
        "0.0001",
        value=lambda x, y: _with_ridge(x, y, 1e-4),
        ignores=ROTATIONS | {SCALE, SHIFT},
    ),
    _measure(
        "gulp-1e-2",
        "0.01",
        value=lambda x, y: _with_ridge(x, y, 1e-2),
        ignores=ROTATIONS | {SCALE, SHIFT},
    ),
)
GULP_0, GULP_1E_4, GULP_1E_2 = MEASURES


def gulp_0(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """GULP without ridge, from 0 to √(rank X + rank Y): √(rank X + rank Y − 2 Σ ρ²) of the
    canonical correlations ρ. Its square is quoted, too.

    Dead and repeated channels span nothing. Values below 1e-5 are rounding.

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), with more rows than channels on both sides, and many
        more to mean anything: else it tells their ranks, whatever they hold.
    positions : of maps, "pooled" takes the mean over positions as the row of an image, "all" has a
        row for each position, see `rows.Rows`.

    Returns
    -------
    NaN where a side does not vary.

    Raises
    ------
    ValueError : for no more rows than channels, other shapes, other numbers of images, and values
        that are not finite.
    """
    return between(GULP_0, x, y, positions=positions)


def gulp_1e_4(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """GULP with the ridge λ = 0.0001, from 0 on, at most √ of the channels of both sides.

    The root of d² above, which is quoted, too; the mean squared length of a row is 1. The larger λ
    is, the more it looks at the leading principal directions. It takes the eigenvectors of a matrix
    of channels × channels for each layer. Values below 1e-5 are rounding.

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
    return between(GULP_1E_4, x, y, positions=positions)


def gulp_1e_2(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """GULP with the ridge λ = 0.01; all else is as of `gulp_1e_4`."""
    return between(GULP_1E_2, x, y, positions=positions)
