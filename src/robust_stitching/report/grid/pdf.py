"""The report of a grid of stitches for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robust_stitching.report import pages
from robust_stitching.report.grid.figures import curves, heat_map_of
from robust_stitching.report.grid.quantities import quantities
from robust_stitching.report.grid.text import called_grid, called_maps, described
from robust_stitching.report.grid.verdict import verdict
from robust_stitching.report.making import making
from robust_stitching.report.stitch.attacked import NORM_SIGNS


def write_pdf(path: Path, record: Mapping[str, Any], made: str) -> None:
    """Set the report of a grid.

    Parameters
    ----------
    made : when it was, as it stands in the file's properties.
    """
    title = called_grid(record)
    story = [
        pages.paragraph(title, pages.TITLE),
        pages.paragraph(described(record), pages.BYLINE),
        *[pages.paragraph(sentence) for sentence in verdict(record)],
        *[pages.paragraph(note, label="Note") for note in record["notes"]],
        pages.paragraph("What was stitched", pages.SECTION),
        pages.facts(_donors(record), (0.10, 0.45, 0.45)),
        *_figures(record),
        pages.paragraph("How it was made", pages.SECTION),
        pages.paragraph(record["command"], pages.CODE),
        pages.facts(_making(record), (0.25, 0.75)),
    ]
    pages.write(path, title, story, made)


def _donors(record: Mapping[str, Any]) -> list[list[str]]:
    donors, cell = record["donors"], record["cells"][0]
    sides = ("front", "end")

    def right(side: str) -> str:
        accuracy, ends = cell[side]["accuracy"], cell[side]["accuracy_interval"]
        if accuracy is None:
            return "none: made for other classes"
        low, high = ends
        return f"{accuracy:.2%} ({low:.1%} to {high:.1%})"

    return [
        ["", *sides],
        [
            "network",
            *(f"{donors[s]['model']}, {donors[s]['parameters']:,} parameters" for s in sides),
        ],
        ["file", *(donors[s]["path"] or "in memory" for s in sides)],
        ["trained on", *(donors[s]["dataset"] or "not known" for s in sides)],
        ["accuracy", *map(right, sides)],
    ]


def _figures(record: Mapping[str, Any]) -> list[pages.Float]:
    """The curves first, then the heat maps, two in a row."""
    floats = []
    along = curves(record)
    if along is not None:
        band = ", the range over seeds as a band" if len(record["seeds"]) > 1 else ""
        caption = f"Along the diagonal, by depth{band}. {_attacked(record)}"
        floats.append(pages.picture(along, caption))
    found = quantities(record)
    for some in (found[i : i + pages.ACROSS] for i in range(0, len(found), pages.ACROSS)):
        titles = " and ".join(quantity.title for quantity in some)
        caption = f"{titles[0].upper()}{titles[1:]}: front layers down, end layers to the right."
        floats.append(pages.side_by_side([heat_map_of(record, q) for q in some], caption))
    return floats


def _attacked(record: Mapping[str, Any]) -> str:
    attacks = record["cells"][0]["attacks"]
    if attacks is None:
        return ""
    return (
        f"Under attack: {NORM_SIGNS[attacks['norm']]} radius {attacks['epsilon']:.4g}, "
        f"{attacks['n_images']:,} test images, per-image worst case of the tier {attacks['tier']}."
    )


def _making(record: Mapping[str, Any]) -> list[list[str]]:
    estimators = "; ".join(f"{name}: {told}" for name, told in record["estimators"].items())
    return making(record, [["map", called_maps(record)], ["estimators", estimators]])
