"""Which layers of two networks are stitched to each other."""

from collections.abc import Sequence
from itertools import product

from torch import nn

from robust_stitching.basics.errors import UserError
from robust_stitching.graphs import graph
from robust_stitching.graphs.layout import Layout
from robust_stitching.graphs.stages import depths, stages
from robust_stitching.graphs.wrong_network import telling_whose_layer
from robust_stitching.plans import GridPlan
from robust_stitching.stitching.grid.diagonal import Pair, diagonal

Cuts = dict[Pair, tuple[Layout, Layout]]
"""Cells to the layouts of their layers."""


def cells_of(plan: GridPlan, front: nn.Module, end: nn.Module) -> list[Pair]:
    """The cells of a grid, row by row, a front layer each.

    Raises
    ------
    UserError : for unknown layers, lists of layers that make no pairs, and networks without clean
        cuts where none are named.
    """
    rows = layers_of(front, plan.front_layers, "front")
    columns = layers_of(end, plan.end_layers, "end")
    if plan.cells != "pairs":
        rows, columns = (list(dict.fromkeys(layers)) for layers in (rows, columns))
    with telling_whose_layer(("the front model", front, rows), ("the end model", end, columns)):
        for network, layers, role in ((front, rows, "front layer"), (end, columns, "end layer")):
            for layer in layers:
                graph.layout_of(network, layer, role)
    if plan.cells == "all":
        return list(product(rows, columns))
    if plan.cells == "diagonal":
        every = list(product(rows, columns))
        fronts, ends = (
            dict(zip(layers, depths(network, layers), strict=True))
            for network, layers in ((front, rows), (end, columns))
        )
        wanted = diagonal(every, fronts, ends)
        return [cell for cell in every if cell in wanted]
    if len(rows) != len(columns):
        raise UserError(
            f"`cells` are pairs, but {len(rows)} front layers and {len(columns)} end layers are "
            "named; name equally many."
        )
    return list(dict.fromkeys(zip(rows, columns, strict=True)))


def cuts_of(plan: GridPlan, front: nn.Module, end: nn.Module) -> Cuts:
    """The cells of a grid with the layouts of their layers; errors as `cells_of`."""
    pairs = cells_of(plan, front, end)
    rows, columns = (
        {layer: graph.layout_of(network, layer) for layer in dict.fromkeys(layers)}
        for network, layers in zip((front, end), zip(*pairs, strict=True), strict=True)
    )
    return {(row, column): (rows[row], columns[column]) for row, column in pairs}


def layers_of(network: nn.Module, named: Sequence[str] | None, whose: str) -> list[str]:
    """The layers that are named, or a clean cut for each stage, see `stages`."""
    if named is not None:
        return list(named)
    clean = stages(network)
    if not clean:
        raise UserError(
            f"the {whose} model has no clean cuts; name its layers (`{whose}_layers`), as "
            "`layer_info` lists them."
        )
    return clean
