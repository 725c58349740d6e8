"""A grid of stitches as one page for a browser, which needs nothing but itself."""

import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np

from robust_stitching.report.grid.quantities import Quantity, diagonal, quantities, value_at
from robust_stitching.report.grid.text import called_grid, described
from robust_stitching.report.grid.verdict import verdict
from robust_stitching.report.stitch.tables import called
from robust_stitching.report.tables import INTERVAL, shown
from robust_stitching.stitching.record import NETWORKS

DIGITS = 4
"""Of the numbers in a page."""

CURVES = ("accuracy", "worst_case", "direct_matching", "cka", "random_front")
COLUMNS = (
    ("accuracy", "accuracy", ".2%"),
    ("95%", "accuracy_interval", INTERVAL),
    ("agreement", "agreement_with_end", ".2%"),
    ("worst case", "robust.worst case", ".2%"),
    ("CKA", "debiased_cka_to_end", ".3f"),
)
INTERVALS = {
    "accuracy": "stitched.accuracy_interval",
    "agreement": "stitched.agreement_with_end_interval",
    "worst_case": "stitched.robust_interval.worst case",
    "direct_matching": "direct_matching.accuracy_interval",
}
"""Of quantities, where a cell has it."""


def page(record: Mapping[str, Any], pdf: str | None = None) -> str:
    """The page of a grid.

    Parameters
    ----------
    pdf : where its report lies, as seen from the page; None for none.
    """
    from plotly.offline import get_plotlyjs

    template = files(__package__).joinpath("page.html").read_text("utf-8")
    data = json.dumps(_data(record) | {"pdf": pdf}, allow_nan=False).replace("</", "<\\/")
    parts = {"TITLE": html.escape(called_grid(record)), "PLOTLY": get_plotlyjs(), "DATA": data}
    for name, text in parts.items():
        before, _, after = template.partition(f"%{name}%")
        template = before + text + after
    return template


def _data(record: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page shows, as plain values."""
    donors = record["donors"]
    return {
        "title": called_grid(record),
        "byline": described(record),
        "said": verdict(record),
        "notes": record["notes"],
        "rows": record["front_layers"],
        "columns": record["end_layers"],
        "seeds": record["seeds"],
        "labels": [f"{side}: {donors[side]['model']}" for side in ("front", "end")],
        "quantities": [_quantity(quantity) for quantity in quantities(record)],
        "diagonal": diagonal(record),
        "donors": [
            {"side": side, "accuracy": record["cells"][0][side]["accuracy"]}
            for side in ("front", "end")
            if record["cells"][0][side]["accuracy"] is not None
        ],
        "headings": ["network", *(heading for heading, _, _ in COLUMNS)],
        "cells": [_cell(cell) for cell in record["cells"]],
    }


def _quantity(quantity: Quantity) -> dict[str, Any]:
    return {
        "key": quantity.key,
        "title": quantity.title,
        "low": quantity.low,
        "high": quantity.high,
        "percent": quantity.key not in ("cka", "relative_accuracy"),
        "curve": quantity.key in CURVES,
        "values": _rounded(quantity.values),
    }


def _rounded(values: np.ndarray) -> list[Any]:
    return [
        _rounded(part) if np.ndim(part) else None if np.isnan(part) else round(float(part), DIGITS)
        for part in values
    ]


def _cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's report: a table of its networks, and its notes."""
    rows = [
        [called(name), *(shown(cell[name], key, form) for _, key, form in COLUMNS)]
        for name in NETWORKS
        if cell.get(name) is not None
    ]
    where = {key: cell[key] for key in ("front_layer", "end_layer", "seed", "error", "notes")}
    intervals = {
        key: [round(end, DIGITS) for end in ends]
        for key, place in INTERVALS.items()
        if (ends := value_at(cell, place)) is not None
    }
    return {**where, "table": rows, "intervals": intervals}
