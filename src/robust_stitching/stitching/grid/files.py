"""A grid's files but those that are drawn: the maps, and the JSON report."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robust_stitching import checkpoints
from robust_stitching.basics.files import write_json
from robust_stitching.basics.names import Names
from robust_stitching.stitching.files import write_images
from robust_stitching.stitching.grid.result import Cell, GridResult
from robust_stitching.stitching.invariant import NAME as INVARIANT_IMAGES
from robust_stitching.stitching.keeping import Map

MAPS, FRANK_MODELS = "maps", "frank_models"


def write_files(result: GridResult, record: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write the map of every cell that was trained and the numbers of all below `folder`, each file
    whole or not at all, and the stitched networks where the plan wants them.

    Parameters
    ----------
    record : see `record.as_record`.

    Returns
    -------
    kind of file to path: "json", "maps", "frank_models" and "invariant_images".
    """
    models = Names().of(result.front.model, result.end.model)
    stem = f"{models}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    paths = {"json": folder / "json" / f"{stem}.json"}
    for cell, name in zip(result.cells, map_names(result), strict=True):
        if name is None:
            continue
        paths[MAPS] = folder / MAPS
        checkpoints.write(folder / MAPS / name, _content(cell, result))
        network = cell.trained.network
        if result.plan.frank_models and not checkpoints.in_memory(network.architecture):
            paths[FRANK_MODELS] = folder / FRANK_MODELS
            checkpoints.save(
                folder / FRANK_MODELS / name,
                network,
                cell.measured.source,
                {
                    "kind": "stitch",
                    "front": result.front.called,
                    "end": result.end.called,
                    "test_accuracy": cell.measured.scores["stitched"].accuracy,
                },
                result.class_names,
            )
    for name, cell in _images_of(result).items():
        paths[INVARIANT_IMAGES] = folder / INVARIANT_IMAGES
        write_images(
            paths[INVARIANT_IMAGES] / name, cell.invariant, cell.plan.cut.front_layer, result
        )
    write_json(paths["json"], record)
    return paths


def _images_of(result: GridResult) -> dict[str, Cell]:
    """The names of the files of images that maps were trained on in place of real ones, to one of
    the cells that were."""
    names = Names()
    return {
        _numbered(names.of(cell.plan.cut.front_layer), cell, result): cell
        for cell in result.cells
        if cell.invariant is not None
    }


def _numbered(stem: str, cell: Cell, result: GridResult) -> str:
    """The name of a file of a seed."""
    return f"{stem}.pt" if result.plan.seeds == 1 else f"{stem}-seed{cell.plan.seed}.pt"


def map_names(result: GridResult) -> list[str | None]:
    """The names of the files of the cells' maps; None where there is none."""
    names = Names()

    def name(cell: Cell) -> str | None:
        stem = names.of(cell.plan.cut.front_layer, cell.plan.cut.end_layer)
        if cell.error is not None:
            return None
        return _numbered(stem, cell, result)

    return [name(cell) for cell in result.cells]


def _content(cell: Cell, result: GridResult) -> dict:
    """The map before and after training, by direct matching, and the statistics of the cell."""
    network, direct = cell.trained.network, cell.trained.direct
    first = Map(0, *cell.trained.untrained.transform.values())
    return {
        "front_layer": cell.plan.cut.front_layer,
        "end_layer": cell.plan.cut.end_layer,
        "seed": cell.plan.seed,
        **Map(0, *network.transform.values()).tensors(),
        "initial": first.tensors(),
        "direct_matching": direct and direct.tensors(),
        "statistics": {
            name: values.cpu().clone()
            for name, values in network.named_buffers()
            if name.startswith(("front.", "end."))
        },
        "donors": {
            side: {"path": ref.path, "hash": ref.hash}
            for side, ref in (("front", result.plan.front), ("end", result.plan.end))
        },
    }
