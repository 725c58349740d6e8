"""Co-moments of the activations at many pairs of layers, from one batch at a time.

What belongs to one layer alone is computed once for all pairs that it is in. Where a map grows to
the size of its partner, x′ = R x R̃ᵀ for a matrix R of its rows and R̃ of its columns, nothing of
that size has to be made: sums of products of x′ and y are those of x and Rᵀ y R̃, and of x′ with
itself those of x and RᵀR x R̃ᵀR̃, over the positions of the smaller map.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from robust_stitching.graphs.layout import Layout, paired_rows, to_size
from robust_stitching.similarity import Moments

Grid = tuple[int, int]
Pair = tuple[str, str]


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


def take_in(moments: Mapping[Pair, Moments], front: Side, end: Side) -> None:
    """Let the moments of pairs of layers take in a batch.

    Pairs whose maps have the same two sizes come together, and are let go before the next.
    """
    blocks: dict[Grid, dict[Grid, list[Pair]]] = {}
    for source, goal in moments:
        own, target = front.layouts[source], end.layouts[goal]
        if own.prefix or target.prefix or own.grid is None or target.grid is None:
            x, y = front.values[source], end.values[goal]
            moments[source, goal].update(*paired_rows(x, own, y, target))
        else:
            blocks.setdefault(target.grid, {}).setdefault(own.grid, []).append((source, goal))
    for grid, by_own in blocks.items():
        goals = {goal for pairs in by_own.values() for _, goal in pairs}
        ends = {goal: _centred(end.values[goal].double()) for goal in goals}
        for own, pairs in by_own.items():
            _take_in_block({pair: moments[pair] for pair in pairs}, front.values, ends, own, grid)


def _take_in_block(
    moments: Mapping[Pair, Moments],
    fronts: Mapping[str, Tensor],
    ends: Mapping[str, Centred],
    own: Grid,
    grid: Grid,
) -> None:
    """The pairs of maps of one size, at the front, and maps of another, at the end."""
    shrunk = {goal: ends[goal].maps for _, goal in moments}
    if _grows(own, grid):
        rows, columns = _growth(own, grid, next(iter(shrunk.values())))
        shrunk = {goal: rows.T @ maps @ columns for goal, maps in shrunk.items()}
    for source in dict.fromkeys(source for source, _ in moments):
        x = _resized(fronts[source].double(), own, grid)
        n = len(x.maps) * grid[0] * grid[1]
        for goal in (goal for other, goal in moments if other == source):
            y, xy = ends[goal], _products(x.maps, shrunk[goal])
            moments[source, goal].merge(n, x.mean, y.mean, x.products, xy, y.products)


def _centred(maps: Tensor) -> Centred:
    """Of maps at the positions that they have."""
    mean = maps.mean(dim=(0, 2, 3))
    maps = maps - mean[:, None, None]
    return Centred(maps, mean, _products(maps, maps))


def _resized(maps: Tensor, own: Grid, grid: Grid) -> Centred:
    """Maps, with mean and products at the positions of a grid, but with the positions of their own
    where these are fewer."""
    if not _grows(own, grid):
        return _centred(to_size(maps, grid))
    rows, columns = _growth(own, grid, maps)
    share = torch.outer(rows.mean(dim=0), columns.mean(dim=0))
    mean = (maps.mean(dim=0) * share).sum(dim=(1, 2))
    maps = maps - mean[:, None, None]
    products = _products(maps, rows.T @ rows @ maps @ (columns.T @ columns))
    return Centred(maps, mean, (products + products.T) / 2)


def _grows(own: Grid, grid: Grid) -> bool:
    """Whether maps grow in both directions."""
    return own != grid and own[0] <= grid[0] and own[1] <= grid[1]


def _growth(own: Grid, grid: Grid, like: Tensor) -> tuple[Tensor, Tensor]:
    """What brings rows, and columns, of maps of a size to a larger one, where that mixes them
    separately: matrices (grid[0], own[0]) and (grid[1], own[1])."""
    return tuple(
        to_size(torch.eye(n, dtype=like.dtype, device=like.device)[None, None], (m, n))[0, 0]
        for n, m in zip(own, grid, strict=True)
    )


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Σ over images and positions of the products of channels, of maps of the same grid."""
    return _rows(x).T @ _rows(y)


def _rows(maps: Tensor) -> Tensor:
    return maps.movedim(1, -1).flatten(0, -2)
