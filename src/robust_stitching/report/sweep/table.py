"""All numbers of a sweep as one tidy table: a line a number."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from robust_stitching.report.sweep.read import Result
from robust_stitching.stitching.record import NETWORKS

PLACE = ("front", "end", "front_layer", "end_layer")
NUMBER = ("network", "quantity", "value", "low", "high", "n_images")
BOTH = ""
"""In the place of a network: a number of both, at the layers."""
INTERVAL = "_interval"
AT_THE_CUT = ("cka", "debiased_cka", "l2")
NO_QUANTITIES = ("n_images",)


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
        numbers = _of_data({**result.record, **cell}, "")
        if cell.get("elsewhere"):
            numbers += _of_data(cell["elsewhere"], "elsewhere.")
        yield place, numbers


def _of_data(record: Mapping[str, Any], prefix: str) -> list[dict[str, Any]]:
    """What was measured on one dataset."""
    images = (record.get("data") or {}).get("n_images")
    attacked = (record.get("attacks") or {}).get("n_images")
    numbers = [
        _number(BOTH, prefix + key, record.get(key), record.get(key + INTERVAL), images)
        for key in AT_THE_CUT
    ]
    for network in NETWORKS:
        scores = record.get(network) or {}
        n = scores.get("n_images", images)
        for key, value in scores.items():
            if key.endswith(INTERVAL) or key in NO_QUANTITIES:
                continue
            within, quantity = scores.get(key + INTERVAL) or {}, prefix + key
            if isinstance(value, Mapping):
                n_here = attacked if key == "robust" else n
                numbers += [
                    _number(network, f"{quantity}.{part}", inner, within.get(part), n_here)
                    for part, inner in value.items()
                ]
            else:
                numbers.append(_number(network, quantity, value, within, n))
    return numbers


def _comparison(result: Result) -> Numbers:
    for name, measure in result.record["measures"].items():
        if "value" in measure:
            ends = measure.get("value" + INTERVAL) or [measure.get("low"), measure.get("high")]
            yield {}, [_number(BOTH, name, measure["value"], ends, measure["n_images"])]
            continue
        for i, first in enumerate(result.record["layers1"]):
            for j, second in enumerate(result.record["layers2"]):
                ends = [measure[key][i][j] if key in measure else None for key in ("low", "high")]
                number = _number(BOTH, name, measure["values"][i][j], ends, measure["n_images"])
                yield {"front_layer": first, "end_layer": second}, [number]


def _number(
    network: str, quantity: str, value: Any, ends: Sequence[Any] | None, n_images: int | None
) -> dict[str, Any]:
    low, high = ends or (None, None)
    counts = isinstance(value, int | float) and not isinstance(value, bool)
    value = float(value) if counts else None
    return dict(zip(NUMBER, (network, quantity, value, low, high, n_images), strict=True))
