"""One command for all: `robust-stitching train …`, beside the scripts of a clone.

Nothing heavy is imported before a command is known, so that the list of all comes at once.
"""

import ast
import shutil
import sys
import textwrap
from importlib import import_module
from importlib.resources import files
from typing import NoReturn

from robust_stitching import __version__
from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.command_line import process
from robust_stitching.command_line.calling import COMMANDS, CONSOLE, called, spoken

HELP, VERSION = ("-h", "--help"), "--version"


def main(way: str = CONSOLE) -> NoReturn:
    """Run the command that the first argument names; `way` is what this process was called."""
    sys.argv[0] = way
    process.run(_choose)


def _choose(argv: list[str]) -> None:
    first = argv[0] if argv else HELP[0]
    if first in HELP:
        print(listing(shutil.get_terminal_size().columns))
        return
    if first == VERSION:
        print(f"{CONSOLE} {__version__}")
        return
    modules = {spoken(command): command for command in COMMANDS}
    if first not in modules:
        raise unknown("command", first, modules, f"{called()} {HELP[1]} lists all.")
    sys.argv[:2] = [f"{called()} {first}"]
    start(modules[first], argv[1:])


def start(command: str, argv: list[str]) -> None:
    """Import one of `COMMANDS` and carry it out; sentences of the library are told in the words of
    its options."""
    module = import_module(f"{__package__}.{command}")
    try:
        module.main(argv)
    except UserError as error:
        raise UserError(module.parser().spelled(str(error))) from error
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(module.parser().spelled(str(interruption))) from None


def listing(width: int) -> str:
    """All commands, with a sentence each, in lines of at most `width` signs where words allow."""
    longest = max(map(len, COMMANDS))
    indent = {"initial_indent": "  ", "subsequent_indent": " " * (longest + 4)}
    lines = textwrap.TextWrapper(width, **indent)
    about = [lines.fill(f"{spoken(name):{longest}}  {sentence(name)}") for name in COMMANDS]
    usage = [f"usage: {called()} COMMAND …", f"       {called()} COMMAND {HELP[1]}"]
    return "\n".join([*usage, f"       {called()} {VERSION}", "", "commands:", *about])


def sentence(command: str) -> str:
    """What a command does, as the first line of its module says, which is read, not imported."""
    source = files(__package__).joinpath(f"{command}.py").read_text("utf-8")
    return ast.get_docstring(ast.parse(source)).partition("\n")[0]
