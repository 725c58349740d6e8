"""A comparison of two networks as plain values, as text for the terminal, and as files."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from robust_stitching.basics.files import replacing, slug, write_json
from robust_stitching.basics.origin import commit, versions
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.evaluation import Accuracy
from robust_stitching.evaluation.intervals import interval_of
from robust_stitching.evaluation.pair import Pair
from robust_stitching.report.drawing import save
from robust_stitching.report.heatmap import heatmap
from robust_stitching.report.tables import aligned
from robust_stitching.similarity import Comparison

GAP = 2


def as_record(
    found: Comparison,
    models: tuple[Checkpoint, Checkpoint],
    pair: Pair,
    params: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """The JSON report of a comparison.

    Parameters
    ----------
    pair : how good the networks are.
    params : the settings of the run, plain values.
    command : the command line that asked for it.
    """
    measures = {}
    for measure in found.measures:
        measures[measure.name] = {
            "estimator": found.estimators[measure.name],
            "n_images": found.n_images[measure.name],
            "range": [measure.low, measure.high],
        }
        if measure.of_outputs:
            value, n = found.outputs[measure.name], found.n_images[measure.name]
            measures[measure.name]["value"] = value
            if measure.share:
                measures[measure.name]["value_interval"] = interval_of(value, n)
        else:
            measures[measure.name]["values"] = found.layerwise[measure.name].tolist()
    return {
        "command": command,
        "params": dict(params),
        "versions": versions(next(models[0].network.parameters()).device),
        "commit": commit(),
        "data": {"name": found.data, "n_images": max(found.n_images.values())},
        "seconds": round(found.seconds, 1),
        "notes": [*pair.notes, *found.notes, *(_about(models) if found.outputs else [])],
        "models": [
            {**model.as_dict(), **_accuracy(accuracy)}
            for model, accuracy in zip(models, pair.accuracies, strict=True)
        ],
        "layers1": list(found.layers1),
        "layers2": list(found.layers2),
        "measures": measures,
    }


def _accuracy(found: Accuracy | None) -> dict[str, Any]:
    if found is None:
        return {"accuracy": None, "accuracy_interval": None}
    between = interval_of(found.accuracy, found.n_images)
    return {"accuracy": found.accuracy, "accuracy_interval": between}


def _about(models: tuple[Checkpoint, Checkpoint]) -> list[str]:
    first, second = models
    if first.dataset == second.dataset:
        return []
    return [
        f"Model 1 was trained on {first.dataset}, model 2 on {second.dataset}: that their outputs "
        "agree means something only where their classes are the same."
    ]


def as_text(record: Mapping[str, Any], width: int) -> str:
    """A comparison for a terminal of `width` columns: a table of layers × layers per measure.

    Where the names of the layers of model 2 do not fit side by side, numbers stand for them; where
    the columns do not fit, they go on below.
    """
    first, second = record["models"]
    head = [
        f"model 1  {first['path']} (rows), {_right_on(first)}",
        f"model 2  {second['path']} (columns), {_right_on(second)}",
        f"data     {record['data']['name']} ({record['params']['split']})",
    ]
    parts = ["\n".join(head)]
    named = _columns_width(record["layers1"], record["layers2"]) <= width
    if not named:
        listed = "  ".join(f"{i}·{name}" for i, name in enumerate(record["layers2"], 1))
        parts.append("\n".join(_filled(f"columns  {listed}", width)))
    for measure in record["measures"].values():
        if "values" in measure:
            about = f"{measure['estimator']}; {measure['n_images']:,} images"
            rows = _numbers(measure["values"])
            tables = _tables(record["layers1"], record["layers2"], rows, width, named)
            parts.append("\n".join([*_filled(about, width), "", "\n\n".join(tables)]))
    outputs = [["outputs", "value", "95% interval", "images"]]
    for measure in record["measures"].values():
        if "value" in measure:
            ends = measure.get("value_interval")
            interval = "–" if ends is None else " – ".join(f"{end:.4f}" for end in ends)
            cells = [f"{measure['value']:.4f}", interval, f"{measure['n_images']:,}"]
            outputs.append([measure["estimator"], *cells])
    if len(outputs) > 1:
        parts.append(aligned(outputs))
    parts += ["\n".join(_filled(note, width)) for note in record["notes"]]
    return "\n\n".join(parts)


def _right_on(model: Mapping[str, Any]) -> str:
    if model["accuracy"] is None:
        return f"no accuracy: made for {model['classes']} classes"
    low, high = model["accuracy_interval"]
    return f"accuracy {model['accuracy']:.2%} ({low:.1%} to {high:.1%})"


def _filled(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _numbers(values: Sequence[Sequence[float]]) -> list[list[str]]:
    return [["–" if v != v else f"{v:.3f}" for v in row] for row in values]


def _columns_width(rows: Sequence[str], columns: Sequence[str]) -> int:
    return max(map(len, rows)) + sum(max(len(name), 6) + GAP for name in columns)


def _tables(
    layers1: Sequence[str],
    layers2: Sequence[str],
    cells: Sequence[Sequence[str]],
    width: int,
    named: bool,
) -> list[str]:
    """One table, or as many below each other as its columns need."""
    headings = list(layers2) if named else [str(i) for i in range(1, len(layers2) + 1)]
    widest = max(len(text) for row in [headings, *cells] for text in row)
    per_table = max(1, (width - max(map(len, layers1))) // (widest + GAP))
    starts = [0] if named else range(0, len(headings), per_table)
    tables = []
    for start in starts:
        part = slice(start, None if named else start + per_table)
        rows = [[name, *row[part]] for name, row in zip(layers1, cells, strict=True)]
        tables.append(aligned([["", *headings[part]], *rows]))
    return tables


def write_comparison(
    found: Comparison,
    record: Mapping[str, Any],
    models: tuple[Checkpoint, Checkpoint],
    folder: Path,
) -> dict[str, Path]:
    """Write the numbers and a heat map of every measure below `folder`, each file whole or not at
    all.

    Returns
    -------
    kind to path: "json", "csv", and "figures", a folder with a PNG and a PDF for each measure.
    """
    stem = slug("-".join(model.model for model in models))
    paths = {
        "json": folder / "json" / f"{stem}.json",
        "csv": folder / "csv" / f"{stem}.csv",
        "figures": folder / "figures",
    }
    write_json(paths["json"], record)
    with replacing(paths["csv"]) as temporary:
        pd.DataFrame(_lines(record)).to_csv(temporary, index=False)
    about = f"{found.data} ({record['params']['split']})"
    for measure in found.measures:
        if not measure.of_outputs:
            figure = heatmap(found, measure, tuple(map(_label, models)), about)
            save(figure, paths["figures"] / measure.name)
    if all(measure.of_outputs for measure in found.measures):
        del paths["figures"]
    return paths


def _label(model: Checkpoint) -> str:
    """What tells a network from others of its kind: its folder, where all files are model.pt."""
    path = model.path
    name = path.resolve().parent.name if path.stem == "model" else path.stem
    readable = os.fsencode(name).decode("utf-8", "replace")  # file names need not be text
    return f"{model.model}, {readable}"


def _lines(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each number, with what it is."""
    lines = []
    for name, measure in record["measures"].items():
        about = {key: measure[key] for key in ("n_images", "estimator")}
        if "value" in measure:
            nowhere = {"layer1": None, "layer2": None}
            lines.append({"measure": name, **nowhere, "value": measure["value"], **about})
            continue
        for layer1, row in zip(record["layers1"], measure["values"], strict=True):
            for layer2, value in zip(record["layers2"], row, strict=True):
                place = {"layer1": layer1, "layer2": layer2}
                lines.append({"measure": name, **place, "value": value, **about})
    return lines
