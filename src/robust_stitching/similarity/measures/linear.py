"""How alike two sets of channels are up to a linear map: Procrustes, CCA, SVCCA, regression.

Each channel of a representation is one column, see `forms.Channels`.
"""

from functools import lru_cache

import torch
from torch import Tensor

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.forms import POOLED, Channels
from robust_stitching.similarity.measure import LINEAR_MAPS, ROTATIONS, SCALE, SHIFT, Measure

_IGNORES = ROTATIONS | {SCALE, SHIFT}
_ONE_PASS = "one pass"


def _procrustes(x: Channels, y: Channels) -> float:
    scale = x.norm * y.norm
    nuclear = torch.linalg.svdvals(_products(x, y)).sum()
    return float((2 - 2 * nuclear / scale).clamp(min=0)) if scale > 0 else float("nan")


def canonical_correlations(x: Channels, y: Channels) -> Tensor:
    """The canonical correlations of the channels, as many as the smaller rank, in [0, 1]; none
    where a side is constant.

    Raises
    ------
    ValueError : where a side has no fewer channels than rows.
    """
    return _correlations(x, y, x.whitening, y.whitening)


def _cca(x: Channels, y: Channels) -> float:
    return float(canonical_correlations(x, y).mean())


def _squared_cca(x: Channels, y: Channels) -> float:
    return float(canonical_correlations(x, y).square().mean())


def _svcca(x: Channels, y: Channels) -> float:
    return float(_correlations(x, y, x.leading, y.leading).mean())


def explained(x: Channels, y: Channels) -> float:
    """The share of the variance of y that a linear map of x explains, NaN where it has none.

    Raises
    ------
    ValueError : where x has no fewer channels than rows.
    """
    require_enough(x)
    found = (x.centred() @ x.whitening).T @ y.centred()
    return float((found.norm() / y.norm).square()) if y.norm > 0 else float("nan")


def _correlations(x: Channels, y: Channels, left: Tensor, right: Tensor) -> Tensor:
    require_enough(x, y)
    return torch.linalg.svdvals(left.T @ _products(x, y) @ right).clamp(max=1)


@lru_cache(maxsize=1)  # several measures ask for those of a pair, one after the other
def _products(x: Channels, y: Channels) -> Tensor:
    """The products of the centred channels of x with those of y, (channels, channels)."""
    return x.centred().T @ y.centred()


def require_enough(*sides: Channels) -> None:
    """Refuse sides that have no fewer channels than rows.

    Raises
    ------
    ValueError : for these.
    """
    for side in sides:
        if not side.enough:
            n, p = side.rows.shape
            raise ValueError(f"{n} rows are too few for {p} channels; take more rows than channels")


MEASURES = (
    Measure(
        name="procrustes",
        title="Procrustes distance",
        estimator="orthogonal Procrustes distance (squared; both sides centred, Frobenius norm 1; "
        "0 is alike)",
        low=0,
        high=2,
        same=0,
        cost=_ONE_PASS,
        form=Channels,
        value=_procrustes,
        default=True,
        ignores=_IGNORES,
    ),
    Measure(
        name="cca",
        title="mean CCA",
        estimator="CCA (mean canonical correlation)",
        low=0,
        high=1,
        same=1,
        cost=_ONE_PASS,
        form=Channels,
        value=_cca,
        more_rows_than=(1, 2),
        ignores=LINEAR_MAPS | {SHIFT},
    ),
    Measure(
        name="squared-cca",
        title="mean squared CCA",
        estimator="CCA (mean squared canonical correlation)",
        low=0,
        high=1,
        same=1,
        cost=_ONE_PASS,
        form=Channels,
        value=_squared_cca,
        more_rows_than=(1, 2),
        ignores=LINEAR_MAPS | {SHIFT},
    ),
    Measure(
        name="svcca",
        title="SVCCA",
        estimator="SVCCA (mean canonical correlation of the principal directions with 99% of the "
        "variance)",
        low=0,
        high=1,
        same=1,
        cost=_ONE_PASS,
        form=Channels,
        value=_svcca,
        more_rows_than=(1, 2),
        default=True,
        ignores=_IGNORES,
    ),
    Measure(
        name="regression",
        title="linear regression R²",
        estimator="R² of linear regression of model 2's channels on model 1's",
        low=0,
        high=1,
        same=1,
        cost=_ONE_PASS,
        form=Channels,
        value=explained,
        more_rows_than=(1,),
        symmetric=False,
        ignores=_IGNORES,
    ),
)
PROCRUSTES, CCA, SQUARED_CCA, SVCCA, REGRESSION = MEASURES


def procrustes(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """Orthogonal Procrustes distance of two representations of the same images, squared, in [0, 2].

    ‖X‖² + ‖Y‖² − 2‖XᵀY‖∗ of centred X and Y with ‖X‖ = ‖Y‖ = 1 (Ding et al., 2021, section 2): the
    square of min ‖XQ − Y‖ over orthogonal Q, the narrower side filled up with zeros. 0 is equal up
    to rotation, shift and scale.

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), two images or more; a channel of maps is one variable.
    positions : of maps, "pooled" takes the mean over positions as the row of an image, "all" has a
        row for each position, see `rows.Rows`.

    Returns
    -------
    NaN where a side does not vary.

    Raises
    ------
    ValueError : for other shapes, other numbers of images, and values that are not finite.
    """
    return between(PROCRUSTES, x, y, positions=positions)


def cca(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """Mean canonical correlation of two representations of the same images, in [0, 1].

    Over as many directions as the smaller rank (Raghu et al., 2017); dead and repeated channels
    span nothing.

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), with more rows than channels on both sides, and many
        more to mean anything: else it is 1 whatever they hold.
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
    return between(CCA, x, y, positions=positions)


def squared_cca(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """Mean squared canonical correlation, R² of CCA (Kornblith et al., 2019), in [0, 1].

    Parameters, result and errors are those of `cca`.
    """
    return between(SQUARED_CCA, x, y, positions=positions)


def svcca(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """Mean canonical correlation of the leading principal directions, in [0, 1].

    Of each side the fewest directions with 99% of the variance (Raghu et al., 2017). Parameters,
    result and errors are those of `cca`.
    """
    return between(SVCCA, x, y, positions=positions)


def regression(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """R² of the linear regression of y on x, with intercept, in [0, 1].

    The share of the variance of y that a linear map of x explains (Kornblith et al., 2019). It is
    not symmetric: only x needs more rows than channels, and where only x does not vary it is 0.
    Parameters, result and errors are those of `cca`.
    """
    return between(REGRESSION, x, y, positions=positions)
