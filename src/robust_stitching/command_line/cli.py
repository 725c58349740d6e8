"""What the commands share: errors for people, and what is told besides the results."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.signals import raise_interruptions
from robust_stitching.command_line import terminal
from robust_stitching.command_line.parser import Parser
from robust_stitching.plans.settings import Settings

if TYPE_CHECKING:
    import torch  # takes seconds, which --help does not have

INTERRUPTED = 130


def run(main: Callable[[list[str]], None], parser: Callable[[], Parser] | None = None) -> NoReturn:
    """Call `main` with the command line; mistakes of users become one sentence and status 2.

    Parameters
    ----------
    parser : makes the command's parser, in whose words sentences of the library are told.
    """

    def spelled(text: object) -> str:
        return parser().spelled(str(text)) if parser else str(text)

    terminal.prepare()
    raise_interruptions()
    try:
        try:
            main(sys.argv[1:])
        finally:
            terminal.flush()
    except UserError as error:
        sys.exit(_failed(spelled(error), 2))
    except KeyboardInterrupt as interruption:
        hint = spelled(interruption)
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
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)


def device(name: str) -> "torch.device":
    """The device that --device names, after a look whether it is there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        if chosen.type not in ("cpu", "cuda"):
            raise RuntimeError("only CPUs and CUDA compute in float64 and run every network")
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the device '{name}' is not available; use --device cpu.") from error
    return chosen


class Voice:
    """What a command tells on stderr, in the words of its options."""

    def __init__(self, parser: Parser):
        self.parser = parser

    def say(self, text: object) -> None:
        """Tell what happens."""
        say(self.parser.spelled(str(text)))

    def tell(self, note: str) -> None:
        """Tell something that people should know."""
        self.say(f"note: {note}")

    def warn(self, *notes: str) -> None:
        """Tell what a reader of the numbers has to doubt."""
        for note in notes:
            self.say(f"warning: {note}")


def understood(
    parser: Parser, argv: Sequence[str], read: Callable[[argparse.Namespace], Settings]
) -> tuple[argparse.Namespace, Settings]:
    """The arguments of a command, and the plan that they ask for: that of --plan, or what `read`
    makes of them."""
    again = parser.parse_plan(argv)
    if again is not None:
        return again
    args = parser.parse_args(argv)
    return args, read(args)


def prepare(args: argparse.Namespace) -> "torch.device":
    """The device to compute on, with as many threads as asked for."""
    import torch

    if getattr(args, "threads", None) is not None:
        torch.set_num_threads(args.threads)
    return device(args.device)


def log_verbosely() -> None:
    """Show the library's debug log on stderr."""
    logging.basicConfig(format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("robust_stitching").setLevel(logging.DEBUG)
