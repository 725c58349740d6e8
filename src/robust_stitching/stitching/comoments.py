"""Co-moments of the activations at many pairs of layers, from one batch at a time.

What belongs to one layer alone is computed once for all pairs that it is in. Where a map grows to
the size of its partner, x′ = R x for a matrix R of few weights, and nothing of that size has to be
multiplied: x′x′ᵀ = x (RᵀR xᵀ) and x′yᵀ = x (Rᵀ yᵀ), sums over the positions of the smaller map.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from robust_stitching.graphs.layout import Layout, paired_rows, to_size
from robust_stitching.similarity import Moments

Grid = tuple[int, int]


class Side(NamedTuple):
    """What one network has at some layers: their activations (n, *layout.shape), by name."""

    values: Mapping[str, Tensor]
    layouts: Mapping[str, Layout]


class Centred(NamedTuple):
    """Maps (n, C, H, W) in float64 without their mean (C,) over images and positions of a grid; and
    the sum of the products of their channels (C, C), at these positions."""

    maps: Tensor
    mean: Tensor
    products: Tensor


class Batch:
    """The activations of a batch on both sides."""

    def __init__(self, front: Side, end: Side):
        self.front, self.end = front, end
        self._of_end = cache(partial(self._at_own_size, end))
        self._of_front = cache(self._resized)
        self._shrunk = cache(self._end_at)

    def give(self, source: str, goal: str, moments: Moments) -> None:
        """Let the moments of a pair of layers take in this batch."""
        own, target = self.front.layouts[source], self.end.layouts[goal]
        if own.prefix or target.prefix or own.grid is None or target.grid is None:
            x, y = self.front.values[source], self.end.values[goal]
            moments.update(*paired_rows(x, own, y, target))
            return
        x, y = self._of_front(source, target.grid), self._of_end(goal)
        at_goal = self._shrunk(goal, own.grid) if _grows(own.grid, target.grid) else y.maps
        n = y.maps.shape[0] * y.maps.shape[2] * y.maps.shape[3]
        xy = _products(x.maps, at_goal)
        moments.merge(n, x.mean, y.mean, x.products, xy, y.products)

    def _at_own_size(self, side: Side, name: str) -> Centred:
        maps = side.values[name].double()
        mean = maps.mean(dim=(0, 2, 3))
        maps = maps - mean[:, None, None]
        return Centred(maps, mean, _products(maps, maps))

    def _resized(self, name: str, grid: Grid) -> Centred:
        """The front's, with mean and products at the positions of the end, but with the positions
        of their own where these are fewer."""
        own = self.front.layouts[name].grid
        if own == grid:
            return self._at_own_size(self.front, name)
        maps = self.front.values[name].double()
        if not _grows(own, grid):
            sized = to_size(maps, grid)
            return self._at_own_size(Side({name: sized}, {}), name)
        grow = partial(to_size, size=grid)
        everywhere = maps.new_ones(1, 1, *grid)
        share = _adjoint(grow, everywhere, own)[0, 0] / everywhere.numel()
        mean = (maps.mean(dim=0) * share).sum(dim=(1, 2))
        maps = maps - mean[:, None, None]
        products = _products(maps, _adjoint(grow, grow(maps), own))
        return Centred(maps, mean, (products + products.T) / 2)

    def _end_at(self, name: str, grid: Grid) -> Tensor:
        """Rᵀ y, at the positions of a smaller grid."""
        y = self._of_end(name).maps
        return _adjoint(partial(to_size, size=tuple(y.shape[2:])), y, grid)


def _grows(own: Grid, grid: Grid) -> bool:
    """Whether maps grow in both directions."""
    return own != grid and own[0] <= grid[0] and own[1] <= grid[1]


def _adjoint(grow: Callable[[Tensor], Tensor], y: Tensor, grid: Grid) -> Tensor:
    """Rᵀ y for maps y, with R what `grow` does to maps of a grid."""
    with torch.enable_grad():
        small = y.new_zeros(*y.shape[:2], *grid, requires_grad=True)
        return torch.autograd.grad(grow(small), small, y)[0]


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Σ over images and positions of the products of channels, of maps of the same grid."""
    return _rows(x).T @ _rows(y)


def _rows(maps: Tensor) -> Tensor:
    return maps.movedim(1, -1).flatten(0, -2)
