"""What the commands share once they are called: plans understood, the device, what is told."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.basics.progress import shown
from robust_stitching.command_line.calling import typed
from robust_stitching.command_line.parser import Parser
from robust_stitching.command_line.process import say
from robust_stitching.plans.settings import Settings
from robust_stitching.runs.listener import Listener, unheard

if TYPE_CHECKING:
    import torch  # takes seconds, which --help does not have


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


def listener(parser: Parser, unwritten: Callable[[dict[str, Any]], None] = unheard) -> Listener:
    """What tells on stderr how a run goes, in the words of a command's options."""

    def saying(before: str) -> Callable[..., None]:
        def tell(*sentences: str) -> None:
            for sentence in sentences:
                say(before + parser.spelled(sentence))

        return tell

    return Listener(shown, saying(""), saying("note: "), saying("warning: "), unwritten)


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


def carried_out(
    run: Callable[..., Any],
    parser: Parser,
    plan: Settings,
    args: argparse.Namespace,
    argv: list[str],
    text: Callable[[dict[str, Any]], str],
) -> Any:
    """Run a plan into a folder of results, and print its numbers and where its files are.

    Parameters
    ----------
    run : `runs.stitch.run` or `runs.compare.run`; what it returns is returned.
    text : what is printed of a record.
    """
    done = run(
        plan,
        args.out_dir,
        prepare(args),
        listener(parser, unwritten=lambda record: print(text(record))),
        name=args.run_name,
        command=typed(argv),
        resume=args.resume,
        reuse=args.reuse,
    )
    try:
        notes = [parser.spelled(note) for note in done.record["notes"]]
        shown = text(done.record | {"notes": notes})
    except (KeyError, TypeError, AttributeError) as error:
        if not done.reused:
            raise
        raise UserError(
            f"{done.paths['json']} is not whole, or of another version ({first_line(error)}); move "
            "that run away, and make it again."
        ) from error
    print(shown)
    print()
    for kind, path in done.paths.items():
        print(f"{kind:12} {path}")
    return done


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
