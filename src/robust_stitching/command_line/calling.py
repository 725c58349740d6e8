"""How the commands are called: by scripts of a clone, by `robust-stitching`, or by `python -m`."""

import re
import shlex
import sys
from pathlib import Path

COMMANDS = (
    "train",
    "layer_info",
    "find_transform",
    "find_cross_dataset_transform",
    "stitch_map",
    "sweep",
    "compare_nets",
    "extract_layers",
    "eval_net",
    "eval_net_robustness",
    "convert_checkpoint",
    "collect_results",
)
"""Modules of this package, in the order in which a reader meets them."""

CONSOLE, MODULE = "robust-stitching", "python -m robust_stitching"
_SCRIPT = re.compile(rf"(?:python src/bin/|(?<![\w./'\"-]))({'|'.join(COMMANDS)})\.py(?![\w/:'\"])")


def spoken(command: str) -> str:
    """A command's name as an argument of `robust-stitching`."""
    return command.replace("_", "-")


def called() -> str:
    """What this process was called, without its arguments: "train.py", "robust-stitching train"."""
    return Path(sys.argv[0]).name


def typed(argv: list[str]) -> str:
    """The command line that this process was called with, where `argv` is what follows its name."""
    if _way():
        return f"{called()} {shlex.join(argv)}"
    return shlex.join(["python", sys.argv[0], *argv])


def as_called(text: str) -> str:
    """`text`, in which commands are called as scripts, with the calls that work where we are:
    without a clone there are no scripts."""
    way = _way()
    return _SCRIPT.sub(lambda match: f"{way} {spoken(match[1])}", text) if way else text


def _way() -> str | None:
    """What stands before the name of a command; None for a script."""
    return next((way for way in (CONSOLE, MODULE) if called().startswith(way)), None)
