"""The figures of a sweep: curves along the diagonal with a band over seeds, heat maps of means."""

from collections.abc import Iterator, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_stitching.evaluation.robustness import WORST
from robust_stitching.report.drawing import STYLE, WIDTH, shortened
from robust_stitching.report.grid.quantities import depths_of
from robust_stitching.report.heat_maps import heat_map
from robust_stitching.report.sweep.read import COMPARE
from robust_stitching.report.sweep.table import BOTH
from robust_stitching.stitching.grid.diagonal import diagonal as cells_on_diagonal

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
SIDES = ("front_layer", "end_layer")


def of(table: pd.DataFrame, network: str, quantity: str) -> pd.DataFrame:
    """The lines of one quantity that stand at layers."""
    is_it = (table["network"] == network) & (table["quantity"] == quantity)
    return table[is_it & table["front_layer"].notna()]


def combinations_in(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The combinations of options that there are, in the order of the plan, each with its lines."""
    yield from table.groupby("combination", observed=True)


def pairs_in(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The pairs of networks that there are, in the order of the plan, each with its lines."""
    return list(table.groupby("pair", observed=True))


def layers_in(part: pd.DataFrame, side: str) -> list[str]:
    """The layers of one pair's fronts or ends in the order of the network."""
    return part.sort_values(f"{side}_place", kind="stable")[side].drop_duplicates().to_list()


def stitched_in(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of all that was measured of stitches, which are at layers."""
    return table[table["front_layer"].notna() & ~table["quantity"].str.startswith(COMPARE)]


def diagonal(part: pd.DataFrame) -> list[tuple[str, str]]:
    """The cells along the diagonal of what stands in a part of the table, by depth; of one layer
    with many, all."""
    cells = list(dict.fromkeys(zip(part["front_layer"], part["end_layer"], strict=True)))
    fronts, ends = (_depths_in(part, side) for side in SIDES)
    if min(len(fronts), len(ends)) == 1:
        return sorted(cells, key=lambda cell: (fronts[cell[0]], ends[cell[1]]))
    return cells_on_diagonal(cells, fronts, ends)


def _depths_in(part: pd.DataFrame, side: str) -> dict[str, float]:
    """The layers of one pair's fronts or ends, in the order of the network, with their depths."""
    known = part.dropna(subset=f"{side}_depth").drop_duplicates(side).set_index(side)
    return depths_of(layers_in(part, side), known[f"{side}_depth"].astype(float).to_dict())


def curves(table: pd.DataFrame, network: str, quantity: str, title: str) -> Figure | None:
    """A quantity along the diagonal: a panel a pair, a line a choice of options, a band from the
    lowest to the highest seed; None where it was not measured at two layers."""
    whole = {name: diagonal(part) for name, part in pairs_in(stitched_in(table))}
    found = [(name, part, whole[name]) for name, part in pairs_in(of(table, network, quantity))]
    pairs = [(name, part, cells) for name, part, cells in found if _seen(part, cells) > 1]
    if not pairs:
        return None
    rows = -(-len(pairs) // ACROSS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.5 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, ACROSS, sharey=True, squeeze=False).ravel()
        for axes, (name, part, cells) in zip(panels, pairs, strict=False):
            _lines(axes, part, cells)
            axes.set_title(name)
        for axes in panels[len(pairs) :]:
            axes.set_visible(False)
        for axes in figure.axes[::ACROSS]:
            axes.set_ylabel(title)
        lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
        names = [name for name in map(_label, table["combination"].cat.categories) if name in lines]
        if len(names) > 1:
            handles = [lines[name] for name in names]
            figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def _seen(part: pd.DataFrame, cells: Sequence[tuple[str, str]]) -> int:
    """How many of the cells have a line."""
    return len({*zip(part["front_layer"], part["end_layer"], strict=True)} & {*cells})


def _lines(axes: Axes, part: pd.DataFrame, cells: Sequence[tuple[str, str]]) -> None:
    known = part["combination"].cat.categories
    for name, line in combinations_in(part):
        number = known.get_loc(name)  # so that a colour is one combination wherever it is
        by_cell = line.groupby(["front_layer", "end_layer"])["value"]
        mean, low, high = (
            values.reindex(cells).to_numpy()
            for values in (by_cell.mean(), by_cell.min(), by_cell.max())
        )
        colour = COLOURS[number % len(COLOURS)]
        style = STYLES[number // len(COLOURS) % len(STYLES)]
        axes.fill_between(range(len(cells)), low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(mean, style, color=colour, marker="o", markersize=3, label=_label(name))
    named = [tuple(map(shortened, pair)) for pair in cells]
    ticks = [front if front == end else f"{front} → {end}" for front, end in named]
    axes.set_xticks(range(len(cells)), ticks, rotation=90, fontsize=7)


def _label(combination: str) -> str:
    return combination or "all"


def heat_maps(
    table: pd.DataFrame, network: str, quantity: str, title: str
) -> Iterator[tuple[str, Figure]]:
    """A quantity at all cells, its mean over seeds, a figure for each pair and choice of options
    with more cells than a diagonal; each with what it is called."""
    for pair, part in pairs_in(of(table, network, quantity)):
        for name, line in combinations_in(part):
            means = line.pivot_table("value", "front_layer", "end_layer", "mean")
            fronts, ends = (layers_in(line, side) for side in ("front_layer", "end_layer"))
            means = means.reindex(index=fronts, columns=ends)
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
