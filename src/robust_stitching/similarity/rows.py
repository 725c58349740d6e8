"""Rows of channels for the measures that compare channels: one an image, or one a position."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robust_stitching.basics.seeds import generator_for
from robust_stitching.graphs.layout import Layout, grid_of, to_size
from robust_stitching.similarity.blocks import floating
from robust_stitching.similarity.forms import ALL, POOLED, Channels

MOST_ROWS = 10_000
"""Of positions; images are never left out."""

Grid = tuple[int, int]


class Rows:
    """The rows of two networks' layers, gathered batch by batch.

    pooled : one row an image, the mean over its positions.
    all : one row a position, on the coarser grid of two layers, onto which the finer one is
        averaged; of every image equally many positions, chosen at random, up to `MOST_ROWS` in all.

    Parameters
    ----------
    layouts : of the layers of network 1 and of network 2.
    n : number of images.
    seed : of the choice of positions, which is the same for all layers on a grid.
    """

    def __init__(
        self, layouts: tuple[Sequence[Layout], Sequence[Layout]], n: int, positions: str, seed: int
    ):
        self.first, self.n = len(layouts[0]), n
        self.layouts = [*layouts[0], *layouts[1]]
        self._seen = 0
        self._grids = [{POOLED} for _ in self.layouts]
        self._chosen: dict[Grid, Tensor] = {}
        if positions == ALL:
            self._grids = [set() for _ in self.layouts]
            for i, j in self.pairs():
                grid = self._common(i, j)
                self._grids[i].add(grid)
                self._grids[self.first + j].add(grid)
            for grid in set().union(*self._grids):
                self._chosen[grid] = _choice(grid, n, seed)
        self._kept: list[dict] = [dict.fromkeys(grids) for grids in self._grids]
        self.pooled = positions == POOLED

    def pairs(self) -> list[tuple[int, int]]:
        """Numbers of a layer of network 1 and one of network 2, of every pair."""
        return [(i, j) for i in range(self.first) for j in range(len(self.layouts) - self.first)]

    def add(self, activations: Sequence[Tensor]) -> None:
        """Take in a batch: the activations of every layer."""
        for kept, activation, layout in zip(self._kept, activations, self.layouts, strict=True):
            for grid in kept:
                rows, each = self._rows(activation, layout, grid), self.per_image(grid)
                if kept[grid] is None:  # at once: many small ones would hold the memory around them
                    kept[grid] = rows.new_empty(self.n * each, rows.shape[1])
                first = self._seen * each
                kept[grid][first : first + len(rows)] = rows
        self._seen += len(activations[0])

    def _rows(self, activation: Tensor, layout: Layout, grid: Grid | str) -> Tensor:
        """Those of a batch."""
        if grid == POOLED:
            return channel_means(activation, layout)
        maps = to_size(grid_of(activation, layout), grid).flatten(2)
        chosen = self._chosen[grid][self._seen : self._seen + len(maps)].to(maps.device)
        index = chosen[:, None].expand(-1, maps.shape[1], -1)
        return floating(maps.gather(2, index).transpose(1, 2).flatten(0, 1))

    def state(self) -> dict[str, Any]:
        """The rows so far."""
        return {"seen": self._seen, "kept": self._kept}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` said."""
        self._seen, self._kept = state["seen"], state["kept"]

    def finish(self) -> None:
        """Call when all batches are in."""
        self._sides = [
            {grid: Channels(rows, self.per_image(grid)) for grid, rows in kept.items()}
            for kept in self._kept
        ]
        self._kept = []

    def per_image(self, grid: Grid | str) -> int:
        """How many rows of that grid an image has."""
        return 1 if grid == POOLED else self._chosen[grid].shape[1]

    def any_of(self) -> list[Channels]:
        """The rows of each layer, on one of its grids."""
        return [next(iter(sides.values())) for sides in self._sides]

    def all_of(self) -> list[tuple[int, Channels]]:
        """(number of the layer, rows), for each layer on each of its grids."""
        return [(i, side) for i, sides in enumerate(self._sides) for side in sides.values()]

    def pair(self, i: int, j: int) -> tuple[Channels, Channels]:
        """The rows of layer i of network 1 and of layer j of network 2, of the same positions."""
        grid = POOLED if self.pooled else self._common(i, j)
        return self._sides[i][grid], self._sides[self.first + j][grid]

    def _common(self, i: int, j: int) -> Grid:
        own, other = (
            layout.grid or (1, 1) for layout in (self.layouts[i], self.layouts[self.first + j])
        )
        return min(own[0], other[0]), min(own[1], other[1])


def told(positions: str) -> str:
    """What the rows are, in words."""
    if positions == POOLED:
        return "channels, averaged over positions"
    return (
        "channels at positions of the coarser layer, up to "
        f"{MOST_ROWS:,} in all, chosen at random, equally many of each image"
    )


def channel_means(activations: Tensor, layout: Layout) -> Tensor:
    """Activations (n, *layout.shape) as rows (n, C): means over the positions of the image, prefix
    tokens left out, taken in float64."""
    means = grid_of(activations, layout).mean(dim=(2, 3), dtype=torch.float64)
    return means.to(floating(activations[:0]).dtype)


def _choice(grid: Grid, n: int, seed: int) -> Tensor:
    """Positions of each of `n` images, (n, q), none of an image twice."""
    count = math.prod(grid)
    q = min(count, max(1, MOST_ROWS // n))
    draws = torch.rand(n, count, generator=generator_for(seed, "position", *grid))
    return draws.argsort(dim=1)[:, :q].sort(dim=1).values
