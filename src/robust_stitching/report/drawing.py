"""How figures look, and how they become files: matplotlib without a display."""

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robust_stitching.basics.files import replacing

WIDTH = 6.9  # inches: the text width of the page
DPI = 220  # sharp enough for print
STYLE = {
    "font.family": "STIXGeneral",
    "text.parse_math": False,  # names of layers are no formulas
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
}
LONGEST = 30
"""Characters of a name in a figure."""

COLOURS = {
    "front": "#0072B2",
    "end": "#D55E00",
    "untrained": "#999999",
    "stitched": "#009E73",
    "direct_matching": "#CC79A7",
    "direct_matching_recalibrated": "#882255",
    "self_stitch": "#E69F00",
    "random_front": "#56B4E9",
}
"""Of networks; Okabe and Ito's palette, told apart by everyone."""


def shortened(name: str, most: int = LONGEST) -> str:
    """A name for people that leaves room for what it names: its two ends where it is long."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def as_png(figure: Figure, whole: bool = False) -> bytes:
    """A figure as a PNG of its own size; or, where it reaches beyond that, `whole`, without empty
    margins."""
    FigureCanvasAgg(figure)
    around = {"bbox_inches": "tight", "pad_inches": 0.05} if whole else {}
    with io.BytesIO() as file, mpl.rc_context(STYLE):
        figure.savefig(file, format="png", dpi=DPI, **around)
        return file.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as `path`.png and as `path`.pdf, whole or not, without empty margins."""
    FigureCanvasAgg(figure)
    for kind in ("png", "pdf"):
        with mpl.rc_context(STYLE), replacing(path.with_name(f"{path.name}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, dpi=DPI, bbox_inches="tight", pad_inches=0.05)
