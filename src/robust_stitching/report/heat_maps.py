"""A matrix as colours, whatever it holds, by matplotlib, without a display."""

import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.axes_grid1 import make_axes_locatable

from robust_stitching.report.drawing import STYLE, shortened

SPAN = 7.8  # inches: the longer side of a map of names, where its cells allow
CELL = (0.11, 0.42)  # inches: the least, for names to be read, and the most
ROOM_FOR_NUMBERS = 0.28  # inches: of a cell that can hold its value
UNDEFINED = "#DDDDDD"
ROUNDING = 1e-6  # of the range: what is no further beyond it is in it


def heat_map(
    axes: Axes,
    matrix: np.ndarray,
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    low: float | None,
    high: float | None,
    *,
    colours: str = "magma",
    scale: str = "",
) -> None:
    """Draw a matrix with a colour bar beside it; grey is NaN, a pointed bar is cut off there.

    Parameters
    ----------
    matrix : of shape (rows, columns).
    rows, columns : their names, the first row at the top as in a table. Cells are square, and those
        with room for it hold their value. None fills the axes with cells that are counted.
    low, high : the range of the colours; None where the values have no such end, as many a distance
        has not: then it is that of the matrix.
    colours : a colour map of matplotlib.
    scale : what stands beside the colour bar.
    """
    named = rows is not None
    low, high = _range(matrix, low, high)
    image = axes.imshow(
        matrix,
        cmap=mpl.colormaps[colours].with_extremes(bad=UNDEFINED),
        vmin=low,
        vmax=high,
        aspect="equal" if named else "auto",
        interpolation="nearest",
    )
    margin = ROUNDING * (high - low)
    below = np.nanmin(matrix, initial=low) < low - margin
    above = np.nanmax(matrix, initial=high) > high + margin
    beyond = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
    if named:
        place = {"cax": make_axes_locatable(axes).append_axes("right", size=0.12, pad=0.08)}
        _name(axes, image, rows, columns)
    else:
        place = {"ax": axes, "shrink": 0.9, "pad": 0.02}
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True))
        axes.tick_params(length=2)
    bar = axes.figure.colorbar(image, extend=beyond, label=scale, **place)
    bar.ax.tick_params(labelsize=7, length=2)
    if named:
        bar.outline.set_linewidth(0.4)


def _range(matrix: np.ndarray, low: float | None, high: float | None) -> tuple[float, float]:
    known = matrix[np.isfinite(matrix)]
    low = low if low is not None else known.min(initial=0 if high is None else high)
    return low, high if high is not None else known.max(initial=low)


def _name(
    axes: Axes, image: mpl.image.AxesImage, rows: Sequence[str], columns: Sequence[str]
) -> None:
    """Write names beside the cells, and values into those that can hold them."""
    cell = _cell(rows, columns)
    size = min(8.0, cell * 72 * 0.8)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
    axes.set_yticks(range(len(rows)), rows, fontsize=size)
    axes.tick_params(length=1.5, pad=1.5)
    axes.spines[:].set_visible(False)
    if cell < ROOM_FOR_NUMBERS:
        return
    for (i, j), value in np.ndenumerate(image.get_array().filled(np.nan)):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        colour = "white" if dark and not np.isnan(value) else "black"
        axes.text(j, i, text, ha="center", va="center", fontsize=cell * 18, color=colour)


def _cell(rows: Sequence[str], columns: Sequence[str]) -> float:
    return float(np.clip(SPAN / max(len(rows), len(columns)), *CELL))


def figure_of(
    matrix: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    low: float | None,
    high: float | None,
    *,
    colours: str,
    title: str,
    labels: tuple[str, str],
    caption: str,
    marked: np.ndarray | None = None,
) -> Figure:
    """A figure of one heat map with names, as large as they need; for the others see `heat_map`.

    Parameters
    ----------
    title : what the colours mean.
    labels : before rows and before columns, each what they are and whose.
    marked : which cells are hatched, of the shape of the matrix.
    """
    rows, columns = ([shortened(name) for name in names] for names in (rows, columns))
    cell = _cell(rows, columns)
    width, height = cell * len(columns), cell * len(rows)
    gap = " " if height > 2 else "\n"  # beside a low map, what runs along it stands in two lines
    names = [max(map(len, each)) * 0.065 for each in (rows, columns)]
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(max(width + names[0] + 1.4, 3.4), max(height + names[1] + 1.0, 2.4)),
            layout="constrained",
        )
        axes = figure.subplots()
        ends = "−∞" if low is None else f"{low:g}", "∞" if high is None else f"{high:g}"
        scale = f"{title}{gap}({' to '.join(ends)})"
        heat_map(axes, matrix, rows, columns, low, high, colours=colours, scale=scale)
        for i, j in np.argwhere(np.zeros(matrix.shape) if marked is None else marked):
            square = {"width": 1, "height": 1, "fill": False, "linewidth": 0}
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), hatch="//", ec="0.6", **square))
        axes.set_ylabel(labels[0].replace(": ", f":{gap}", 1))
        axes.set_xlabel(labels[1])
        characters = int(figure.get_figwidth() * 17)
        figure.supxlabel("\n".join(textwrap.wrap(caption, characters)), fontsize=7, color="0.3")
    return figure
