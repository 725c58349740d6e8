"""A comparison of two networks as plain values, which knows of similarities and of accuracies."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from robust_stitching.basics.files import as_json
from robust_stitching.basics.origin import commit, versions
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.evaluation import Accuracy
from robust_stitching.evaluation.intervals import interval_of
from robust_stitching.evaluation.pair import Pair
from robust_stitching.similarity import Comparison
from robust_stitching.similarity.forms import CHANNELS
from robust_stitching.similarity.measure import Measure
from robust_stitching.similarity.null import Null

OVER = {"pooled": " of pooled channels", "all": " over positions"}
"""What measures of channels take for rows, behind their titles."""


def as_record(
    comparison: Comparison,
    models: Sequence[Mapping[str, Any]],
    params: Mapping[str, Any],
    command: str,
    device: torch.device,
) -> dict[str, Any]:
    """The JSON report of a comparison, as it comes back from its file.

    Parameters
    ----------
    models : what is known of each side, with its "path", "model" and "label".
    params : the settings of the run, plain values.
    command : the command line that asked for it.
    """
    record = {
        "command": command,
        "params": params,
        "versions": versions(device),
        "commit": commit(),
        "data": {"name": comparison.data, "n_images": max(comparison.n_images.values())},
        "seconds": round(comparison.seconds, 1),
        "notes": comparison.notes,
        "models": models,
        "layers1": comparison.layers1,
        "layers2": comparison.layers2,
        "measures": {
            measure.name: _measured(measure, comparison) for measure in comparison.measures
        },
    }
    return as_json(record)


def as_models(models: Sequence[Checkpoint], pair: Pair) -> list[dict[str, Any]]:
    """What is known of networks, and how good they are."""
    return [
        {**model.as_dict(), "label": _label(model), **_accuracy(accuracy)}
        for model, accuracy in zip(models, pair.accuracies, strict=True)
    ]


def _measured(measure: Measure, comparison: Comparison) -> dict[str, Any]:
    name, n = measure.name, comparison.n_images[measure.name]
    told = {
        "title": measure.title + (OVER[comparison.positions] if measure.of == CHANNELS else ""),
        "estimator": comparison.estimators[name],
        "n_images": n,
        "range": [measure.low, measure.high],
        "larger_is_more_similar": measure.larger_is_more_similar,
    }
    doubts = _doubts(name, comparison)
    if not measure.of_outputs:
        return {**told, "values": comparison.layerwise[name].tolist(), **doubts}
    value = comparison.outputs[name]
    interval = {"value_interval": interval_of(value, n)} if measure.share else {}
    return {**told, "value": value, **interval, **doubts}


def _doubts(name: str, comparison: Comparison) -> dict[str, Any]:
    """What a measure would be by chance, and its intervals, where somebody asked."""
    found: dict[str, Any] = {}
    if name in comparison.nulls:
        found |= _of_null(comparison.nulls[name])
    if name in comparison.best:
        (row, column), null = comparison.best[name]
        layers = {"layer1": comparison.layers1[row], "layer2": comparison.layers2[column]}
        value = comparison.layerwise[name][row, column].item()
        found["best"] = {**layers, "value": value, **_of_null(null)}
    if name in comparison.intervals:
        low, high = comparison.intervals[name]
        found |= {"low": low.tolist(), "high": high.tolist()}
    return found


def _of_null(null: Null) -> dict[str, Any]:
    return {key: values.tolist() for key, values in vars(null).items()}


def _accuracy(accuracy: Accuracy | None) -> dict[str, Any]:
    if accuracy is None:
        return {"accuracy": None, "accuracy_interval": None}
    between = interval_of(accuracy.accuracy, accuracy.n_images)
    return {"accuracy": accuracy.accuracy, "accuracy_interval": between}


def notes_of_answers(comparison: Comparison, models: tuple[Checkpoint, Checkpoint]) -> list[str]:
    """What to know of networks whose answers were compared."""
    first, second = models
    trained_on = {first.dataset, second.dataset}
    if not comparison.outputs or None in trained_on or len(trained_on) == 1:
        return []
    return [
        f"Model 1 was trained on {first.dataset}, model 2 on {second.dataset}: that their outputs "
        "agree means something only where their classes are the same."
    ]


def _label(model: Checkpoint) -> str:
    """What tells a network from others of its kind: its folder, where all files are model.pt."""
    path = model.path
    if path is None:
        return model.model
    name = path.resolve().parent.name if path.stem == "model" else path.stem
    readable = os.fsencode(name).decode("utf-8", "replace")  # file names need not be text
    return f"{model.model}, {readable}"
