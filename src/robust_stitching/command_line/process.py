"""A command as a process: what it tells besides its results, and how it ends."""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.memory import keep_freed
from robust_stitching.basics.signals import raise_interruptions
from robust_stitching.command_line import terminal
from robust_stitching.command_line.calling import as_called, called

INTERRUPTED = 130


def run(main: Callable[[list[str]], None]) -> NoReturn:
    """Call `main` with the command line; mistakes of users become one sentence and status 2."""
    terminal.prepare()
    keep_freed()
    raise_interruptions()
    try:
        try:
            main(sys.argv[1:])
        finally:
            terminal.flush()
    except UserError as error:
        sys.exit(_failed(error, 2))
    except KeyboardInterrupt as interruption:
        hint = str(interruption)
        sys.exit(_failed(f"interrupted{'; ' + hint if hint else '.'}", INTERRUPTED))
    except BrokenPipeError:
        terminal.give_up()  # the reader of our output went away, nobody is left to tell
        sys.exit(1)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        sys.exit(_failed(f"the system refused{where}: {error.strerror or error}.", 2))
    sys.exit(0)


def _failed(message: object, status: int) -> int:
    with suppress(OSError, ValueError):  # the terminal may be gone
        say(message)
    terminal.give_up()
    return status


def say(message: object) -> None:
    """Tell the user something besides the results."""
    print(f"{called()}: {as_called(str(message))}", file=sys.stderr, flush=True)
