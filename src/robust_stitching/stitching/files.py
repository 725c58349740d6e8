"""A run's files but its pages: the matrix, the stitched network, the JSON report."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from robust_stitching import checkpoints
from robust_stitching.basics.files import write_json
from robust_stitching.basics.names import Names
from robust_stitching.plans import as_values
from robust_stitching.stitching.invariant import NAME as INVARIANT_IMAGES
from robust_stitching.stitching.invariant import InvariantImages
from robust_stitching.stitching.run import StitchResult


def write_files(result: StitchResult, record: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write what a run found below `folder`, each file whole or not at all.

    Parameters
    ----------
    record : see `record.as_record`.

    Returns
    -------
    kind to path: "matrix", "json", and "frank_model" where files can say how its donors are made;
    "invariant_images" where the map was trained on such.
    """
    models = Names().of(result.front.model, result.end.model)
    stem = f"{models}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    endings = {"matrix": "pt", "frank_model": "pt", "json": "json"}
    paths = {kind: folder / kind / f"{stem}.{end}" for kind, end in endings.items()}
    _write_matrix(paths["matrix"], result)
    if checkpoints.in_memory(result.network.architecture):
        del paths["frank_model"]
    else:
        checkpoints.save(
            paths["frank_model"],
            result.network,
            result.measured.source,
            result.training(),
            result.class_names,
        )
    if result.invariant is not None:
        layer = result.plan.cut.front_layer
        paths[INVARIANT_IMAGES] = folder / INVARIANT_IMAGES / f"{Names().of(layer)}.pt"
        write_images(paths[INVARIANT_IMAGES], result.invariant, layer, result)
    write_json(paths["json"], record)
    return paths


def write_images(path: Path, made: InvariantImages, front_layer: str, result: Any) -> None:
    """Leave images that a front takes for others, and what they were made by.

    Parameters
    ----------
    result : of a stitch or a grid.
    """
    about = {
        "front": result.front.called,
        "front_layer": front_layer,
        "dataset": made.split.source,
        "class_names": list(made.split.classes),
        "plan": as_values(result.plan),
        **made.as_dict(),
    }
    checkpoints.write(path, made.tensors() | about)


def _write_matrix(path: Path, result: StitchResult) -> None:
    """The parameters of the stitching layer: trained, before, on the way, by direct matching."""
    maps = result.trained.maps
    checkpoints.write(
        path,
        {
            **result.final.tensors(),
            "initial": result.initial.tensors(),
            "direct_matching": result.direct and result.direct.tensors(),
            "history": {
                "iteration": torch.tensor([kept.iteration for kept in maps]),
                **{
                    name: torch.stack([getattr(kept, name) for kept in maps])
                    for name in result.final.tensors()
                },
            },
            "training": result.training(),
        },
    )
