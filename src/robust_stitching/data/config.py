"""Where datasets live and how many processes read them.

``config/default.env`` says it, or environment variables, which go before.
"""

import os
from pathlib import Path

from dotenv import dotenv_values

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.root import checkout, root

NAMED_BY = "ROBUST_STITCHING_CONFIG"
MOST_WORKERS = 16


def config_file() -> Path:
    """The file of settings: the one that ``$ROBUST_STITCHING_CONFIG`` names; else the first that is
    there of ``config/default.env`` below `root` and ``~/.config/robust-stitching/default.env``;
    the latter, for a user to write, where none is.

    Raises
    ------
    UserError : when the variable names no file.
    """
    if named := os.environ.get(NAMED_BY):
        file = Path(os.path.expanduser(named))
        if not file.is_file():
            raise UserError(f"{NAMED_BY} names '{named}', which is no file; correct or unset it.")
        return file
    personal = Path(os.path.expanduser("~/.config/robust-stitching/default.env"))
    return next((file for file in (_file_of_root(), personal) if file.is_file()), personal)


def _file_of_root() -> Path:
    return root() / "config" / "default.env"


def _setting(file: Path, name: str) -> str | None:
    """What the file says of `name`; None where it says nothing, or is not there."""
    try:
        # The section header of the file reads as a key without a value, as we want it.
        return dotenv_values(file).get(name)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text in UTF-8; write it anew.") from error


def dataset_root(kind: str) -> Path:
    """The folder of one kind of datasets, as `Source.root` calls it: "pytorch" for example.

    ``DATASET_ROOT_<KIND>`` goes before the file. A relative path counts from the checkout. Without
    one it counts from the working directory, where the variable or ``config/default.env`` there has
    it, and from its folder where another file has it.

    Raises
    ------
    UserError : when neither names it.
    """
    variable = f"DATASET_ROOT_{kind.upper()}"
    if written := os.environ.get(variable):
        return root() / os.path.expanduser(written)
    file = config_file()
    if written := _setting(file, kind):
        elsewhere = checkout() is None and file.resolve() != _file_of_root().resolve()
        return (file.parent if elsewhere else root()) / os.path.expanduser(written)
    raise UserError(
        f"no folder is set for {kind} datasets; write {kind} = '/some/folder' into {file} or set "
        f"{variable}."
    )


def dataset_workers() -> int:
    """How many processes decode a dataset that is streamed.

    ``DATASET_WORKERS`` says it, else ``workers`` of the file; else there are as many as there are
    cores for us, `MOST_WORKERS` at most.

    Raises
    ------
    UserError : when it is no whole number.
    """
    written = os.environ.get("DATASET_WORKERS") or _setting(config_file(), "workers")
    if not written:
        return min(_cores(), MOST_WORKERS)
    if not written.strip().isdecimal():
        raise UserError(
            f"'{written}' is no number of processes to read a dataset with; set workers in "
            f"{config_file()} or DATASET_WORKERS to a whole number, 0 for none."
        )
    return int(written)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
