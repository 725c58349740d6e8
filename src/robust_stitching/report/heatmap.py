"""Layer × layer heat maps of a comparison, by matplotlib, without a display."""

import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1 import make_axes_locatable

from robust_stitching.basics.files import replacing
from robust_stitching.report.figures import STYLE
from robust_stitching.similarity import Comparison, Measure
from robust_stitching.similarity.forms import CHANNELS

SPAN = 4.4  # inches: the longer side of the map, where its cells allow
CELL = (0.11, 0.42)  # inches: the least, for names to be read, and the most
ROOM_FOR_NUMBERS = 0.3  # inches: of a cell that can hold its value
UNDEFINED = "#DDDDDD"


def heatmap(found: Comparison, measure: Measure, labels: tuple[str, str], data: str) -> Figure:
    """Values of `measure` for each layer of model 1 (upwards) and model 2 (to the right), so that
    depth grows as on the axes of a plot. Bright is alike, for distances too; grey is not defined.

    Parameters
    ----------
    labels : of the two networks.
    data : what the images are.
    """
    values = found.layerwise[measure.name].numpy()
    rows, columns = values.shape
    cell = float(np.clip(SPAN / max(rows, columns), *CELL))
    caption = f"{found.estimators[measure.name]}. {found.n_images[measure.name]:,} images of {data}"
    with mpl.rc_context(STYLE):
        width, height = cell * columns, cell * rows
        names = [max(map(len, layers)) * 0.065 for layers in (found.layers1, found.layers2)]
        figure = Figure(
            figsize=(max(width + names[0] + 1.4, 3.4), max(height + names[1] + 1.0, 2.4)),
            layout="constrained",
        )
        axes = figure.subplots()
        _draw(axes, values, measure, cell)
        over = {"pooled": " of pooled channels", "all": " over positions"}[found.positions]
        title = measure.title + (over if measure.of == CHANNELS else "")
        scale = f"{title}{_gap(height)}({measure.low:g} to {measure.high:g})"
        figure.axes[-1].set_ylabel(scale)
        size = min(8.0, cell * 72 * 0.8)
        axes.set_xticks(range(columns), found.layers2, rotation=90, fontsize=size)
        axes.set_yticks(range(rows), found.layers1, fontsize=size)
        axes.tick_params(length=1.5, pad=1.5)
        axes.set_xlabel(f"model 2: {labels[1]}")
        axes.set_ylabel(f"model 1:{_gap(height)}{labels[0]}")
        characters = int(figure.get_figwidth() * 17)
        figure.supxlabel("\n".join(textwrap.wrap(caption, characters)), fontsize=7, color="0.3")
    return figure


def _gap(height: float) -> str:
    """Between the parts of a label that runs upwards: beside a low map they stand in two lines."""
    return " " if height > 2 else "\n"


def _draw(axes: Axes, values: np.ndarray, measure: Measure, cell: float) -> None:
    alike_is_high = measure.same > measure.low
    colours = mpl.colormaps["magma" if alike_is_high else "magma_r"].with_extremes(bad=UNDEFINED)
    image = axes.imshow(
        values,
        cmap=colours,
        vmin=measure.low,
        vmax=measure.high,
        origin="lower",
        interpolation="nearest",
    )
    for spine in axes.spines.values():
        spine.set_visible(False)
    beyond = "min" if np.nanmin(values, initial=measure.low) < measure.low else "neither"
    beside = make_axes_locatable(axes).append_axes("right", size=0.12, pad=0.08)
    bar = axes.figure.colorbar(image, cax=beside, extend=beyond)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=7, length=2)
    if cell >= ROOM_FOR_NUMBERS:
        for (i, j), value in np.ndenumerate(values):
            text = "–" if np.isnan(value) else f"{value:.2f}"
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            colour = "white" if dark and not np.isnan(value) else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=cell * 18, color=colour)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as `path`.png, sharp enough for print, and as `path`.pdf, whole or not."""
    FigureCanvasAgg(figure)
    for kind in ("png", "pdf"):
        with mpl.rc_context(STYLE), replacing(path.with_name(f"{path.name}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, dpi=220, bbox_inches="tight", pad_inches=0.05)
