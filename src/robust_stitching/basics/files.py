"""Files that are either whole or not there, folders that are nobody else's."""

import errno
import json
import math
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robust_stitching.basics import locks
from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.basics.forms import Form, amiss

TEMPORARY = ".tmp-"
"""How the names of files begin that are not whole yet."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


class NotWritten(UserError):
    """The system refused to write a file; what was there before is still there."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    Whatever ends the block early, Ctrl-C included, leaves `path` as it was. The content is on the
    disk before the name changes: else a machine that loses its power could leave an empty file in
    the place of a good one, and some file systems tell only then that a quota is used up. In a
    folder that this process has locked nothing is replaced once the lock is lost.

    Raises
    ------
    NotWritten : when the system refuses, a full disk for example.
    LockLost : see `locks`.
    """
    handled = sys.exc_info()[1]
    target = Path(os.path.realpath(path))  # of a link, what it points at is replaced
    temporary = target.with_name(temporary_name())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _bring_to_disk(temporary)
        locks.check_above(path)
        os.replace(temporary, target)
    except UserError:
        raise
    except Exception as error:
        refused = _refusal(error, handled)
        if refused is None:
            raise
        raise not_written(path, refused) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_name() -> str:
    """A name that nobody else has, for what is not whole yet."""
    return f"{TEMPORARY}{secrets.token_hex(8)}"


def _bring_to_disk(path: Path) -> None:
    with path.open("r+b") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system has it
                raise


def _refusal(error: BaseException, handled: BaseException | None) -> OSError | None:
    """What the system said, where `error` comes from that: many libraries stumble over it and raise
    errors of their own. What was `handled` before has nothing to do with it."""
    if isinstance(error, OSError):
        return error
    cause = error.__cause__ or error.__context__
    while cause is not None and cause is not handled:
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def not_written(path: Path, error: OSError) -> NotWritten:
    """What to tell where the system refuses to write `path`."""
    return NotWritten(
        f"{path} could not be written ({error.strerror or error}); make room there or choose "
        "another place."
    )


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """A folder that can be written, made now; those that stay empty are gone again at the end.

    Raises
    ------
    UserError : when it cannot be made or written, before any work is done.
    """
    missing = [p for p in (folder, *folder.parents) if not os.path.exists(p)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / temporary_name()
            try:
                probe.touch()
            finally:
                probe.unlink(missing_ok=True)
        except (OSError, ValueError) as error:  # the latter where there is a NUL in it
            told = getattr(error, "strerror", None) or error
            raise UserError(
                f"cannot write to the output folder {str(folder)!r} ({told}); choose another."
            ) from error
        yield folder
    finally:
        for made in missing:
            with suppress(OSError, ValueError):
                made.rmdir()


@contextmanager
def json_file(path: Path | None) -> Iterator[None]:
    """Make sure, before any work is done, that a JSON report can be written to `path`; an earlier
    report may be replaced, nothing else. Pipes and devices, as /dev/stdout, are written to. None is
    no file at all.

    Raises
    ------
    UserError : when something else is there, or the folder cannot be written.
    """
    if path is None or _is_stream(path):
        yield
        return
    if path.exists() and not _is_json(path):
        raise UserError(f"'{path}' exists and is no JSON report; choose another file.")
    with claimed(path.parent):
        yield


def _is_stream(path: Path) -> bool:
    """Whether what is written to `path` goes on to somebody else, and nothing can be replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def write_json(path: Path, values: Any) -> None:
    """Write plain values as JSON, whole or not at all; null stands for NaN and infinity."""
    text = json.dumps(as_json(values), indent=2) + "\n"
    if not _is_stream(path):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return
    try:
        with path.open("w", encoding="utf-8") as file:
            file.write(text)
    except BrokenPipeError:
        raise  # nobody reads any more
    except OSError as error:
        raise not_written(path, error) from error


def read_json(path: Path, otherwise: str, form: Form = dict) -> dict[str, Any]:
    """The table in a file of JSON.

    Parameters
    ----------
    otherwise : what to do where it is damaged, as the end of a sentence.
    form : that the table has to have.

    Raises
    ------
    UserError : where it cannot be read, or is no such table.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); {otherwise}.") from error
    require_form(values, form, path, otherwise)
    return values


def require_form(values: Any, form: Form, path: Path, otherwise: str) -> None:
    """Raise UserError where what a file holds has not the form that it needs."""
    if told := amiss(values, form):
        raise UserError(f"{path} cannot be read ({told}); {otherwise}.")


def as_json(value: Any) -> Any:
    """Plain values as they come back from a JSON file: lists, and None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def slug(text: str) -> str:
    """`text` as part of a file name: letters, digits, dot, dash and underscore stay."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text)
