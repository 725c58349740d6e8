"""Who hears of a run while it goes on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from robust_stitching.basics.progress import Progress, silent


def unheard(*told: Any) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Listener:
    """What is called while a plan is carried out; by default nobody hears of it.

    Attributes
    ----------
    progress : opens a bar.
    say : is given what happens, in a sentence.
    tell, warn : are given what is to know of the data, and what is to be doubted of the networks,
        in sentences.
    unwritten : is given the numbers where the work is done but files cannot be written.
    """

    progress: Progress = silent
    say: Callable[[str], None] = unheard
    tell: Callable[..., None] = unheard
    warn: Callable[..., None] = unheard
    unwritten: Callable[[dict[str, Any]], None] = unheard


NOBODY = Listener()
