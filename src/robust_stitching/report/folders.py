"""What lies in the folder of a finished run."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import read_json

CLOCK = "%Y-%m-%d %H:%M:%S"


def is_stitch(record: Any) -> bool:
    """Whether what a JSON file holds is the report of a stitch."""
    return isinstance(record, dict) and {"params", "donors", "data", "stitched"} <= record.keys()


def is_grid(record: Any) -> bool:
    """Whether what a JSON file holds is the report of a grid of stitches."""
    return isinstance(record, dict) and {"front_layers", "end_layers", "cells"} <= record.keys()


def finished_at(path: Path) -> str:
    """When a run was finished, in the format of `CLOCK`: its JSON file has it in its name, else the
    system knows when that was written; empty where nobody does."""
    told = re.search(r"(\d{4}-\d\d-\d\d)_(\d\d)-(\d\d)-(\d\d)$", path.stem)
    if told:
        date, *clock = told.groups()
        return f"{date} {':'.join(clock)}"
    with suppress(OSError):
        return time.strftime(CLOCK, time.localtime(path.stat().st_mtime))
    return ""


def report_of(
    folder: Path, is_one: Callable[[Any], bool] = is_stitch, called: str = "a stitch"
) -> tuple[Path, dict[str, Any]]:
    """The JSON report of a run, and what is in it.

    Parameters
    ----------
    is_one, called : what it has to be, and its name in sentences.

    Raises
    ------
    UserError : where there is none, or more than one, or it cannot be read.
    """
    paths = sorted((folder / "json").glob("[!.]*.json"))
    if len(paths) != 1:
        raise UserError(
            f"{folder} holds {len(paths)} reports (json/*.json); give the folder of {called}."
        )
    record = read_json(paths[0], "make the run again")
    if not is_one(record):
        raise UserError(f"{paths[0]} is no report of {called}; give the folder of one.")
    return paths[0], record
