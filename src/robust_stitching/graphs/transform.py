"""The stitching layer: a map from the activations of one network to those of another."""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching.basics.seeds import generator_for
from robust_stitching.graphs.layout import Layout, resize
from robust_stitching.plans.parts import AFFINE, LINEAR, MLP

NO_RANK = 1e-6
"""Singular values below this share of the largest are none in a float32 matrix."""

HIDDEN = 2
"""Hidden units of an mlp for each channel that it gives: relu(z) − relu(−z) = z, so that with two
of them it can be any linear map."""


@dataclass(frozen=True)
class Form:
    """Which maps a stitching map is chosen from.

    Attributes
    ----------
    flatten : one row and one column for every unit (C·H·W of them), not for every channel.
    rank : of the matrix, which is then a product of two factors; None is a full matrix.
    masked : entries outside a mask are zero and stay so.
    kind : one of `plans.parts.MAPS`.
    """

    flatten: bool = False
    rank: int | None = None
    masked: bool = False
    kind: str = LINEAR

    def as_dict(self) -> dict[str, Any]:
        """Plain values. That a map is linear is not said: no file said so when all were."""
        values = asdict(self)
        if self.kind == LINEAR:
            del values["kind"]
        return values

    def shape(self, source: Layout, target: Layout) -> tuple[int, int]:
        """(rows, columns): how many channels, or units, the map gives and takes between activations
        of these layouts."""
        if self.flatten:
            return target.units, source.units
        return target.channels, source.channels

    def weights(self, source: Layout, target: Layout) -> int:
        """How many weights there are between them, biases aside, as `weights_of`."""
        return weights_of(self.kind, *self.shape(source, target))


def weights_of(kind: str, rows: int, columns: int) -> int:
    """How many weights a map of a kind has, biases aside, that takes `columns` and gives `rows`."""
    if kind == AFFINE:
        return rows
    return HIDDEN * rows * (columns + rows) if kind == MLP else rows * columns


class StitchingLayer(nn.Module, ABC):
    """A map of the channels, the same at every position, or of all units at once; `graphs.kinds`
    has a class for each kind.

    A map of channels brings the input to the output's positions first where the two differ (another
    resolution, a map against a vector or tokens), see `layout.resize`.

    Parameters
    ----------
    source, target : what the activations hold that it takes, and that it gives.

    Attributes
    ----------
    bias : of shape (rows,), added last.
    mask : bool, of a matrix's shape; None where there is none.
    """

    bias: nn.Parameter
    mask: Tensor | None

    def __init__(self, source: Layout, target: Layout, form: Form | None = None):
        super().__init__()
        self.source, self.target = source, target
        self.form = form or Form()
        self.rows, self.columns = self.form.shape(source, target)

    @property
    def size(self) -> int:
        """How many numbers can be learned."""
        return sum(p.numel() for p in self.parameters())

    @property
    @abstractmethod
    def multipliers(self) -> Tensor:
        """All that something is multiplied by, without the biases, differentiable."""

    @property
    def resizes(self) -> bool:
        """Whether activations are resized before they are mapped."""
        return not self.form.flatten and not self.source.places_like(self.target)

    def forward(self, x: Tensor) -> Tensor:
        if self.form.flatten:
            return self.mapped(x.flatten(1)).unflatten(1, self.target.shape)
        return self.mapped(resize(x, self.source, self.target))

    @abstractmethod
    def mapped(self, x: Tensor) -> Tensor:
        """What the map makes of maps (N, C, H, W), tokens (N, T, C) or vectors (N, C)."""

    @abstractmethod
    def set(self, *values: Tensor) -> None:
        """Take over what `values` of a map of this form gave."""

    @abstractmethod
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors that make the map, in the order of `stitching.keeping.Map`."""

    def values(self) -> tuple[Tensor, ...]:
        """Copies of the parts, on the CPU."""
        return tuple(part.detach().cpu().clone() for part in self.parts())


class LinearMap(StitchingLayer):
    """y = W x + b: a 1×1 convolution on maps, a linear layer on tokens, vectors, or all units.

    Attributes
    ----------
    weight : of shape (rows, columns); with a rank, its factors `left` (rows, rank) and `right`
        (rank, columns) instead. `matrix` is what counts.
    """

    def __init__(self, source: Layout, target: Layout, form: Form | None = None):
        super().__init__(source, target, form)
        rows, columns = self.rows, self.columns
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
        return super().size

    @property
    def multipliers(self) -> Tensor:
        return self.matrix

    def mapped(self, x: Tensor) -> Tensor:
        return mixed(x, self.matrix, self.bias)

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

    def parts(self) -> tuple[Tensor, ...]:
        return self.matrix, self.bias


def mixed(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """W x + b of the channels of maps (N, C, H, W), tokens (N, T, C) or vectors (N, C)."""
    if x.ndim == 4:
        return F.conv2d(x, matrix[:, :, None, None], bias)
    return F.linear(x, matrix, bias)


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
