"""Co-moments of the activations at many pairs of layers, from one batch at a time.

What belongs to one layer alone is computed once for all pairs that it is in. Where a map grows to
the size of its partner, x′ = R x R̃ᵀ for a matrix R of its rows and R̃ of its columns, nothing of
that size has to be made: sums of products of x′ and y are those of x and Rᵀ y R̃, and of x′ with
itself those of x and RᵀR x R̃ᵀR̃, over the positions of the smaller map.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from robust_stitching.graphs.layout import Layout, paired_rows, to_size
from robust_stitching.similarity import Moments, Spread

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

    Pairs whose maps have the same two sizes come together, and are let go before the next. What
    pairs have in common of one layer is merged once.
    """
    blocks: dict[Grid, dict[Grid, list[Pair]]] = {}
    for source, goal in moments:
        own, target = front.layouts[source], end.layouts[goal]
        if of_maps(own, target):
            blocks.setdefault(target.grid, {}).setdefault(own.grid, []).append((source, goal))
        else:
            x, y = front.values[source], end.values[goal]
            moments[source, goal].update(*paired_rows(x, own, y, target))
    for grid, by_own in blocks.items():
        goals = {goal for pairs in by_own.values() for _, goal in pairs}
        ends = {goal: _centred(end.values[goal].double()) for goal in goals}
        for own, pairs in by_own.items():
            _take_in_block({pair: moments[pair] for pair in pairs}, front.values, ends, own, grid)
        for goal, y in ends.items():
            of_goal = [pair for pairs in by_own.values() for pair in pairs if pair[1] == goal]
            n = len(y.maps) * grid[0] * grid[1]
            _merge_once((moments[pair].y for pair in of_goal), n, y.mean, y.products)


def take_in_units(
    moments: Mapping[Pair, Moments], front: Mapping[str, Tensor], end: Mapping[str, Tensor]
) -> None:
    """The same where each unit of a layer is a variable, and each image a row."""
    ends = {goal: _centred_rows(end[goal]) for goal in dict.fromkeys(goal for _, goal in moments)}
    for source in dict.fromkeys(source for source, _ in moments):
        x, mean = _centred_rows(front[source])
        own = {goal: found for (other, goal), found in moments.items() if other == source}
        for goal, found in own.items():
            y, mean_y = ends[goal]
            found.cross(len(x), mean, mean_y, x.T @ y)
        _merge_once((found.x for found in own.values()), len(x), mean, x.T @ x)
    for goal, (y, mean) in ends.items():
        own = (found.y for (_, other), found in moments.items() if other == goal)
        _merge_once(own, len(y), mean, y.T @ y)


def of_maps(own: Layout, target: Layout) -> bool:
    """Whether activations of two layers are maps alone, of which those of the front are resized to
    the size of the end's."""
    return not (own.prefix or target.prefix or own.grid is None or target.grid is None)


def _merge_once(spreads: Iterable[Spread], n: int, mean: Tensor, products: Tensor) -> None:
    for spread in dict.fromkeys(spreads):
        spread.merge(n, mean, products)


def _centred_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Units in float64 without their mean over images; and that."""
    rows = values.flatten(1).double()
    mean = rows.mean(dim=0)
    return rows - mean, mean


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
        of_source = {goal: found for (other, goal), found in moments.items() if other == source}
        for goal, found in of_source.items():
            found.cross(n, x.mean, ends[goal].mean, _products(x.maps, shrunk[goal]))
        _merge_once((found.x for found in of_source.values()), n, x.mean, x.products)


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
