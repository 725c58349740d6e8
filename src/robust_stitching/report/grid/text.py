"""A grid of stitches as text, for the terminal."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robust_stitching.report.grid.quantities import Quantity, quantities
from robust_stitching.report.grid.verdict import verdict
from robust_stitching.report.stitch.text import called_images, called_map
from robust_stitching.report.tables import aligned

SHOWN = ("accuracy", "direct_matching", "worst_case", "cka", "gap")
GAP = 2


def as_text(record: Mapping[str, Any], width: int) -> str:
    """What a grid shows, for a terminal of `width` columns: a table for each of its main
    quantities, front layers downwards, end layers to the right, means over seeds."""
    seeds = record["seeds"]
    over = f", means over {len(seeds)} seeds" if len(seeds) > 1 else ""
    parts = [head(record)]
    for quantity in quantities(record):
        if quantity.key in SHOWN:
            tables = _tables(record["front_layers"], record["end_layers"], quantity, width)
            parts.append(f"{quantity.title}{over}\n\n" + "\n\n".join(tables))
    parts += [textwrap.fill(text, width) for text in (*verdict(record), *record["notes"])]
    return "\n\n".join(parts)


def called_grid(record: Mapping[str, Any]) -> str:
    """A grid's title."""
    front, end = (record["donors"][side]["model"] for side in ("front", "end"))
    return f"Stitching every layer of {front} to {end} on {record['data']['name']}"


def described(record: Mapping[str, Any]) -> str:
    """How many maps there are, how they were trained and measured."""
    data, seeds, epochs = record["data"], record["seeds"], record["params"]["epochs"]
    over = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    return (
        f"{len(record['front_layers'])} × {len(record['end_layers'])} layers, "
        f"{len(record['cells']):,} maps ({called_maps(record)}), trained on "
        f"{data['n_train_images']:,} images for {epochs} epoch{'s' if epochs > 1 else ''}, {over}; "
        f"measured on {data['n_images']:,} test images."
    )


def head(record: Mapping[str, Any]) -> str:
    """What was stitched to what."""
    data = record["data"]
    donors = {
        side: f"{donor['path'] or donor['model']}{_right(record, side)}"
        for side, donor in record["donors"].items()
    }
    return "\n".join(
        [
            f"front  {donors['front']} (rows)",
            f"end    {donors['end']} (columns)",
            f"data   {data['name']}: maps trained on {data['n_train_images']:,} images, "
            f"measured on {data['n_images']:,}",
            f"map    {called_maps(record)}",
            *(f"images {told}" for told in [called_images(*record["cells"])] if told),
        ]
    )


def called_maps(record: Mapping[str, Any]) -> str:
    """Of which kind the maps are, and how many parameters each has."""
    return called_map(*(cell["transformation"] for cell in record["cells"]))


def _right(record: Mapping[str, Any], side: str) -> str:
    accuracy = record["cells"][0][side]["accuracy"]
    return "" if accuracy is None else f", accuracy {accuracy:.2%}"


def written(value: float) -> str:
    """A number of a grid; "–" for none."""
    return "–" if np.isnan(value) else f"{value:.3f}"


def _tables(
    rows: Sequence[str], columns: Sequence[str], quantity: Quantity, width: int
) -> list[str]:
    """One table, or as many below each other as its columns need."""
    cells = [[written(value) for value in row] for row in quantity.mean]
    widest = max(len(text) for line in [columns, *cells] for text in line) + GAP
    each = max(1, (width - max(map(len, rows))) // widest)
    tables = []
    for start in range(0, len(columns), each):
        part = slice(start, start + each)
        lines = [[name, *line[part]] for name, line in zip(rows, cells, strict=True)]
        tables.append(aligned([["", *columns[part]], *lines]))
    return tables
