"""The quantities of a grid as arrays, whose axes are seeds, front layers and end layers."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from robust_stitching.stitching.grid.diagonal import diagonal as cells_on_diagonal

WORST = "worst case"


class Quantity(NamedTuple):
    """What a map shows.

    Attributes
    ----------
    key : as files and columns call it.
    title : what colours and axes mean, with their unit.
    low, high : the range of the colours, which those with the same one share; None has no end.
    values : float64 of shape (seeds, front layers, end layers), NaN where there is none.
    """

    key: str
    title: str
    low: float | None
    high: float | None
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Over seeds, NaN where there is no value of any."""
        known = np.isfinite(self.values)
        total = np.where(known, self.values, 0).sum(axis=0)
        count = known.sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


PLACES = (
    ("accuracy", "accuracy of the stitched network", 0, 1, "stitched.accuracy"),
    ("relative_accuracy", "accuracy relative to the end", 0, 1, "stitched.relative_accuracy"),
    ("agreement", "agreement with the end", 0, 1, "stitched.agreement_with_end"),
    ("worst_case", "accuracy under attack, worst case", 0, 1, f"stitched.robust.{WORST}"),
    ("direct_matching", "accuracy of direct matching", 0, 1, "direct_matching.accuracy"),
    ("cka", "debiased CKA of front and end", 0, 1, "debiased_cka"),
    ("random_front", "accuracy behind random fronts", 0, 1, "random_fronts"),
    ("gap", "accuracy above that behind random fronts", -1, 1, "gaps.random_front"),
)
"""Key, title, range, and where a cell has it."""


def quantities(record: Mapping[str, Any]) -> list[Quantity]:
    """Those that a grid has."""
    found = []
    for key, title, low, high, place in PLACES:
        values = values_at(record, place)
        if np.isfinite(values).any():
            found.append(Quantity(key, title, low, high, values))
    return found


def values_at(record: Mapping[str, Any], place: str) -> np.ndarray:
    """One number of every cell; the mean where there is a list of them."""
    axes = [
        {name: number for number, name in enumerate(record[names])}
        for names in ("seeds", "front_layers", "end_layers")
    ]
    values = np.full([len(axis) for axis in axes], np.nan)
    for cell in record["cells"]:
        where = (cell["seed"], cell["front_layer"], cell["end_layer"])
        value = value_at(cell, place)
        if value is not None:
            number = fmean(value) if isinstance(value, list) else value
            values[tuple(axis[name] for axis, name in zip(axes, where, strict=True))] = number
    return values


def value_at(cell: Mapping[str, Any], place: str) -> Any:
    """What stands at a place of a cell, whose dots go deeper; None where there is nothing."""
    value: Any = cell
    for part in place.split("."):
        value = None if value is None else value.get(part)
    return value


def diagonal(record: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The numbers of the front and the end layer of the cells along the diagonal, by depth."""
    known = record.get("depths") or {}
    rows, columns = record["front_layers"], record["end_layers"]
    cells = dict.fromkeys((cell["front_layer"], cell["end_layer"]) for cell in record["cells"])
    found = cells_on_diagonal(
        list(cells),
        depths_of(rows, known.get("front") or {}),
        depths_of(columns, known.get("end") or {}),
    )
    return [(rows.index(row), columns.index(column)) for row, column in found]


def depths_of(layers: Sequence[str], known: Mapping[str, float | None]) -> dict[str, float]:
    """Layers to their depths; to their places in the list where one is not known."""
    if all(known.get(layer) is not None for layer in layers):
        return {layer: known[layer] for layer in layers}
    return {layer: number / max(len(layers) - 1, 1) for number, layer in enumerate(layers)}
