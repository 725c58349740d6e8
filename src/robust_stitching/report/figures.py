"""The figures of a stitching report, by matplotlib, without a display."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from robust_stitching.evaluation.robustness import WORST
from robust_stitching.report.record import NETWORKS
from robust_stitching.report.table import called
from robust_stitching.stitching.run import StitchResult

WIDTH = 6.9  # inches: the text width of the page
STYLE = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
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
# Okabe and Ito's palette: told apart by everyone.
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
OVERLAP = {
    "rr": ("both right", "#009E73"),
    "rw": ("right, end wrong", "#56B4E9"),
    "wr": ("wrong, end right", "#E69F00"),
    "ww": ("both wrong", "#BBBBBB"),
}


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, sharp enough for print."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=220)
    return path


def answers(record: Mapping[str, Any]) -> Figure:
    """Accuracy of every network, and whose mistakes it makes, as bars."""
    with mpl.rc_context(STYLE):
        measured = [n for n in NETWORKS if record.get(n) and record[n]["accuracy"] is not None]
        labels = [called(name) for name in measured]
        height = 0.75 + 0.2 * len(measured)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.3), sharey=True)

        lengths = [record[name]["accuracy"] for name in measured]
        bars = left.barh(labels, lengths, color=[COLOURS[name] for name in measured], height=0.7)
        robust = [worst_case(record[name]) for name in measured]
        left.barh(labels, robust, color="black", alpha=0.45, height=0.35)
        left.bar_label(bars, [f"{length:.1%}" for length in lengths], fontsize=8, padding=2)
        left.set(xlim=(0, 1.18), xlabel="accuracy", title="(a) accuracy")
        left.set_xticks(np.linspace(0, 1, 6))

        before = np.zeros(len(measured))
        for key, (meaning, colour) in OVERLAP.items():
            shares = np.array([record[name]["overlap_with_end"][key] for name in measured])
            right.barh(labels, shares, left=before, color=colour, label=meaning, height=0.7)
            before += shares
        right.invert_yaxis()
        right.set(xlim=(0, 1), xlabel="share of images", title="(b) right and wrong beside the end")
        right.legend(loc="center left", bbox_to_anchor=(1, 0.5), handlelength=1)
        for axes in (left, right):
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            axes.tick_params(length=2)
    return figure


def worst_case(scores: Mapping[str, Any]) -> float:
    """Accuracy in the worst case of all attacks; NaN where there was none."""
    return (scores.get("robust") or {}).get(WORST, float("nan"))


def matrices(result: StitchResult) -> Figure:
    """The maps before and after training and by direct matching: each in a range of its own, and in
    −1 to 1, so that they can be held against each other."""
    maps = {"before training": result.initial.weight, "trained": result.final.weight}
    if result.direct is not None:
        maps["direct matching"] = result.direct.weight
    unit = "unit" if result.config.flatten else "channel"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
        rows = figure.subplots(2, len(maps), squeeze=False)
        for column, (name, weight) in enumerate(maps.items()):
            largest = max(weight.abs().max().item(), 1e-12)
            for row, limit in enumerate((largest, 1.0)):
                _matrix(figure, rows[row, column], weight, limit)
            rows[0, column].set_title(f"{name}, own range")
            rows[1, column].set_title(f"{name}, −1 to 1")
            rows[1, column].set_xlabel(f"{unit} of front {result.config.front_layer}")
        for row in rows:
            row[0].set_ylabel(f"{unit} of end {result.config.end_layer}")
    return figure


def _matrix(figure: Figure, axes: Axes, weight: Tensor, limit: float) -> None:
    image = axes.imshow(
        weight.numpy(),
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
    )
    beyond = "both" if weight.abs().max() > limit else "neither"
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02, extend=beyond)
    bar.ax.tick_params(labelsize=7, length=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(length=2)


def curves(result: StitchResult) -> Figure:
    """How the map learned, and how the donors had learned."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
        loss, accuracy, donors = figure.subplots(1, 3)
        stitch = [vars(epoch) for epoch in result.trained.curve]
        for axes, kind in ((loss, "loss"), (accuracy, "accuracy")):
            for split, style in (("train", "--"), ("test", "-")):
                _line(axes, stitch, f"{split}_{kind}", split, COLOURS["stitched"], style)
            attacked = any(epoch["test_robust_accuracy"] is not None for epoch in stitch)
            if kind == "accuracy" and attacked:
                _line(axes, stitch, "test_robust_accuracy", "attacked", COLOURS["stitched"], ":")
            axes.set(xlabel="epoch", ylabel=kind, title=f"stitch: {kind}")
            axes.legend()
        logs = {side: donor_log(path) for side, path in _donors(result).items()}
        for side, log in logs.items():
            if log is not None:
                _line(donors, log, "test_accuracy", side, COLOURS[side], "-")
        donors.set(xlabel="epoch", ylabel="test accuracy", title="donors: test accuracy")
        if any(log is not None for log in logs.values()):
            donors.legend()
        else:
            donors.text(
                0.5,
                0.5,
                "no training log\nbeside the donors",
                ha="center",
                va="center",
                transform=donors.transAxes,
                color="0.4",
            )
        for axes in (accuracy, donors):
            axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


Log = Sequence[Mapping[str, float | None]]
"""One line an epoch: column to value, None where nobody looked."""


def _line(axes: Axes, log: Log, column: str, label: str, colour: str, style: str) -> None:
    epochs, values = (np.array([line[key] for line in log], float) for key in ("epoch", column))
    marker = "o" if len(log) < 12 else None
    axes.plot(epochs, values, style, color=colour, label=label, marker=marker, markersize=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    if epochs.max() == 1:
        axes.set_xlim(0.5, 1.5)
    axes.tick_params(length=2)
    axes.grid(alpha=0.25, linewidth=0.5)


def _donors(result: StitchResult) -> dict[str, Path]:
    return {"front": result.front.path, "end": result.end.path}


def donor_log(checkpoint: Path) -> Log | None:
    """Test accuracies in the training log beside a checkpoint, if there is a readable one."""
    try:
        with open(checkpoint.parent / "training_log.csv", newline="", encoding="utf-8") as file:
            read = [(line["epoch"], line["test_accuracy"]) for line in csv.DictReader(file)]
        log = [{"epoch": int(n), "test_accuracy": float(share or "nan")} for n, share in read]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None
    return log or None


def _inner_bars(result: StitchResult) -> str:
    attacks = result.measured.attacks
    if attacks is None:
        return ""
    return f", inner bars: in the worst case under attack, {attacks.n_images:,} images"


def figures_of(
    result: StitchResult, record: Mapping[str, Any], folder: Path
) -> Sequence[tuple[Path, str]]:
    """All figures of a report as PNG files in `folder`, each with its caption."""
    n = f"{result.measured.n_images:,} images"
    units = "units" if result.config.flatten else "channels"
    return [
        (
            save(answers(record), folder / "answers.png"),
            f"Accuracy on {n} of {result.measured.data}{_inner_bars(result)} (a), and the share "
            "of images that a network and the end network get right or wrong (b).",
        ),
        (
            save(matrices(result), folder / "matrices.png"),
            f"The matrix of the map, rows for {units} of the end network, columns for {units} of "
            "the front, without the bias. Above in its own range, below in −1 to 1.",
        ),
        (
            save(curves(result), folder / "curves.png"),
            "Learning curves of the stitch: the loss that was trained and the accuracy, on "
            "augmented training images (dashed) and on the test images; dotted, where the map was "
            "trained under attack, accuracy under that attack. Test accuracy of the donors.",
        ),
    ]
