"""What an activation holds, channels at positions, and how one grid is brought to another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """What the activation of one image holds.

    Attributes
    ----------
    channels : how many numbers there are at each position.
    grid : (height, width) of the positions; None for a vector, which has none.
    prefix : tokens that are at no position of the image (class tokens, registers). They stand
        before those of the grid.
    """

    channels: int
    grid: tuple[int, int] | None = None
    prefix: int = 0

    @classmethod
    def of(cls, shape: Sequence[int]) -> "Layout":
        """Of a map (C, H, W) or a vector (C,)."""
        channels, *grid = shape
        return cls(channels, tuple(grid) or None)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of a map, (tokens, C) where some are at no position, (C,) of a vector."""
        if self.grid is None:
            return (self.channels,)
        if self.prefix:
            return self.prefix + math.prod(self.grid), self.channels
        return self.channels, *self.grid

    def __str__(self) -> str:
        if self.grid is None:
            return f"a vector of {self.channels}"
        sizes = "×".join(map(str, (self.channels, *self.grid)))
        if not self.prefix:
            return sizes
        return f"{sizes} and {self.prefix} token{'s' if self.prefix > 1 else ''} of no position"

    @property
    def units(self) -> int:
        """How many numbers one image has."""
        return math.prod(self.shape)

    @property
    def positions(self) -> int:
        """How many rows of channels one image has, prefix included; 1 of a vector."""
        return self.units // self.channels

    def places_like(self, other: "Layout") -> bool:
        """Whether both have the same positions, whatever their channels."""
        return (self.grid, self.prefix) == (other.grid, other.prefix)


def resize(x: Tensor, own: Layout, target: Layout) -> Tensor:
    """Activations (N, *own.shape) at the positions of `target`, with their own channels.

    Averaged over areas where the grid shrinks, bilinear where it grows. As many prefix tokens on
    both sides are carried over; else each new one is the mean over all positions.
    """
    if own.places_like(target):
        return x
    grid = grid_of(x, own)
    mean = grid.mean(dim=(2, 3))
    if target.grid is None:
        return mean
    sized = to_size(grid, target.grid)
    if not target.prefix:
        return sized
    if own.prefix == target.prefix:
        prefix = x[:, : own.prefix]
    else:
        prefix = mean[:, None].expand(-1, target.prefix, -1)
    return torch.cat([prefix, sized.flatten(2).transpose(1, 2)], dim=1)


def to_size(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, C, H, W) at another size: averaged over areas where they shrink, else bilinear."""
    own = grid.shape[2:]
    if own == size:
        return grid
    if size[0] <= own[0] and size[1] <= own[1]:
        return F.adaptive_avg_pool2d(grid, size)
    return F.interpolate(grid, size, mode="bilinear", align_corners=False)


def grid_of(x: Tensor, layout: Layout) -> Tensor:
    """Activations (N, *layout.shape) as maps (N, C, H, W) without prefix; 1×1 for vectors."""
    if layout.prefix:
        return x[:, layout.prefix :].transpose(1, 2).unflatten(2, layout.grid)
    return x if layout.grid is not None else x[:, :, None, None]


def paired_rows(x: Tensor, source: Layout, y: Tensor, target: Layout) -> tuple[Tensor, Tensor]:
    """Activations x (N, *source.shape), brought to the positions of y (N, *target.shape), and y: a
    row of channels for each position that both have. Prefix tokens count where both have as many of
    them; what stands in for a class token elsewhere tells nothing about it."""
    shared = target if source.prefix == target.prefix else replace(target, prefix=0)
    y = y if shared == target else grid_of(y, target)
    return _rows(resize(x, source, shared)), _rows(y)


def _rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(0, -2) if x.ndim == 4 else x.flatten(0, -2)
