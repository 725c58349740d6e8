"""Functions in files of one's own, as people write them: ``path/to/file.py:function``."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from robust_stitching.basics.errors import UserError

_WRITTEN = re.compile(r"(.+\.py):([^\W\d]\w*)", re.DOTALL)


class Function(NamedTuple):
    """A function, or a class, by its name in a file of code."""

    path: Path
    name: str

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"

    @property
    def short(self) -> str:
        """Without folders: ``file.py:function``."""
        return f"{self.path.name}:{self.name}"

    def text(self) -> bytes:
        """The whole file; UserError where it cannot be read."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise UserError(f"the code {self.path} cannot be read ({error.strerror}).") from error

    def hash(self, beside: Iterable[Path] = ()) -> str:
        """A text that differs where the function's name, the text of its file, or that of one of
        the files `beside` it does."""
        parts = [self.name.encode(), self.text(), *(_bytes_of(path) for path in sorted(beside))]
        whole = b"".join(hashlib.sha256(part).digest() for part in parts)
        return hashlib.sha256(whole).hexdigest()[:16]


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def functions_in(text: str) -> list[Function]:
    """Those that a text names, with commas between them; none where a part is something else."""
    matches = [_WRITTEN.fullmatch(part) for part in text.split(",")]
    return [Function(Path(match[1]), match[2]) for match in matches] if all(matches) else []


def function_in(text: str) -> Function | None:
    """What ``path/to/file.py:function`` means; None for any other text.

    Raises
    ------
    UserError : for a file of code without a function.
    """
    if match := _WRITTEN.fullmatch(text):
        return Function(Path(match[1]), match[2])
    if text.endswith(".py"):
        raise UserError(f"'{text}' is a file of code; name the function in it too, {text}:NAME.")
    return None
