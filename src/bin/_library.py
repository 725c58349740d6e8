"""Runs a command from a clone: ``src/`` need not be installed."""

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def run(name: str) -> None:
    """Run ``robust_stitching.command_line.<name>`` with the arguments of this process."""
    from robust_stitching.command_line import cli

    command = import_module(f"robust_stitching.command_line.{name}")
    cli.run(command.main, command.parser)
