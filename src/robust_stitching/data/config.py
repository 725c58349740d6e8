"""Where datasets live and how many processes read them.

``config/default.env`` says it, or environment variables, which go before.
"""

import os
from pathlib import Path

from dotenv import dotenv_values

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import REPOSITORY

CONFIG_FILE = REPOSITORY / "config" / "default.env"
MOST_WORKERS = 16


def dataset_root(kind: str) -> Path:
    """The folder of one kind of datasets, as `Source.root` calls it: "pytorch" for example.

    ``DATASET_ROOT_<KIND>`` goes before the file; a relative path counts from the repository root.

    Raises
    ------
    UserError : when neither names it.
    """
    variable = f"DATASET_ROOT_{kind.upper()}"
    # The section header of the file reads as a key without a value, which is what we want of it.
    written = os.environ.get(variable) or dotenv_values(CONFIG_FILE).get(kind)
    if not written:
        raise UserError(
            f"no folder is set for {kind} datasets; write {kind} = '/some/folder' into "
            f"{CONFIG_FILE} or set {variable}."
        )
    return REPOSITORY / Path(written).expanduser()


def dataset_workers() -> int:
    """How many processes decode a dataset that is streamed.

    ``DATASET_WORKERS`` says it, else ``workers`` of the file; else there are as many as there are
    cores for us, `MOST_WORKERS` at most.

    Raises
    ------
    UserError : when it is no whole number.
    """
    written = os.environ.get("DATASET_WORKERS") or dotenv_values(CONFIG_FILE).get("workers")
    if not written:
        return min(_cores(), MOST_WORKERS)
    if not written.strip().isdecimal():
        raise UserError(
            f"'{written}' is no number of processes to read a dataset with; set workers in "
            f"{CONFIG_FILE} or DATASET_WORKERS to a whole number, 0 for none."
        )
    return int(written)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
