"""All numbers of a sweep as one tidy table: a line a number."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from robust_stitching.report.sweep.read import Result
from robust_stitching.report.tidy import BOTH, INTERVAL, NUMBER, number_of, numbers_of

PLACE = ("front", "end", "front_layer", "end_layer")


def table_of(results: Sequence[Result]) -> pd.DataFrame:
    """The numbers; besides where they were measured and what they are, a column for each option
    that varies."""
    rows = [row for result in results for row in _rows(result)]
    options = [name for result in results for name in result.options]
    seeds = {row["seed"] for row in rows if row["seed"] is not None}
    varying = [name for name in dict.fromkeys(options) if name != "seed"]
    varying += ["seed"] if len(seeds) > 1 or "seed" in options else []
    table = pd.DataFrame(rows, columns=[*PLACE, *varying, *NUMBER])
    return table.astype({"seed": "Int64"}) if "seed" in varying else table


def _rows(result: Result) -> Iterator[dict[str, Any]]:
    shared = {"front": result.front, "end": result.end, **_plain(result.options)}
    for place, numbers in _grid(result) if result.is_grid else _comparison(result):
        for number in numbers:
            if number["value"] is not None:
                yield {"seed": None, **shared, **place, **number}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: " ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in options.items()
    }


Numbers = Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]


def _grid(result: Result) -> Numbers:
    for cell in result.record["cells"]:
        place = {key: cell[key] for key in ("front_layer", "end_layer", "seed")}
        numbers = numbers_of({**result.record, **cell})
        if cell.get("elsewhere"):
            numbers += numbers_of(cell["elsewhere"], "elsewhere.")
        yield place, numbers


def _comparison(result: Result) -> Numbers:
    for name, measure in result.record["measures"].items():
        if "value" in measure:
            ends = measure.get("value" + INTERVAL) or [measure.get("low"), measure.get("high")]
            yield {}, [number_of(BOTH, name, measure["value"], ends, measure["n_images"])]
            continue
        for i, first in enumerate(result.record["layers1"]):
            for j, second in enumerate(result.record["layers2"]):
                ends = [measure[key][i][j] if key in measure else None for key in ("low", "high")]
                number = number_of(BOTH, name, measure["values"][i][j], ends, measure["n_images"])
                yield {"front_layer": first, "end_layer": second}, [number]
