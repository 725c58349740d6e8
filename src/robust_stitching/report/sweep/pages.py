"""The maps of a sweep as pages for a browser: one for each pair and combination of options, whose
seeds are bands, and one that lists them."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robust_stitching.basics.files import replacing
from robust_stitching.basics.names import Names
from robust_stitching.report.grid.html import page
from robust_stitching.report.grid.quantities import quantities
from robust_stitching.report.sweep.read import Result, reading

INDEX = "index.html"
STYLE = (
    "body { font: 15px/1.45 Georgia, serif; margin: 2rem auto; max-width: 60rem; color: #222; }"
    "table { border-collapse: collapse; border-top: 1.5px solid; border-bottom: 1.5px solid; }"
    "th, td { text-align: left; padding: .2rem .8rem; } th { border-bottom: 1px solid; }"
)


def write_pages(results: Sequence[Result], sweep: Path) -> Path:
    """Write the pages of all grids into a sweep's folder; those that are there are replaced.

    Returns
    -------
    the one that lists them.
    """
    rows, names = [], Names()
    for (pair, combination), some in _by_combination(results).items():
        with reading(*some):
            record = together([result.record for result in some])
            text, range_ = page(record), _range(record)
        path = sweep / "html" / f"{names.of(pair, combination)}.html"
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        rows.append((path.name, pair, combination or "–", *range_))
    with replacing(sweep / INDEX) as temporary:
        temporary.write_text(_index(sweep.name, rows), encoding="utf-8")
    return sweep / INDEX


def _by_combination(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """Pair and combination of options, to the grids that have them."""
    alike: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result.is_grid:
            alike.setdefault((result.pair, result.combination), []).append(result)
    return alike


def together(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The records of grids that differ in their seeds as one."""
    merged = dict(records[0])
    for key in ("front_layers", "end_layers", "seeds", "notes"):
        merged[key] = list(dict.fromkeys(value for record in records for value in record[key]))
    merged["seeds"].sort()
    known = [record.get("depths") or {} for record in records]
    merged["depths"] = {
        side: {layer: depth for own in known for layer, depth in own.get(side, {}).items()}
        for side in ("front", "end")
    }
    merged["cells"] = [cell for record in records for cell in record["cells"]]
    return merged


def _range(record: Mapping[str, Any]) -> tuple[str, str]:
    """How many seeds there are, and between what the accuracies of its stitches lie."""
    found = {quantity.key: quantity.mean for quantity in quantities(record)}
    seeds = str(len(record["seeds"]))
    if "accuracy" not in found:
        return seeds, "–"
    low, high = np.nanmin(found["accuracy"]), np.nanmax(found["accuracy"])
    return seeds, f"{low:.1%} – {high:.1%}"


def _index(name: str, rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{each}</th>" for each in ("pair", "options", "seeds", "accuracy"))
    lines = "".join(
        f'<tr><td><a href="html/{html.escape(file)}">{html.escape(pair)}</a></td>'
        + "".join(f"<td>{html.escape(each)}</td>" for each in others)
        + "</tr>"
        for file, pair, *others in rows
    )
    title = html.escape(name)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
        f"<table><tr>{head}</tr>{lines}</table>"
        '<p>All numbers: <a href="table.csv">table.csv</a>; for print: '
        '<a href="sweep.pdf">sweep.pdf</a>.</p></body></html>\n'
    )
