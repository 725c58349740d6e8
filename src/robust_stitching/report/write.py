"""A run's files: the matrix, the stitched network, JSON, PDF, and its line in results.csv."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from robust_stitching import checkpoints
from robust_stitching.errors import UserError
from robust_stitching.files import replacing, slug, write_json
from robust_stitching.report.pdf import plain, write_pdf
from robust_stitching.report.record import NETWORKS
from robust_stitching.stitching.run import StitchResult

COLLECTED = "results.csv"


def write_results(result: StitchResult, record: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write everything of a run below `folder`, each file whole or not at all.

    Returns
    -------
    kind to path: "matrix", "frank_model", "json", "pdf", and "csv", which lies beside `folder`.
    """
    stem = slug(f"{result.front.model}-{result.end.model}_{time.strftime('%Y-%m-%d_%H-%M-%S')}")
    endings = {"matrix": "pt", "frank_model": "pt", "json": "json", "pdf": "pdf"}
    paths = {kind: folder / kind / f"{stem}.{end}" for kind, end in endings.items()}
    _write_matrix(paths["matrix"], result)
    checkpoints.save(
        paths["frank_model"],
        result.network,
        result.measured.source,
        result.training(),
        result.class_names,
    )
    write_json(paths["json"], record)
    with replacing(paths["pdf"]) as temporary:
        write_pdf(temporary, result, record)
    paths["csv"] = folder.parent / COLLECTED
    _append_line(paths["csv"], record, folder.name)
    return paths


def _write_matrix(path: Path, result: StitchResult) -> None:
    """The parameters of the stitching layer: trained, before, on the way, by direct matching."""
    final, initial, direct = result.final, result.initial, result.direct
    checkpoints.write(
        path,
        {
            "weight": final.weight,
            "bias": final.bias,
            "initial": {"weight": initial.weight, "bias": initial.bias},
            "direct_matching": direct and {"weight": direct.weight, "bias": direct.bias},
            "history": {
                "iteration": torch.tensor([kept.iteration for kept in result.trained.maps]),
                "weight": torch.stack([kept.weight for kept in result.trained.maps]),
                "bias": torch.stack([kept.bias for kept in result.trained.maps]),
            },
            "training": result.training(),
        },
    )


def _append_line(path: Path, record: Mapping[str, Any], run_name: str) -> None:
    """One line a run. Columns that earlier lines lack are added to them empty."""
    line = {
        "run": run_name,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "front": record["donors"]["front"]["path"],
        "end": record["donors"]["end"]["path"],
        "dataset": record["data"]["name"],
        "n_images": record["data"]["n_images"],
        **plain(record["params"]),
        **_numbers(record, ""),
    }
    if record["elsewhere"]:
        line["eval_dataset"] = record["elsewhere"]["data"]["name"]
        line |= _numbers(record["elsewhere"], "elsewhere.")
    line["command"] = record["command"]
    table = pd.DataFrame([line])
    before = _lines_of(path)
    if before is not None and list(before.columns) == list(table.columns):
        table.to_csv(path, mode="a", header=False, index=False)  # runs may end at the same time
        return
    with replacing(path) as temporary:
        pd.concat([before, table.astype(object)]).to_csv(temporary, index=False)


def _numbers(record: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What was measured on one dataset, a column a number."""
    attacks = record["attacks"] or {}
    values = {
        "cka": record["cka"],
        "l2": record["l2"],
        "attack_norm": attacks.get("norm"),
        "attack_epsilon": attacks.get("epsilon"),
        "attacked_images": attacks.get("n_images"),
    }
    for name in NETWORKS:
        for key, value in (record[name] or {}).items():
            nested = value if isinstance(value, dict) else {None: value}
            for part, number in nested.items():
                values[".".join(filter(None, (name, key, part)))] = number
    return {prefix + key: value for key, value in values.items()}


def check_collected(out: Path) -> None:
    """Raise UserError, before any work is done, where a run could not add its line."""
    _lines_of(out / COLLECTED)


def _lines_of(path: Path) -> pd.DataFrame | None:
    """The lines of earlier runs, every word as it stands there."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (FileNotFoundError, NotADirectoryError, pd.errors.EmptyDataError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no table to add a line to; move it away.") from error
