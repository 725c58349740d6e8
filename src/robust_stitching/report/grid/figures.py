"""The figures of a grid: heat maps on one scale, and curves along the diagonal."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from robust_stitching.report.drawing import STYLE, WIDTH, shortened
from robust_stitching.report.grid.quantities import (
    WORST,
    Quantity,
    diagonal,
    quantities,
    value_at,
    values_at,
)
from robust_stitching.report.heat_maps import figure_of

DIVERGING = "RdBu_r"
CURVES = (
    ("stitched", "stitched.accuracy", "C0", "o"),
    ("stitched, worst case under attack", f"stitched.robust.{WORST}", "C3", "s"),
    ("direct matching", "direct_matching.accuracy", "C2", "^"),
    ("direct matching, statistics again", "direct_matching_recalibrated.accuracy", "C8", "v"),
    ("random fronts", "random_fronts", "0.5", "x"),
    ("debiased CKA", "debiased_cka", "C4", "D"),
)
"""Name, place in a cell, colour and marker of a curve."""


def heat_map_of(record: Mapping[str, Any], quantity: Quantity) -> Figure:
    """A quantity of all cells, means over seeds, front layers down, end layers to the right."""
    seeds, data = record["seeds"], record["data"]
    over = f", means over {len(seeds)} seeds" if len(seeds) > 1 else f", seed {seeds[0]}"
    donors = record["donors"]
    return figure_of(
        quantity.mean,
        record["front_layers"],
        record["end_layers"],
        quantity.low,
        quantity.high,
        colours=DIVERGING if quantity.low and quantity.low < 0 else "viridis",
        title=quantity.title,
        labels=tuple(f"{side}: {donors[side]['model']}" for side in ("front", "end")),
        caption=f"{data['n_images']:,} test images of {data['name']}{over}",
    )


def heat_maps(record: Mapping[str, Any]) -> dict[str, Figure]:
    """Key to heat map, of all quantities."""
    return {quantity.key: heat_map_of(record, quantity) for quantity in quantities(record)}


def curves(record: Mapping[str, Any]) -> Figure | None:
    """What changes with depth along the diagonal, donors as lines, the range over seeds as a band;
    None where the diagonal is no curve."""
    cells = diagonal(record)
    known = [(name, values_at(record, place), *how) for name, place, *how in CURVES]
    rows, columns = (list(axis) for axis in zip(*cells, strict=True)) if cells else ([], [])
    drawn = [
        (name, values[:, rows, columns], colour, marker)
        for name, values, colour, marker in known
        if np.isfinite(values[:, rows, columns]).sum() > 1
    ]
    if len(cells) < 2 or not drawn:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(cells))
        for name, values, colour, marker in drawn:
            how = {"color": colour, "marker": marker, "markersize": 3.5, "label": name}
            axes.plot(places, np.nanmean(values, axis=0), **how)
            if len(values) > 1:
                ends = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
                axes.fill_between(places, *ends, color=colour, alpha=0.18, linewidth=0)
        for side, style in (("front", "--"), ("end", ":")):
            donor = record["cells"][0][side]
            for place, colour in (("accuracy", "C0"), (f"robust.{WORST}", "C3")):
                value = value_at(donor, place)
                if value is not None:
                    told = f"{side} itself" if place == "accuracy" else None
                    axes.axhline(value, color=colour, linestyle=style, linewidth=0.8, label=told)
        axes.set_xticks(places, _names(record, cells), rotation=90)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylabel("accuracy (CKA as a share of 1)")
        axes.set_xlabel("layer, by depth: front → end")
        figure.legend(loc="outside right upper", fontsize=7.5)
    return figure


def _names(record: Mapping[str, Any], cells: Sequence[tuple[int, int]]) -> list[str]:
    layers = record["front_layers"], record["end_layers"]
    rows, columns = ([shortened(name) for name in names] for names in layers)
    return [rows[i] if rows[i] == columns[j] else f"{rows[i]} → {columns[j]}" for i, j in cells]
