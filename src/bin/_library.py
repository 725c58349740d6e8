"""Runs a command from a clone: ``src/`` need not be installed."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def run(command: str) -> None:
    """Run ``robust_stitching.command_line.<command>`` with the arguments of this process."""
    from robust_stitching.command_line import console, process

    process.run(partial(console.start, command))
