"""The scores of a run as rows of text: the same table for the terminal and for the PDF."""

from collections.abc import Mapping, Sequence
from typing import Any

from robust_stitching.report.record import NETWORKS

Column = tuple[str, str, str]
"""Heading, key in the record (dots go deeper), format."""

ACCURACY: tuple[Column, ...] = (
    ("accuracy", "accuracy", ".2%"),
    ("loss", "loss", ".4f"),
    ("relative accuracy", "relative_accuracy", ".4f"),
)
ANSWERS: tuple[Column, ...] = (
    ("agreement", "agreement_with_end", ".2%"),
    ("CE to end", "cross_entropy_to_end", ".4f"),
    ("rr", "overlap_with_end.rr", ".2%"),
    ("rw", "overlap_with_end.rw", ".2%"),
    ("wr", "overlap_with_end.wr", ".2%"),
    ("ww", "overlap_with_end.ww", ".2%"),
)
SIMILARITY: tuple[Column, ...] = (
    ("CKA at cut", "cka_to_end", ".4f"),
    ("l2 at cut", "l2_to_end", ".3f"),
    ("CKA of logits", "logit_cka_to_end", ".4f"),
    ("l2 of logits", "logit_l2_to_end", ".3f"),
)


def rows(record: Mapping[str, Any], columns: Sequence[Column]) -> list[list[str]]:
    """A heading and a row for each network that was measured; "–" stands for no number."""
    table = [["network", *(heading for heading, _, _ in columns)]]
    for name in NETWORKS:
        if record.get(name) is not None:
            cells = [shown(record[name], key, form) for _, key, form in columns]
            table.append([name.replace("_", " "), *cells])
    return table


def shown(values: Mapping[str, Any], key: str, form: str) -> str:
    """One number of a record, formatted."""
    found: Any = values
    for part in key.split("."):
        found = None if found is None else found.get(part)
    return "–" if found is None else format(found, form)


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Rows as text, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def as_text(record: Mapping[str, Any]) -> str:
    """The result of a run for the terminal."""
    data, donors = record["data"], record["donors"]
    params = record["params"]
    head = [
        f"front  {donors['front']['path']} up to {params['front_layer']}",
        f"end    {donors['end']['path']} from {params['end_layer']}",
        f"data   {data['name']}: map trained on {data['n_train_images']:,} images, "
        f"measured on {data['n_images']:,}",
    ]
    parts = ["\n".join(head), aligned(rows(record, (*ACCURACY, ANSWERS[0])))]
    if record["direct_matching"] is not None:
        parts.append(aligned(rows(record, SIMILARITY)))
        parts.append(f"CKA: {record['estimators']['cka']}. l2: {record['estimators']['l2']}.")
    parts += record["notes"]
    return "\n\n".join(parts)
