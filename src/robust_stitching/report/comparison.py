"""A comparison of two networks, from its JSON report: text for the terminal, and files."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from robust_stitching.basics.files import replacing, slug, write_json
from robust_stitching.report.drawing import save
from robust_stitching.report.heat_maps import figure_of
from robust_stitching.report.tables import aligned

GAP = 2
SUM = re.compile(r"i?add(_\d+)?")
LEVEL = 0.05
DOUBTS = "p", "threshold", "calibrated", "low", "high"
"""Keys beside values, of the same shape."""


def as_text(record: Mapping[str, Any], width: int) -> str:
    """A comparison for a terminal of `width` columns: a table of layers × layers per measure.

    Where the names of the layers of model 2 do not fit side by side, numbers stand for them; where
    the columns do not fit, they go on below.
    """
    first, second = record["models"]
    head = [
        f"model 1  {first['path']} (rows){_right_on(first)}",
        f"model 2  {second['path']} (columns){_right_on(second)}",
        f"data     {_data(record)}",
    ]
    parts = ["\n".join(head)]
    named = _columns_width(record["layers1"], record["layers2"]) <= width
    if not named:
        listed = "  ".join(f"{i}·{name}" for i, name in enumerate(record["layers2"], 1))
        parts.append("\n".join(_filled(f"columns  {listed}", width)))
    for measure in record["measures"].values():
        if "values" in measure:
            about = f"{measure['estimator']}; {measure['n_images']:,} images"
            rows = _numbers(measure)
            tables = _tables(record["layers1"], record["layers2"], rows, width, named)
            parts.append("\n".join([*_filled(about, width), "", "\n\n".join(tables)]))
            parts += ["\n".join(_filled(told, width)) for told in _doubts(record, measure)]
    answers = [measure for measure in record["measures"].values() if "value" in measure]
    doubted = ["p"] if any("p" in measure for measure in answers) else []
    outputs = [["outputs", "value", "95% interval", *doubted, "images"]]
    for measure in answers:
        ends = measure.get("value_interval") or [measure.get("low"), measure.get("high")]
        interval = "–" if None in ends else " – ".join(f"{end:.4f}" for end in ends)
        cells = [f"{measure['value']:.4f}", interval, *[_p(measure.get("p"))] * len(doubted)]
        outputs.append([measure["estimator"], *cells, f"{measure['n_images']:,}"])
    if len(outputs) > 1:
        parts.append(aligned(outputs))
    parts += ["\n".join(_filled(note, width)) for note in record["notes"]]
    return "\n\n".join(parts)


def _right_on(model: Mapping[str, Any]) -> str:
    if "accuracy" not in model:  # saved activations
        return ""
    if model["accuracy"] is None:
        return f", no accuracy: made for {model['classes']} classes"
    low, high = model["accuracy_interval"]
    return f", accuracy {model['accuracy']:.2%} ({low:.1%} to {high:.1%})"


def _data(record: Mapping[str, Any]) -> str:
    name, split = record["data"]["name"], record["params"].get("split")
    return f"{name} ({split})" if split else name


def _filled(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _numbers(measure: Mapping[str, Any]) -> list[list[str]]:
    """The values, those that chance explains in brackets."""
    values, explained = measure["values"], by_chance(measure)

    def told(value: float | None, chance: bool) -> str:
        if value is None:
            return "–"
        return f"({value:.3f})" if chance else f"{value:.3f}"

    return [list(map(told, *each)) for each in zip(values, explained, strict=True)]


def by_chance(measure: Mapping[str, Any]) -> list[list[bool]]:
    """Of every pair of layers whether its value is none beyond the 95% of permutations."""
    if "p" not in measure:
        return [[False] * len(row) for row in measure["values"]]
    return [[p is not None and p > LEVEL for p in row] for row in measure["p"]]


def _doubts(record: Mapping[str, Any], measure: Mapping[str, Any]) -> Iterator[str]:
    """What permutations and blocks say of a table, in sentences."""
    count = record["params"]["null"]
    if "p" in measure:
        explained = sum(map(sum, by_chance(measure)))
        told = f"{explained} in brackets that chance explains" if explained else "all beyond chance"
        best = measure.get("best")
        if best:
            told += (
                f"; the most similar of all, {best['layer1']} with {best['layer2']}: "
                f"{best['value']:.3f}, p = {_p(best['p'])} of the most similar of each permutation"
            )
        yield f"{count} permutations of the images, 5%: {told}"
    if "low" in measure:
        halves = [
            (high - low) / 2
            for lows, highs in zip(measure["low"], measure["high"], strict=True)
            for low, high in zip(lows, highs, strict=True)
            if low is not None
        ]
        if halves:
            yield (
                f"95% intervals (jackknife over blocks of images): ±{min(halves):.3f} to "
                f"±{max(halves):.3f}; each stands in the files"
            )


def _p(p: float | None) -> str:
    return "–" if p is None else f"{p:.3f}"


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


def write_files(record: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write the numbers and a heat map of every measure of layers below `folder`, each file whole
    or not at all.

    Returns
    -------
    kind to path: "json", "csv", and "figures", a folder with a PNG and a PDF for each measure.
    """
    stem = slug("-".join(model["model"] for model in record["models"]))
    paths = {kind: folder / kind / f"{stem}.{kind}" for kind in ("json", "csv")}
    write_json(paths["json"], record)
    with replacing(paths["csv"]) as temporary:
        pd.DataFrame(_lines(record)).to_csv(temporary, index=False)
    for name, measure in record["measures"].items():
        if "values" in measure:
            paths["figures"] = folder / "figures"
            save(_figure(record, measure), paths["figures"] / name)
    return paths


def _figure(record: Mapping[str, Any], measure: Mapping[str, Any]) -> Figure:
    """Layers of model 1 down, of model 2 to the right. Bright is alike, for distances too."""
    rows, columns = (_distinct(record, number) for number in (1, 2))
    told = [measure["estimator"], f"{measure['n_images']:,} images of {_data(record)}"]
    if len(rows) < len(record["layers1"]) or len(columns) < len(record["layers2"]):
        told.append("Sums before their ReLU stand in the files alone")
    if "p" in measure:
        told.append(f"Hatched: by chance (p > {LEVEL} of {record['params']['null']} permutations)")
    shown = np.ix_(rows, columns)
    return figure_of(
        np.array(measure["values"], dtype=float)[shown],  # None becomes NaN
        [record["layers1"][row] for row in rows],
        [record["layers2"][column] for column in columns],
        *measure["range"],
        colours="magma" if measure["larger_is_more_similar"] else "magma_r",
        title=measure["title"],
        labels=tuple(f"model {i}: {m['label']}" for i, m in enumerate(record["models"], 1)),
        caption=". ".join(told),
        marked=np.array(by_chance(measure))[shown],
    )


def _distinct(record: Mapping[str, Any], number: int) -> list[int]:
    """The layers of a model that a heat map shows, by their numbers: where nobody chose them, no
    sum whose ReLU comes next, which tells nearly the same."""
    layers = record[f"layers{number}"]
    if record["params"][f"layers{number}"] is not None:
        return list(range(len(layers)))
    pairs = zip(layers, [*layers[1:], ""], strict=True)
    return [i for i, (own, behind) in enumerate(pairs) if not _is_sum_before(own, behind)]


def _is_sum_before(layer: str, behind: str) -> bool:
    (block, _, name), (same, _, relu) = layer.rpartition("."), behind.rpartition(".")
    return block == same and SUM.fullmatch(name) is not None and relu.startswith("relu")


def _lines(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each number, with what it is."""
    lines = []
    for name, measure in record["measures"].items():
        about = {key: measure[key] for key in ("n_images", "estimator")}
        doubts = [key for key in DOUBTS if key in measure]
        if "value" in measure:
            nowhere = {"layer1": None, "layer2": None, "value": measure["value"]}
            own = {key: measure[key] for key in doubts}
            lines.append({"measure": name, **nowhere, **own, **about})
            continue
        for i, layer1 in enumerate(record["layers1"]):
            for j, layer2 in enumerate(record["layers2"]):
                place = {"layer1": layer1, "layer2": layer2, "value": measure["values"][i][j]}
                own = {key: measure[key][i][j] for key in doubts}
                lines.append({"measure": name, **place, **own, **about})
    return lines
