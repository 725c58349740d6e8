"""Where in code of the user's own something went wrong."""

import sysconfig
import traceback
from functools import cache
from pathlib import Path

import torch
from torch import nn

import robust_stitching
from robust_stitching.basics.errors import first_line

INSTALLED = {"site-packages", "dist-packages"}


@cache
def _not_theirs() -> tuple[tuple[str, ...], str]:
    """The folders of torch and of this library, and Python's own."""
    folders = [str(Path(module.__file__).parent) for module in (torch, robust_stitching)]
    return (*folders, "<"), sysconfig.get_paths()["stdlib"]


def of_others(file: str) -> bool:
    """Whether a file belongs to torch, this library, Python or a package that was installed."""
    ours, pythons = _not_theirs()
    return file.startswith((*ours, pythons)) or not INSTALLED.isdisjoint(Path(file).parts)


def own_line(error: BaseException) -> str | None:
    """The innermost line of a traceback that is neither torch's, Python's nor this library's."""
    ours, pythons = _not_theirs()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = frame.filename
        installed = not INSTALLED.isdisjoint(Path(file).parts)
        if not file.startswith(ours) and (installed or not file.startswith(pythons)):
            return f"line {frame.lineno} of {file}"
    return None


def with_line(error: BaseException) -> str:
    """What an error is, and where it arose in code of the user's own, as part of a sentence."""
    where = own_line(error)
    return f"{first_line(error)}, {where}" if where else first_line(error)


def line_of_forward(module: nn.Module) -> str | None:
    """Where the forward of a module stands that a user has written."""
    ours, _ = _not_theirs()
    for owner in type(module).__mro__:
        code = getattr(vars(owner).get("forward"), "__code__", None)
        if code is not None and not code.co_filename.startswith(ours):
            return f"line {code.co_firstlineno} of {code.co_filename}"
    return None


def is_known(module: nn.Module) -> bool:
    """Whether the class of a module is torch's or ours."""
    return type(module).__module__.startswith(("torch.nn.", "robust_stitching."))
