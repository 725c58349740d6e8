"""A grid of stitches as plain values: the JSON report, from which everything is drawn."""

from dataclasses import asdict
from typing import Any

from robust_stitching.basics.files import as_json
from robust_stitching.graphs.stages import depths
from robust_stitching.stitching.grid.files import map_names
from robust_stitching.stitching.grid.result import Cell, GridResult
from robust_stitching.stitching.record import about, numbers, of_images, transformation


def as_record(result: GridResult, command: str) -> dict[str, Any]:
    """The JSON report of a grid, as it comes back from its file; of every cell the keys are those
    of the report of a stitch.

    Parameters
    ----------
    command : the command line that asked for it.
    """
    first = result.cells[0]
    device = first.trained.network.transform.bias.device
    cuts = [cell.plan.cut for cell in result.cells]
    fronts = list(dict.fromkeys(cut.front_layer for cut in cuts))
    ends = list(dict.fromkeys(cut.end_layer for cut in cuts))
    record = {
        **about(result, command, device, first.trained.precision),
        "data": {
            "name": first.measured.data,
            "n_images": first.measured.n_images,
            "n_train_images": result.train_images,
        },
        "front_layers": fronts,
        "end_layers": ends,
        "depths": {
            "front": dict(zip(fronts, depths(result.front.network, fronts), strict=True)),
            "end": dict(zip(ends, depths(result.end.network, ends), strict=True)),
        },
        "seeds": list(dict.fromkeys(cell.plan.seed for cell in result.cells)),
        "cells": [
            _cell(cell, result.train_images) | {"map": name}
            for cell, name in zip(result.cells, map_names(result), strict=True)
        ],
    }
    return as_json(record)


def _cell(cell: Cell, train_images: int) -> dict[str, Any]:
    return {
        "front_layer": cell.plan.cut.front_layer,
        "end_layer": cell.plan.cut.end_layer,
        "seed": cell.plan.seed,
        "error": cell.error,
        "notes": cell.notes,
        "leaks": cell.trained.network.leaks,
        "transformation": transformation(cell.trained.network.transform),
        **of_images(cell.invariant),
        **numbers(cell.measured, n_train_images=train_images),
        "elsewhere": cell.elsewhere and numbers(cell.elsewhere),
        "curve": [asdict(epoch) for epoch in cell.trained.curve],
    }
