"""Tables of text, and the cells in them: the same for the terminal, for pages and for files."""

from collections.abc import Mapping, Sequence
from typing import Any

INTERVAL = "interval"
"""In place of a format: two shares, as from 0.5 to 0.6, in percent."""

RANGE = "range"
"""In place of a format: two numbers as they are."""


def shown(values: Mapping[str, Any], key: str, form: str) -> str:
    """One number of a record, formatted; "–" where there is none. Dots in `key` go deeper."""
    value: Any = values
    for part in key.split("."):
        value = None if value is None else value.get(part)
    if value is None:
        return "–"
    if form == RANGE:
        return " – ".join(f"{end:.3f}" for end in value)
    return between(value) if form == INTERVAL else format(value, form)


def between(ends: Sequence[float]) -> str:
    """An interval of shares, in percent."""
    low, high = ends
    return f"{100 * low:.1f} – {100 * high:.1f}%"


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Rows as text, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without levels: "adversary.epsilon" for what is inside."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            values |= {f"{key}.{inner}": deep for inner, deep in flat(value).items()}
        else:
            values[key] = value
    return values
