"""Where datasets live: ``config/default.env``, overridden by environment variables."""

import os
from pathlib import Path

from dotenv import dotenv_values

from robust_stitching.errors import UserError
from robust_stitching.files import REPOSITORY

CONFIG_FILE = REPOSITORY / "config" / "default.env"


def dataset_root(kind: str) -> Path:
    """The folder of one kind of datasets: "pytorch", "celeba" or "imagenet".

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
