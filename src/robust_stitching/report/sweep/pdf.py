"""A sweep for people: a few pages."""

import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from reportlab.platypus import Preformatted

from robust_stitching.basics.files import replacing
from robust_stitching.report import pages
from robust_stitching.report.sweep.figures import combinations_in, of, pairs_in
from robust_stitching.report.tables import shown

Captioned = tuple[str, Figure]
"""A figure behind its caption."""

SIDES = "Left", "Right"
LINE = 105  # characters of code that fit the width
COLUMNS = (
    ("accuracy", "stitched", "accuracy"),
    ("of the best layer", "stitched", "best"),
    ("agreement", "stitched", "agreement_with_end"),
    ("direct matching", "direct_matching", "accuracy"),
)


def write_pdf(
    path: Path,
    name: str,
    plan: str,
    table: pd.DataFrame,
    curves: Sequence[Captioned],
    maps: Sequence[Captioned],
    there: tuple[int, int],
) -> None:
    """Set the report of a sweep.

    Parameters
    ----------
    plan : its text.
    curves, maps : figures as wide as the page, and such as stand side by side.
    there : how many of how many units are in it.
    """
    done, all_units = there
    made = time.strftime("%Y-%m-%d %H:%M:%S")
    story = [
        pages.paragraph(name, pages.TITLE),
        pages.paragraph(f"{done} of {all_units} units, {made}", pages.BYLINE),
        pages.paragraph("What was asked", pages.SECTION),
        _as_typed(plan),
        *_means(table),
        *[pages.picture(figure, caption) for caption, figure in curves],
        *_side_by_side(maps),
    ]
    with replacing(path) as temporary:
        pages.write(temporary, name, story, made)


def _side_by_side(maps: Sequence[Captioned]) -> Iterator[pages.Float]:
    for some in (maps[i : i + pages.ACROSS] for i in range(0, len(maps), pages.ACROSS)):
        captions = [caption for caption, _ in some]
        if len(some) > 1:
            captions = [f"{name}: {caption}" for name, caption in zip(SIDES, captions, strict=True)]
        yield pages.side_by_side([figure for _, figure in some], " ".join(captions))


def _as_typed(text: str) -> Preformatted:
    """A text whose lines stay, unless they are too long."""
    lines = [
        textwrap.wrap(line, LINE, subsequent_indent="    ") or [""] for line in text.split("\n")
    ]
    return Preformatted("\n".join(part for line in lines for part in line), pages.CODE)


def _means(table: pd.DataFrame) -> list[pages.Float]:
    """A row for each pair and choice of options."""
    stitched = of(table, "stitched", "accuracy")
    if stitched.empty:
        return []
    rows = [["front → end", "options", "stitches", *(heading for heading, *_ in COLUMNS)]]
    for pair, part in pairs_in(table[table["front_layer"].notna()]):
        for name, line in combinations_in(part):
            accuracies = of(line, "stitched", "accuracy")
            if accuracies.empty:
                continue
            layers = accuracies.groupby(["front_layer", "end_layer"])["value"].mean()
            values = {
                heading: layers.max() if key == "best" else of(line, network, key)["value"].mean()
                for heading, network, key in COLUMNS
            }
            values = {key: None if pd.isna(value) else value for key, value in values.items()}
            cells = [shown(values, heading, ".2%") for heading, *_ in COLUMNS]
            rows.append([pair, name or "–", str(len(accuracies)), *cells])
    caption = (
        "Means over all layers and seeds that are there; of the best layer, the mean over its "
        "seeds. table.csv has every number with its interval."
    )
    return [pages.numbers("What came of it", rows, caption)]
