"""All numbers of a sweep as one tidy table: a line a number."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from robust_stitching.report.sweep.read import COMPARE, Asked, Result, plain, reading
from robust_stitching.report.tidy import (
    BOTH,
    INTERVAL,
    NUMBER,
    images_compared,
    number_of,
    numbers_of,
)

PLACE = ("front", "end", "front_layer", "end_layer")
ORDER = (
    *("pair", "combination"),
    *("front_layer_place", "end_layer_place", "front_layer_depth", "end_layer_depth"),
)
"""Columns for those who draw: pairs and combinations of options in the order of the plan, whichever
results are there, where layers stand among those of their network, and how deep in it."""


def table_of(results: Sequence[Result], asked: Sequence[Asked]) -> pd.DataFrame:
    """The numbers; besides where they were measured and what they are, a column for each option
    that varies, and those of `ORDER`.

    Parameters
    ----------
    asked : all that the sweep will have, in its order.
    """
    places = _places(results)
    rows = [row for result in results for row in _read(result, *places[_kind_of(result)])]
    options = [name for result in results for name in result.options]
    seeds = {row["seed"] for row in rows if row["seed"] is not None}
    varying = [name for name in dict.fromkeys(options) if name != "seed"]
    varying += ["seed"] if len(seeds) > 1 or "seed" in options else []
    table = pd.DataFrame(rows, columns=[*PLACE, *varying, *NUMBER, *ORDER])
    for name in ("pair", "combination"):
        every = list(dict.fromkeys(getattr(one, name) for one in asked))
        table[name] = pd.Categorical(table[name], every)
    return table.astype(dict.fromkeys((name for name in varying if _is_whole(name, rows)), "Int64"))


def _is_whole(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the values of an option are whole numbers, where it has some."""
    return {type(row.get(name)) for row in rows} - {type(None)} == {int}


def _kind_of(result: Result) -> tuple[str, bool]:
    return result.pair, result.is_grid


Layers = dict[str, tuple[int, float | None]]
"""Layers to where they stand in their network; how deep, where that is known."""

NOWHERE = (None, None)


def _places(results: Sequence[Result]) -> dict[tuple[str, bool], tuple[Layers, Layers]]:
    """Of the front and of the end of each pair."""
    found: dict[tuple[str, bool], tuple[Layers, Layers]] = {}
    for result in results:
        sides = ("front_layers", "end_layers") if result.is_grid else ("layers1", "layers2")
        of_pair = found.setdefault(_kind_of(result), ({}, {}))
        depths = result.record.get("depths") or {}
        with reading(result):
            for side, whose, places in zip(sides, ("front", "end"), of_pair, strict=True):
                for layer in result.record[side]:
                    depth = (depths.get(whose) or {}).get(layer)
                    places.setdefault(layer, (len(places), depth))
    return found


def _read(result: Result, fronts: Layers, ends: Layers) -> list[dict[str, Any]]:
    with reading(result):
        return list(_rows(result, fronts, ends))


def _rows(result: Result, fronts: Layers, ends: Layers) -> Iterator[dict[str, Any]]:
    shared = {"front": result.front, "end": result.end}
    shared |= {name: plain(value) for name, value in result.options.items()}
    shared |= {"pair": result.pair, "combination": result.combination}
    for place, numbers in _grid(result) if result.is_grid else _comparison(result):
        front = fronts.get(place.get("front_layer"), NOWHERE)
        end = ends.get(place.get("end_layer"), NOWHERE)
        shared |= dict(zip(ORDER[2:], (front[0], end[0], front[1], end[1]), strict=True))
        for number in numbers:
            if number["value"] is not None:
                yield {"seed": None, **shared, **place, **number}


Numbers = Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]


def _grid(result: Result) -> Numbers:
    compared = images_compared(result.record)
    for cell in result.record["cells"]:
        place = {key: cell[key] for key in ("front_layer", "end_layer", "seed")}
        numbers = numbers_of({**result.record, **cell}, compared=compared)
        if cell.get("elsewhere"):
            numbers += numbers_of(cell["elsewhere"], "elsewhere.", compared)
        yield place, numbers


def _comparison(result: Result) -> Numbers:
    for key, measure in result.record["measures"].items():
        name = f"{COMPARE}{key}"
        if "value" in measure:
            ends = measure.get("value" + INTERVAL) or [measure.get("low"), measure.get("high")]
            yield {}, [number_of(BOTH, name, measure["value"], ends, measure["n_images"])]
            continue
        for i, first in enumerate(result.record["layers1"]):
            for j, second in enumerate(result.record["layers2"]):
                ends = [measure[end][i][j] if end in measure else None for end in ("low", "high")]
                number = number_of(BOTH, name, measure["values"][i][j], ends, measure["n_images"])
                yield {"front_layer": first, "end_layer": second}, [number]
