"""Progress bars that a library function can be handed, and that it never has to know about."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tqdm import tqdm

Progress = Callable[[int, str, str], tqdm]
"""``progress(total, what, unit)`` opens a bar; the caller updates and closes it."""

DELAY = 2
USUAL = os.terminal_size((80, 24))


def shown(total: int, what: str, unit: str = " images") -> tqdm:
    """A bar on stderr with rate and time left; after `DELAY` seconds, and only on a terminal."""
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        disable=None,
        delay=DELAY,
        **_size(),
        leave=False,
        smoothing=0.1,
    )


def _size() -> dict[str, Any]:
    """As wide as the terminal, whenever that changes. Some say that they have no lines and columns
    at all, and a bar of their size would not be seen."""
    with suppress(OSError, ValueError, AttributeError):  # no terminal
        size = os.get_terminal_size(sys.stderr.fileno())
        if not all(size):
            return {"ncols": size.columns or USUAL.columns, "nrows": size.lines or USUAL.lines}
    return {"dynamic_ncols": True}


def silent(total: int, what: str, unit: str = " images") -> tqdm:
    """The same, invisible."""
    return tqdm(total=total, disable=True)


def tell_above_bars(text: str) -> None:
    """Print a line; that the terminal was closed is no reason to stop working."""
    try:
        tqdm.write(text)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
