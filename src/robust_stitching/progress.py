"""Progress bars that a library function can be handed, and that it never has to know about."""

from collections.abc import Callable

from tqdm import tqdm

Progress = Callable[[int, str, str], tqdm]
"""``progress(total, what, unit)`` opens a bar; the caller updates and closes it."""


def shown(total: int, what: str, unit: str = " images") -> tqdm:
    """A bar on stderr with rate and time left; after two seconds, and only on a terminal."""
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        disable=None,
        delay=2,
        dynamic_ncols=True,
        leave=False,
        smoothing=0.1,
    )


def silent(total: int, what: str, unit: str = " images") -> tqdm:
    """The same, invisible."""
    return tqdm(total=total, disable=True)
