"""Files that are either whole or not there, folders that are nobody else's."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robust_stitching.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    Whatever ends the block early, Ctrl-C included, leaves `path` as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """A folder that can be written, made now; those that stay empty are gone again at the end.

    Raises
    ------
    UserError : when it cannot be made or written, before any work is done.
    """
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"cannot write to the output folder {folder} ({error.strerror}); choose another."
            ) from error
        yield folder
    finally:
        for made in missing:
            with suppress(OSError):
                made.rmdir()


@contextmanager
def json_file(path: Path | None) -> Iterator[None]:
    """Make sure, before any work is done, that a JSON report can be written to `path`; an earlier
    report may be replaced, nothing else. None is no file at all.

    Raises
    ------
    UserError : when something else is there, or the folder cannot be written.
    """
    if path is None:
        yield
        return
    if path.exists() and not _is_json(path):
        raise UserError(f"'{path}' exists and is no JSON report; choose another file.")
    with claimed(path.parent):
        yield


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True


def write_json(path: Path, values: Any) -> None:
    """Write plain values as JSON, whole or not at all; null stands for NaN and infinity."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(values), indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def slug(text: str) -> str:
    """`text` as part of a file name: letters, digits, dot, dash and underscore stay."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text)
