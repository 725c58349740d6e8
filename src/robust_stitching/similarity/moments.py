"""First and second moments of two sets of variables, streamed and kept in float64."""

import torch
from torch import Tensor

CUTOFF = 1e-10
"""Directions whose share of the largest eigenvalue of the correlation matrix is below this carry no
signal in float32 activations: the pseudo-inverse leaves them out."""

ROUNDING = 1e-6
"""Float32 values that vary by less than this share of their mean are constant."""


class Spread:
    """Mean and centred products of rows (n, p) of one set of variables, updated batch by batch.

    Each batch is centred by its own mean before anything is multiplied, and the means are merged
    afterwards (Chan, Golub and LeVeque, 1983): no large numbers cancel.

    Attributes
    ----------
    n : rows so far.
    mean, products : float64 Tensors of shape (p,) and (p, p), the latter of sums.
    """

    def __init__(self, p: int, device: torch.device | str = "cpu"):
        self.n = 0
        self.mean, self.products = _zeros(p, device=device), _zeros(p, p, device=device)

    def merge(self, m: int, mean: Tensor, products: Tensor) -> None:
        """Take in the mean of m rows and the sums of their products, centred by it."""
        step, total = mean - self.mean, self.n + m
        self.products += torch.outer(step, step).mul_(self.n * m / total).add_(products)
        self.mean += step * (m / total)
        self.n = total


class Moments:
    """Means and centred co-moments of rows x (n, p) and y (n, q), updated batch by batch as those
    of a `Spread` are.

    Parameters
    ----------
    x, y : of moments that others take in as well, who see to it that each batch is merged once.

    Attributes
    ----------
    n : rows so far.
    mean_x, mean_y : float64 Tensors of shape (p,) and (q,).
    xx, xy, yy : sums of centred products, float64, of shape (p, p), (p, q), (q, q).
    """

    def __init__(
        self,
        p: int,
        q: int,
        device: torch.device | str = "cpu",
        x: Spread | None = None,
        y: Spread | None = None,
    ):
        self.x, self.y = x or Spread(p, device), y or Spread(q, device)
        self.xy = _zeros(p, q, device=device)

    @property
    def n(self) -> int:
        return self.x.n

    @property
    def mean_x(self) -> Tensor:
        return self.x.mean

    @property
    def mean_y(self) -> Tensor:
        return self.y.mean

    @property
    def xx(self) -> Tensor:
        return self.x.products

    @property
    def yy(self) -> Tensor:
        return self.y.products

    def update(self, x: Tensor, y: Tensor) -> None:
        """Take in rows x (m, p) and y (m, q)."""
        m = len(x)
        x, y = x.double(), y.double()
        mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
        x, y = x - mean_x, y - mean_y
        self.cross(m, mean_x, mean_y, x.T @ y)
        self.x.merge(m, mean_x, x.T @ x)
        self.y.merge(m, mean_y, y.T @ y)

    def cross(self, m: int, mean_x: Tensor, mean_y: Tensor, xy: Tensor) -> None:
        """Take in the means of m rows and the sums of their products, centred by these means, of
        which `x` and `y` know nothing yet."""
        step_x, step_y = mean_x - self.mean_x, mean_y - self.mean_y
        self.xy += torch.outer(step_x, step_y).mul_(self.n * m / (self.n + m)).add_(xy)

    def alive(self) -> tuple[Tensor, Tensor]:
        """Which variables of x (p,) and of y (q,) vary by more than rounding."""
        x, y = (
            squares.diagonal().sqrt() > ROUNDING * mean.abs() * self.n**0.5
            for squares, mean in ((self.xx, self.mean_x), (self.yy, self.mean_y))
        )
        return x, y

    def least_squares(self, cutoff: float = CUTOFF) -> tuple[Tensor, Tensor]:
        """W (q, p) and b (q,) that minimise Σ ‖W x + b − y‖²: direct matching
        (Csiszárik et al., 2021, section 3.2).

        Channels of x are brought to unit variance and the pseudo-inverse of their correlation
        matrix leaves out eigenvalues below `cutoff` times the largest; dead channels, which are
        constant but for rounding, get weight 0.
        """
        scale = self.xx.diagonal().sqrt()
        inverse_scale = torch.where(self.alive()[0], 1 / scale, 0.0)
        correlation = inverse_scale[:, None] * self.xx * inverse_scale
        inverse = torch.linalg.pinv(correlation, rtol=cutoff, hermitian=True)
        weight = ((inverse_scale[:, None] * inverse * inverse_scale) @ self.xy).T
        return weight, self.mean_y - weight @ self.mean_x

    def cka(self) -> float:
        """Linear CKA of the rows, ‖Cxy‖² / (‖Cxx‖ ‖Cyy‖), the same number as from Gram matrices
        (Kornblith et al., 2019, section 3); for few features. NaN where one side is constant."""
        scale = float(self.xx.norm() * self.yy.norm())
        return min(float(self.xy.square().sum()) / scale, 1.0) if scale > 0 else float("nan")


def _zeros(*shape: int, device: torch.device | str) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device=device)
