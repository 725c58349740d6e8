"""How alike two sets of channels are up to a linear map: Procrustes, CCA, SVCCA, regression.

Each channel of a representation is one column. Maps and tokens enter by their mean over positions
(`channel_means`), so that layers of any two sizes can be compared over images.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from robust_stitching.graphs.layout import Layout, grid_of
from robust_stitching.similarity.moments import CUTOFF, ROUNDING

VARIANCE = 0.99
"""SVCCA keeps the leading directions that hold this share of the variance (Raghu et al., 2017)."""


def channel_means(activations: Tensor, layout: Layout) -> Tensor:
    """Activations (n, *layout.shape) as float32 rows (n, C): means over the positions of the image,
    prefix tokens left out, taken in float64."""
    return grid_of(activations, layout).mean(dim=(2, 3), dtype=torch.float64).float()


@dataclass(frozen=True)
class Channels:
    """One side of a comparison: rows (n, p), one per image. All that follows is float64."""

    rows: Tensor

    @property
    def enough(self) -> bool:
        """Whether there are more images than channels: else CCA is 1 whatever the channels hold."""
        n, p = self.rows.shape
        return n > p

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
        rows = self.rows.double()
        return (rows - rows.mean(dim=0)) * self.alive

    @cached_property
    def whitening(self) -> Tensor:
        """W (p, rank) for which the columns of `centred` @ W are an orthonormal basis of what the
        channels span. The rank is that of the correlation matrix, as in `Moments.least_squares`."""
        rows = self.centred()
        scale = rows.norm(dim=0)
        inverse = torch.where(self.alive, 1 / scale, 0.0)
        variances, directions = torch.linalg.eigh((rows * inverse).T @ (rows * inverse))
        kept = variances > CUTOFF * variances[-1].clamp(min=torch.finfo(torch.float64).tiny)
        return inverse[:, None] * directions[:, kept] / variances[kept].sqrt()

    @cached_property
    def leading(self) -> Tensor:
        """The same for the fewest principal directions with 99% of the variance."""
        rows = self.centred()
        variances, directions = torch.linalg.eigh(rows.T @ rows)
        variances, directions = variances.flip(0), directions.flip(1)
        before = variances.cumsum(0) - variances
        kept = before < VARIANCE * variances.sum()
        return directions[:, kept] / variances[kept].sqrt()


def procrustes(x: Channels, y: Channels) -> float:
    """Orthogonal Procrustes distance ‖X‖² + ‖Y‖² − 2‖XᵀY‖∗ of centred rows with ‖X‖ = ‖Y‖ = 1
    (Ding et al., 2021, section 2): from 0, equal up to rotation, shift and scale, to 2.

    It is the square of min ‖XQ − Y‖ over orthogonal Q, the narrower side filled up with zeros.
    NaN where a side is constant.
    """
    scale = x.norm * y.norm
    nuclear = torch.linalg.svdvals(x.centred().T @ y.centred()).sum()
    return float((2 - 2 * nuclear / scale).clamp(min=0)) if scale > 0 else float("nan")


def canonical_correlations(x: Channels, y: Channels) -> Tensor:
    """The canonical correlations of the channels, as many as the smaller rank, in [0, 1]; none
    where a side is constant.

    Raises
    ------
    ValueError : where a side has no fewer channels than images.
    """
    return _correlations(x, y, x.whitening, y.whitening)


def cca(x: Channels, y: Channels) -> float:
    """The mean canonical correlation (Raghu et al., 2017), in [0, 1]."""
    return _mean(canonical_correlations(x, y))


def squared_cca(x: Channels, y: Channels) -> float:
    """The mean squared canonical correlation, R² of CCA (Kornblith et al., 2019), in [0, 1]."""
    return _mean(canonical_correlations(x, y).square())


def svcca(x: Channels, y: Channels) -> float:
    """The mean canonical correlation of the leading directions, those with 99% of the variance
    (Raghu et al., 2017), in [0, 1]."""
    return _mean(_correlations(x, y, x.leading, y.leading))


def regression(x: Channels, y: Channels) -> float:
    """R² of the linear regression of y on x: the share of the variance of y that a linear map of x
    explains (Kornblith et al., 2019), in [0, 1]. It is not symmetric.

    Raises
    ------
    ValueError : where x has no fewer channels than images.
    """
    _require_enough(x)
    explained = (x.centred() @ x.whitening).T @ y.centred()
    return float((explained.norm() / y.norm).square()) if y.norm > 0 else float("nan")


def _correlations(x: Channels, y: Channels, left: Tensor, right: Tensor) -> Tensor:
    _require_enough(x, y)
    cross = left.T @ (x.centred().T @ y.centred()) @ right
    return torch.linalg.svdvals(cross).clamp(max=1)


def _require_enough(*sides: Channels) -> None:
    for side in sides:
        if not side.enough:
            n, p = side.rows.shape
            raise ValueError(f"{n} images are too few for {p} channels; more images than channels")


def _mean(values: Tensor) -> float:
    return float(values.mean())
