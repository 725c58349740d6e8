"""What a grid leaves for people and programs, drawn from its JSON report alone."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from robust_stitching.basics.files import replacing
from robust_stitching.report.drawing import save
from robust_stitching.report.folders import finished_at, is_grid, report_of
from robust_stitching.report.grid.figures import curves, heat_maps
from robust_stitching.report.grid.html import page
from robust_stitching.report.grid.pdf import write_pdf
from robust_stitching.report.tidy import images_compared, numbers_of


def draw(folder: Path) -> dict[str, Path]:
    """Write table, figures and pages of a grid into its folder, from its JSON report alone, each
    file whole or not at all; those that are there are replaced.

    Returns
    -------
    kind to path: "csv", "figures", "pdf" and "html".

    Raises
    ------
    UserError : where the report is missing, damaged, or not that of a grid.
    """
    path, record = report_of(folder, is_grid, "a map of stitches")
    stem = path.stem
    paths = {kind: folder / kind / f"{stem}.{kind}" for kind in ("csv", "pdf")}
    with replacing(paths["csv"]) as temporary:
        pd.DataFrame(lines(record)).to_csv(temporary, index=False)
    figures, along = heat_maps(record), curves(record)
    paths["figures"] = folder / "figures"
    for name, figure in figures.items():
        save(figure, paths["figures"] / name)
    if along is not None:
        save(along, paths["figures"] / "diagonal")
    with replacing(paths["pdf"]) as temporary:
        write_pdf(temporary, record, finished_at(path))
    paths["html"] = folder / "html" / f"{stem}.html"
    with replacing(paths["html"]) as temporary:
        temporary.write_text(page(record, f"../pdf/{stem}.pdf"), encoding="utf-8")
    return paths


def lines(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A line for each number of each cell."""
    compared = images_compared(record)
    for cell in record["cells"]:
        where = {key: cell[key] for key in ("front_layer", "end_layer", "seed")}
        numbers = numbers_of(cell, compared=compared)
        if cell["elsewhere"]:
            numbers += numbers_of(cell["elsewhere"], "elsewhere.", compared)
        yield from ({**where, **number} for number in numbers if number["value"] is not None)
