"""The one exception for mistakes that people make, and how to point at what they meant."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake of the user's or of the environment: one sentence, with the value and what to do.

    The commands print it on stderr and leave with status 2; a traceback is for our own mistakes.
    """


def unknown(kind: str, name: str, choices: Iterable[str], see: str = "") -> UserError:
    """The error for a name that is not one of `choices`, with the closest ones.

    Parameters
    ----------
    kind : what the name should have been, as in "model".
    see : where the whole list can be read; without it the choices are listed in the sentence.
    """
    choices = list(choices)
    close = get_close_matches(name, choices, n=3, cutoff=0.5)
    guess = f"; did you mean {' or '.join(close)}?" if close else "."
    rest = f" {see}" if see else f" Choose from {', '.join(choices)}."
    return UserError(f"unknown {kind} '{name}'{guess}{rest}")


def first_line(error: BaseException) -> str:
    """What another library's error is, as part of a sentence; its kind alone where that is all."""
    kind, words = type(error).__name__, str(error).strip().splitlines()
    return f"{kind}: {words[0]}".rstrip(".") if words else kind
