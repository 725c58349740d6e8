"""The figures of a stitch, by matplotlib, without a display."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from robust_stitching.evaluation.robustness import WORST
from robust_stitching.report.drawing import COLOURS, STYLE, WIDTH
from robust_stitching.report.stitch.maps import map_figure
from robust_stitching.report.stitch.tables import measured

OVERLAP = {
    "rr": ("both right", "#009E73"),
    "rw": ("right, end wrong", "#56B4E9"),
    "wr": ("wrong, end right", "#E69F00"),
    "ww": ("both wrong", "#BBBBBB"),
}


def answers(record: Mapping[str, Any]) -> Figure:
    """Accuracy of every network, and whose mistakes it makes, as bars."""
    with mpl.rc_context(STYLE):
        names = measured(record, "accuracy")
        labels = list(names.values())
        height = 0.75 + 0.2 * len(names)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.3), sharey=True)

        lengths = [record[name]["accuracy"] for name in names]
        bars = left.barh(labels, lengths, color=[COLOURS[name] for name in names], height=0.7)
        robust = [worst_case(record[name]) for name in names]
        left.barh(labels, robust, color="black", alpha=0.45, height=0.35)
        left.bar_label(bars, [f"{length:.1%}" for length in lengths], fontsize=8, padding=2)
        left.set(xlim=(0, 1.18), xlabel="accuracy", title="(a) accuracy")
        left.set_xticks(np.linspace(0, 1, 6))

        before = np.zeros(len(names))
        for key, (meaning, colour) in OVERLAP.items():
            shares = np.array([record[name]["overlap_with_end"][key] for name in names])
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


def curves(record: Mapping[str, Any]) -> tuple[Figure, str] | None:
    """How the map learned, and how the donors had learned, with a caption; None where there is no
    curve: a map of one epoch, donors without a log."""
    known = {side: donor.get("learning_curve") for side, donor in record["donors"].items()}
    logs = {side: log for side, log in known.items() if log is not None and len(log["epoch"]) > 1}
    trained = len(record["curve"]) > 1
    panels = 2 * trained + bool(logs)
    if not panels:
        return None
    told = []
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * panels / 3, 2.1), layout="constrained")
        axes = list(figure.subplots(1, panels, squeeze=False)[0])
        if trained:
            told += [_draw_training(axes[0], axes[1], record["curve"])]
        if logs:
            told += [_draw_donors(axes[-1], logs)]
    return figure, " ".join(told)


def _draw_training(loss: Axes, accuracy: Axes, curve: Sequence[Mapping[str, Any]]) -> str:
    """Two panels on the training of a map, and what they show."""
    stitch = {key: [epoch[key] for epoch in curve] for key in curve[0]}
    attacked = any(value is not None for value in stitch["test_robust_accuracy"])
    for axes, kind in ((loss, "loss"), (accuracy, "accuracy")):
        for split, style in (("train", "--"), ("test", "-")):
            _line(axes, stitch, f"{split}_{kind}", split, COLOURS["stitched"], style)
        if kind == "accuracy" and attacked:
            _line(axes, stitch, "test_robust_accuracy", "attacked", COLOURS["stitched"], ":")
        axes.set(xlabel="epoch", ylabel=kind, title=f"stitch: {kind}")
        axes.legend()
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    return (
        "Learning curves of the stitch: the loss that was trained and the accuracy, on augmented "
        "training images (dashed) and on the test images"
    ) + ("; dotted, accuracy under the attack that it was trained under." if attacked else ".")


def _draw_donors(axes: Axes, logs: Mapping[str, Mapping[str, Sequence]]) -> str:
    """A panel on how donors had learned, and what it shows."""
    for side, log in logs.items():
        _line(axes, log, "test_accuracy", side, COLOURS[side], "-")
    axes.set(xlabel="epoch", ylabel="test accuracy", title="donors: test accuracy")
    axes.legend()
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return "Test accuracy of the donors as they were trained."


def _line(
    axes: Axes, log: Mapping[str, Sequence], column: str, label: str, colour: str, style: str
) -> None:
    epochs, values = log["epoch"], np.array(log[column], dtype=float)  # None becomes NaN
    marker = "o" if len(epochs) < 12 else None
    axes.plot(epochs, values, style, color=colour, label=label, marker=marker, markersize=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    if max(epochs) == 1:
        axes.set_xlim(0.5, 1.5)
    axes.tick_params(length=2)
    axes.grid(alpha=0.25, linewidth=0.5)


def answers_caption(record: Mapping[str, Any]) -> str:
    """What `answers` shows."""
    data, attacks, inner = record["data"], record["attacks"], ""
    if any(worst_case(record[name]) > 0 for name in measured(record)):
        inner = f", inner bars: in the worst case under attack, {attacks['n_images']:,} images"
    return (
        f"Accuracy on {data['n_images']:,} images of {data['name']}{inner} (a), and the share of "
        "images that a network and the end network get right or wrong (b)."
    )


def figures_of(
    record: Mapping[str, Any], maps: Mapping[str, Mapping[str, np.ndarray]]
) -> list[tuple[Figure, str]]:
    """The figures on the map and its training, each with its caption; for `maps` see
    `map_figure`."""
    return [map_figure(record, maps), *filter(None, [curves(record)])]
