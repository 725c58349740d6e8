"""The figure of a stitching map: its matrix, those of its layers, or its scales and biases."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from robust_stitching.plans.parts import AFFINE, LINEAR, MLP
from robust_stitching.report.drawing import COLOURS, STYLE, WIDTH, shortened
from robust_stitching.report.heat_maps import heat_map
from robust_stitching.report.stitch.tables import MATCHED_FIRST

Maps = Mapping[str, Mapping[str, np.ndarray]]
"""What a map is called to its parts, by the names that they have in the file of maps."""

MARKS = {
    "before training": ("untrained", "o"),
    MATCHED_FIRST: ("direct_matching", "x"),
    "trained": ("stitched", "D"),
    "direct matching": ("direct_matching", "x"),
}
"""Whose colour a map has, and its marker."""


def map_figure(record: Mapping[str, Any], maps: Maps) -> tuple[Figure, str]:
    """How a map looks before and after training and by direct matching, with a caption."""
    params = record["params"]
    units = "units" if params["flatten"] else "channels"
    kind = record["transformation"].get("kind", LINEAR)
    if kind == AFFINE:
        return channels(record, maps), (
            "Scale and bias of each channel; with a scale of one and no bias it stays as it is."
        )
    if kind == MLP:
        return layers(record, maps), (
            f"The matrices of the map's two layers, each in its own range: the first, rows for "
            f"hidden units, columns for {units} of the front, and below it the last, rows for "
            f"{units} of the end network, columns for hidden units; without biases."
        )
    return matrices(record, {name: one["weight"] for name, one in maps.items()}), (
        f"The matrix of the map, rows for {units} of the end network, columns for {units} of "
        "the front, without the bias. Above in its own range, below in −1 to 1."
    )


def matrices(record: Mapping[str, Any], maps: Mapping[str, np.ndarray]) -> Figure:
    """The matrices of maps, each in a range of its own, and in −1 to 1, so that they can be held
    against each other.

    Parameters
    ----------
    maps : what a map is called to its matrix, (rows, columns).
    """
    params = record["params"]
    front, end = _axes(params)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
        rows = figure.subplots(2, len(maps), squeeze=False)
        for column, (name, matrix) in enumerate(maps.items()):
            for row, limit in enumerate((_largest(matrix), 1.0)):
                axes = rows[row, column]
                heat_map(axes, matrix, None, None, -limit, limit, colours="RdBu_r")
            rows[0, column].set_title(f"{name}, own range")
            rows[1, column].set_title(f"{name}, −1 to 1")
            rows[1, column].set_xlabel(front)
        for row in rows:
            row[0].set_ylabel(end)
    return figure


def layers(record: Mapping[str, Any], maps: Maps) -> Figure:
    """The matrices of both layers, the first above the last; of maps that have two."""
    front, end = _axes(record["params"])
    both = {name: one for name, one in maps.items() if "hidden_weight" in one}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
        rows = figure.subplots(2, len(both), squeeze=False)
        for column, (name, one) in enumerate(both.items()):
            for row, part in enumerate(("hidden_weight", "weight")):
                axes, limit = rows[row, column], _largest(one[part])
                heat_map(axes, one[part], None, None, -limit, limit, colours="RdBu_r")
                axes.set_title(f"{name}, {'last' if row else 'first'} layer")
                axes.set_xlabel("hidden unit" if row else front)
        rows[0, 0].set_ylabel("hidden unit")
        rows[1, 0].set_ylabel(end)
    return figure


def channels(record: Mapping[str, Any], maps: Maps) -> Figure:
    """Scales and biases, channel by channel."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
        for axes, (part, title) in zip(
            figure.subplots(1, 2), (("weight", "scale"), ("bias", "bias")), strict=True
        ):
            for name, one in maps.items():
                whose, marker = MARKS[name]
                how = {"color": COLOURS[whose], "markersize": 3, "alpha": 0.8}
                axes.plot(one[part], marker, linestyle="none", label=name, **how)
            axes.set(xlabel=_axes(record["params"])[1], title=title)
            axes.axhline(0, color="0.7", linewidth=0.5, zorder=0)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
            axes.tick_params(length=2)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _axes(params: Mapping[str, Any]) -> tuple[str, str]:
    """What the numbers of a map count on the side of the front, and of the end."""
    unit = "unit" if params["flatten"] else "channel"
    front, end = (shortened(params[f"{side}_layer"], 16) for side in ("front", "end"))
    return f"{unit} of front {front}", f"{unit} of end {end}"


def _largest(matrix: np.ndarray) -> float:
    return max(float(np.abs(matrix).max()), 1e-12)
