"""More of how alike the spans of two sets of channels are: PWCCA, regression back, eigenspaces."""

import torch

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.forms import POOLED, Channels
from robust_stitching.similarity.measure import (
    LINEAR_MAPS,
    PERMUTATION,
    ROTATIONS,
    SCALE,
    SHIFT,
    Measure,
)
from robust_stitching.similarity.measures.linear import explained, require_enough


def _pwcca(x: Channels, y: Channels) -> float:
    require_enough(x, y)
    if not (x.norm > 0 and y.norm > 0):
        return float("nan")
    rows = x.centred()
    basis = rows @ x.whitening
    left, correlations, _ = torch.linalg.svd(
        basis.T @ y.centred() @ y.whitening, full_matrices=False
    )
    weights = (left.T @ (basis.T @ rows)).abs().sum(dim=1)  # Σ_j |⟨h_i, x_j⟩|, h = basis @ left
    return float(weights @ correlations.clamp(max=1) / weights.sum())


def _reverse_pwcca(x: Channels, y: Channels) -> float:
    return _pwcca(y, x)


def _reverse_regression(x: Channels, y: Channels) -> float:
    return explained(y, x)


def _overlap(x: Channels, y: Channels) -> float:
    require_enough(x, y)
    if not (x.norm > 0 and y.norm > 0):
        return float("nan")
    cross = x.span.T @ (x.rows.double().T @ y.rows.double()) @ y.span
    return float((cross.square().sum() / max(cross.shape)).clamp(max=1))


def _measure(name: str, title: str, estimator: str, **other) -> Measure:
    about = {"low": 0, "high": 1, "same": 1, "cost": "one pass", "form": Channels}
    return Measure(name=name, title=title, estimator=estimator, **about, **other)


MEASURES = (
    _measure(
        "pwcca",
        "PWCCA",
        "PWCCA (canonical correlations weighted by what their variates hold of model 1's channels)",
        value=_pwcca,
        more_rows_than=(1, 2),
        symmetric=False,
        ignores=frozenset({PERMUTATION, SCALE, SHIFT}),
    ),
    _measure(
        "reverse-pwcca",
        "PWCCA, weights of model 2",
        "PWCCA (canonical correlations weighted by what their variates hold of model 2's channels)",
        value=_reverse_pwcca,
        more_rows_than=(1, 2),
        symmetric=False,
        ignores=frozenset({PERMUTATION, SCALE, SHIFT}),
    ),
    _measure(
        "reverse-regression",
        "linear regression R² of model 1",
        "R² of linear regression of model 1's channels on model 2's",
        value=_reverse_regression,
        more_rows_than=(2,),
        symmetric=False,
        ignores=ROTATIONS | {SCALE, SHIFT},
    ),
    _measure(
        "eigenspace-overlap",
        "eigenspace overlap",
        "eigenspace overlap (of the left singular vectors of the channels, not centred)",
        value=_overlap,
        more_rows_than=(1, 2),
        ignores=LINEAR_MAPS,
    ),
)
PWCCA, REVERSE_PWCCA, REVERSE_REGRESSION, EIGENSPACE_OVERLAP = MEASURES


def pwcca(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """Projection-weighted CCA with the weights of x, in [0, 1].

    Σ α_i ρ_i / Σ α_i over the canonical correlations ρ_i, with α_i = Σ_j |⟨h_i, x_j⟩| of the
    canonical variate h_i of x, of length 1, and the centred channels x_j (Morcos, Raghu and Bengio,
    2018, section 3). Invertible maps of y change nothing; of x, only other orders of channels do
    so, for α depends on the axes. Dead channels have no share; a copy of a channel counts twice.

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
    return between(PWCCA, x, y, positions=positions)


def reverse_pwcca(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """Projection-weighted CCA with the weights of y, `pwcca(y, x)`."""
    return between(REVERSE_PWCCA, x, y, positions=positions)


def reverse_regression(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """R² of the linear regression of x on y, with intercept, `regression(y, x)`: only y needs more
    rows than channels."""
    return between(REVERSE_REGRESSION, x, y, positions=positions)


def eigenspace_overlap(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """Eigenspace overlap score of two representations of the same images, in [0, 1].

    ‖UᵀV‖² / max(rank X, rank Y) of the left singular vectors U and V of the rows as they are, not
    centred (May et al., 2019, definition 1, where the ranks are the numbers of channels): dead and
    repeated channels span nothing. A narrow side inside a wide one has their ratio.

    Parameters, result and errors are those of `pwcca`.
    """
    return between(EIGENSPACE_OVERLAP, x, y, positions=positions)
