"""The stitching layer: a linear map from the activations of one network to those of another."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching.basics.seeds import generator_for
from robust_stitching.graphs.layout import Layout, resize

NO_RANK = 1e-6
"""Singular values below this share of the largest are none in a float32 matrix."""


@dataclass(frozen=True)
class Form:
    """Which matrices a stitching map is chosen from.

    Attributes
    ----------
    flatten : one row and one column for every unit (C·H·W of them), not for every channel.
    rank : of the matrix, which is then a product of two factors; None is a full matrix.
    masked : entries outside a mask are zero and stay so.
    """

    flatten: bool = False
    rank: int | None = None
    masked: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def shape(self, source: Layout, target: Layout) -> tuple[int, int]:
        """(rows, columns) of the matrix between activations of these layouts."""
        if self.flatten:
            return target.units, source.units
        return target.channels, source.channels


class LinearMap(nn.Module):
    """y = W x + b: of the channels at every position (a 1×1 convolution on maps, a linear layer on
    vectors), or of all units at once.

    A map of channels brings the input to the output's positions first where the two differ (another
    resolution, a map against a vector or tokens), see `layout.resize`.

    Parameters
    ----------
    source, target : what the activations hold that it takes, and that it gives.

    Attributes
    ----------
    weight : of shape (rows, columns); with a rank, its factors `left` (rows, rank) and `right`
        (rank, columns) instead. `matrix` is what counts.
    bias : of shape (rows,).
    mask : bool, of the matrix's shape; None where there is none.
    """

    def __init__(self, source: Layout, target: Layout, form: Form | None = None):
        super().__init__()
        self.source, self.target = source, target
        self.form = form or Form()
        rows, columns = self.form.shape(source, target)
        if self.form.rank is None:
            self.weight = nn.Parameter(torch.zeros(rows, columns))
        else:
            self.left = nn.Parameter(torch.zeros(rows, self.form.rank))
            self.right = nn.Parameter(torch.zeros(self.form.rank, columns))
        self.bias = nn.Parameter(torch.zeros(rows))
        allowed = torch.ones(rows, columns, dtype=torch.bool) if self.form.masked else None
        self.register_buffer("mask", allowed)

    @property
    def matrix(self) -> Tensor:
        """W, of shape (rows, columns), differentiable."""
        matrix = self.weight if self.form.rank is None else self.left @ self.right
        return matrix if self.mask is None else matrix * self.mask

    @property
    def size(self) -> int:
        """How many numbers can be learned: what a mask leaves, or both factors, and the bias."""
        if self.mask is not None:
            return int(self.mask.sum()) + len(self.bias)
        return sum(p.numel() for p in self.parameters())

    @property
    def columns(self) -> int:
        """How many channels or units the map takes."""
        return self.form.shape(self.source, self.target)[1]

    @property
    def resizes(self) -> bool:
        """Whether activations are resized before they are mapped."""
        return not self.form.flatten and not self.source.places_like(self.target)

    def forward(self, x: Tensor) -> Tensor:
        if self.form.flatten:
            return F.linear(x.flatten(1), self.matrix, self.bias).unflatten(1, self.target.shape)
        x = resize(x, self.source, self.target)
        if x.ndim == 4:
            return F.conv2d(x, self.matrix[:, :, None, None], self.bias)
        return F.linear(x, self.matrix, self.bias)

    @torch.no_grad()
    def set(self, matrix: Tensor, bias: Tensor) -> None:
        """Take over values of the same shapes; the mask and the rank must allow them."""
        self.bias.copy_(bias)
        if self.form.rank is None:
            self.weight.copy_(matrix if self.mask is None else matrix * self.mask.to(matrix.device))
            return
        left, right = factors(matrix, self.form.rank)
        self.left.copy_(left)
        self.right.copy_(right)

    def values(self) -> tuple[Tensor, Tensor]:
        """Copies of matrix and bias, on the CPU."""
        return self.matrix.detach().cpu().clone(), self.bias.detach().cpu().clone()


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Balanced factors (rows, rank) and (rank, columns) of a matrix of that rank, or a smaller one.

    A direction that the matrix lacks is zero on the left and random on the right: the product is
    the matrix, and the direction can still be learned.

    Raises
    ------
    ValueError : when the rank of `matrix` is larger.
    """
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    present = s > NO_RANK * s[0]
    if present[rank:].any():
        raise ValueError(f"a matrix of rank {int(present.sum())} has no factors of rank {rank}")
    u, s, v, present = u[:, :rank], s[:rank], v[:rank], present[:rank]
    columns = matrix.shape[1]
    spare = torch.rand(rank, columns, generator=generator_for(0)).to(v) * 2 - 1
    right = torch.where(present[:, None], s.sqrt()[:, None] * v, spare / math.sqrt(columns))
    return (u * s.sqrt() * present).float(), right.float()
