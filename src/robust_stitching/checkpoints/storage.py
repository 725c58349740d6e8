"""Files of tensors and plain values: written whole or not at all, read without running code."""

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import replacing
from robust_stitching.checkpoints import harmless


def fingerprint(*tensors: Tensor) -> str:
    """A short text that differs where any of the tensors does."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(values), file)  # into a file of Python's, which says why it cannot


def read(path: Path) -> Any:
    """What `write` wrote, or another file of tensors and plain values.

    Raises
    ------
    UserError : when the file is missing, damaged, or would run code.
    """
    if path.is_dir():
        raise UserError(f"'{path}' is a folder; give the file of a network inside, as model.pt.")
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist.")
    try:
        with warnings.catch_warnings(), harmless.allowed():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any file may be given, and the unpickler raises what it likes
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    with path.open("rb") as file:
        pickled = zipfile.is_zipfile(path) or file.read(1) == b"\x80"
    refused = isinstance(error, pickle.UnpicklingError) and any(
        word in str(error) for word in ("Unsupported", "GLOBAL", "protocol", "Can only")
    )
    if pickled and refused:
        return UserError(
            f"{path} holds more than tensors and plain values and could run code; it was refused, "
            "not run. Save its state_dict() alone and load that."
        )
    return UserError(f"{path} is no checkpoint, or not a whole one; copy or train it again.")
