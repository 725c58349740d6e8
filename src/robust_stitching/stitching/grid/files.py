"""The maps of a grid as files."""

from pathlib import Path

from robust_stitching import checkpoints
from robust_stitching.basics.files import slug
from robust_stitching.stitching.grid.run import Cell, GridResult

MAPS, FRANK_MODELS = "maps", "frank_models"


def write_maps(result: GridResult, folder: Path) -> tuple[dict[int, str], dict[str, Path]]:
    """Write the map of every cell that was trained below `folder`, each file whole or not at all,
    and the stitched networks where the plan wants them.

    Returns
    -------
    by the number of a cell the name of its file; and kind to path.
    """
    names, paths = {}, {MAPS: folder / MAPS}
    for number, cell in enumerate(result.cells):
        if cell.error is not None:
            continue
        names[number] = f"{_stem(cell, result)}.pt"
        checkpoints.write(folder / MAPS / names[number], _content(cell, result))
        network = cell.trained.network
        if result.plan.frank_models and not checkpoints.in_memory(network.architecture):
            paths[FRANK_MODELS] = folder / FRANK_MODELS
            checkpoints.save(
                folder / FRANK_MODELS / names[number],
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
    return names, paths


def _stem(cell: Cell, result: GridResult) -> str:
    stem = slug(f"{cell.plan.cut.front_layer}-{cell.plan.cut.end_layer}")
    return stem if result.plan.seeds == 1 else f"{stem}-seed{cell.plan.seed}"


def _content(cell: Cell, result: GridResult) -> dict:
    """The map before and after training, by direct matching, and the statistics of the cell."""
    network, direct = cell.trained.network, cell.trained.direct
    weight, bias = network.transform.values()
    first, offset = cell.trained.untrained.transform.values()
    return {
        "front_layer": cell.plan.cut.front_layer,
        "end_layer": cell.plan.cut.end_layer,
        "seed": cell.plan.seed,
        "weight": weight,
        "bias": bias,
        "initial": {"weight": first, "bias": offset},
        "direct_matching": direct and {"weight": direct.weight, "bias": direct.bias},
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
