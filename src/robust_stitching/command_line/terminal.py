"""What is printed arrives: on terminals that lack signs, and where nobody reads any more."""

import codecs
import os
import sys
import unicodedata
from contextlib import suppress

ERRORS = "robust_stitching.readable"

PLAIN = {
    **dict.fromkeys("─–—−‐‑", "-"),
    **dict.fromkeys("‘’′", "'"),
    **dict.fromkeys("“”″", '"'),
    **dict.fromkeys("·•", "."),
    "×": "x",
    "÷": "/",
    "±": "+/-",
    "…": "...",
    "→": "->",
    "←": "<-",
    "↔": "<->",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "∞": "inf",
    "‖": "||",
    "√": "sqrt",
    "α": "alpha",
    "β": "beta",
    "ε": "epsilon",
    "λ": "lambda",
    "σ": "sigma",
    "τ": "tau",
}
"""What stands for a sign where it cannot be written."""


def prepare() -> None:
    """Let stdout and stderr take every text, with a replacement for what their encoding lacks."""
    codecs.register_error(ERRORS, _replaced)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before we were started
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ERRORS)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs, for signs that cannot be encoded; bytes in the names of files
    that are no text come as such, too (PEP 383)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    plain = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return PLAIN.get(sign) or plain or "?", error.start + 1


def flush() -> None:
    """Write what is still in memory, while an error can be told."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def give_up() -> None:
    """Send the rest of the output nowhere, so that Python does not try again when it leaves."""
    with suppress(OSError, ValueError):
        flush()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
