"""The figures of a sweep: curves along the diagonal with a band over seeds, heat maps of means."""

from collections.abc import Iterator, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_stitching.basics.files import slug
from robust_stitching.evaluation.robustness import WORST
from robust_stitching.report.drawing import STYLE, WIDTH
from robust_stitching.report.heat_maps import heat_map
from robust_stitching.report.sweep.table import BOTH, NUMBER, PLACE

SHOWN = (
    ("stitched", "accuracy", "accuracy of the stitched network"),
    ("stitched", "relative_accuracy", "accuracy relative to the end's"),
    ("stitched", "agreement_with_end", "agreement with the end"),
    ("stitched", f"robust.{WORST}", "accuracy under attack, worst case"),
    ("direct_matching", "accuracy", "accuracy of direct matching"),
    (BOTH, "cka", "CKA at the cut, before"),
    (BOTH, "debiased_cka", "debiased CKA at the cut, before"),
)
"""Network, quantity, and what axes call it."""

# Okabe and Ito's palette: told apart by everyone.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
ACROSS = 2


def options_in(table: pd.DataFrame) -> list[str]:
    """The columns of options, but for the seed."""
    return [name for name in table.columns if name not in (*PLACE, *NUMBER, "seed")]


def of(table: pd.DataFrame, network: str, quantity: str) -> pd.DataFrame:
    """The lines of one quantity that stand at layers."""
    is_it = (table["network"] == network) & (table["quantity"] == quantity)
    return table[is_it & table["front_layer"].notna()]


def groups(table: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The parts of a table that differ in some columns, each with what it is called; all of it
    where there are none."""
    if not names:
        yield "", table
        return
    for values, part in table.groupby(list(names), dropna=False, sort=False):
        known = [(n, v) for n, v in zip(names, values, strict=True) if not pd.isna(v)]
        yield ", ".join(f"{name}={value}" for name, value in known), part


def pairs_in(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [
        (f"{front} → {end}", part)
        for (front, end), part in table.groupby(["front", "end"], sort=False)
    ]


def diagonal(part: pd.DataFrame) -> list[tuple[str, str]]:
    """The cells of the same name, or, where there are none, those at the same place of both lists,
    in the order of the layers."""
    cells = list(dict.fromkeys(zip(part["front_layer"], part["end_layer"], strict=True)))
    same = [cell for cell in cells if cell[0] == cell[1]]
    if same or not cells:
        return same
    fronts, ends = (list(dict.fromkeys(side)) for side in zip(*cells, strict=True))
    if len(cells) <= max(len(fronts), len(ends)):
        return cells
    return [cell for cell in zip(fronts, ends, strict=False) if cell in cells]


def curves(table: pd.DataFrame, network: str, quantity: str, title: str) -> Figure | None:
    """A quantity along the diagonal: a panel a pair, a line a choice of options, a band from the
    lowest to the highest seed; None where it was not measured at two layers."""
    pairs = [(name, part) for name, part in pairs_in(of(table, network, quantity))]
    pairs = [(name, part) for name, part in pairs if len(diagonal(part)) > 1]
    if not pairs:
        return None
    rows = -(-len(pairs) // ACROSS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.5 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, ACROSS, sharey=True, squeeze=False).flat
        for axes, (name, part) in zip(panels, pairs, strict=False):
            _lines(axes, part)
            axes.set_title(name)
        for axes in list(panels)[len(pairs) :]:
            axes.set_visible(False)
        for axes in figure.axes[::ACROSS]:
            axes.set_ylabel(title)
        handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
        if len(handles) > 1:
            figure.legend(handles.values(), handles, loc="outside lower center", ncols=3)
    return figure


def _lines(axes: Axes, part: pd.DataFrame) -> None:
    cells = diagonal(part)
    for number, (name, line) in enumerate(groups(part, options_in(part))):
        by_cell = line.groupby(["front_layer", "end_layer"])["value"]
        mean, low, high = (
            values.reindex(cells).to_numpy()
            for values in (by_cell.mean(), by_cell.min(), by_cell.max())
        )
        colour = COLOURS[number % len(COLOURS)]
        style = STYLES[number // len(COLOURS) % len(STYLES)]
        axes.fill_between(range(len(cells)), low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(mean, style, color=colour, marker="o", markersize=3, label=name or "all")
    ticks = [front if front == end else f"{front} → {end}" for front, end in cells]
    axes.set_xticks(range(len(cells)), ticks, rotation=90, fontsize=7)


def heat_maps(
    table: pd.DataFrame, network: str, quantity: str, title: str
) -> Iterator[tuple[str, Figure]]:
    """A quantity at all cells, its mean over seeds, a figure for each pair and choice of options
    with more cells than a diagonal; each with what it is called."""
    for pair, part in pairs_in(of(table, network, quantity)):
        for name, line in groups(part, options_in(part)):
            means = line.pivot_table("value", "front_layer", "end_layer", "mean", sort=False)
            if means.count().sum() > max(means.shape):
                yield ", ".join(filter(None, (pair, name))), _map(means, pair, title)


def _map(means: pd.DataFrame, pair: str, title: str) -> Figure:
    front, end = pair.split(" → ")
    values = means.to_numpy()
    low, high = (0.0, 1.0) if np.nanmin(values) >= 0 and np.nanmax(values) <= 1 else (None, None)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, WIDTH * 0.7), layout="constrained")
        axes = figure.subplots()
        heat_map(axes, values, list(means.index), list(means.columns), low, high, scale=title)
        axes.set_ylabel(f"front: {front}")
        axes.set_xlabel(f"end: {end}")
    return figure


def file_name(*words: str) -> str:
    """Words as the name of a file."""
    return slug("-".join(filter(None, words)).replace(" → ", "-").replace(", ", "-"))
