"""What the commands share: parsing, and what a word on the command line means."""

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from robust_stitching import checkpoints, data
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.progress import shown
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.command_line import misplaced
from robust_stitching.command_line.calling import as_called, called
from robust_stitching.command_line.process import say
from robust_stitching.data import AnySplit, looks_like_a_path, source_of

CONSTANTS = ("mean", "std", "weights")
"""The options that say how to read a published network."""


UNSET = object()


class Parser(argparse.ArgumentParser):
    """A parser whose help shows defaults, whose errors are one sentence, and which remembers what
    was given: the namespace that it returns has the names of those arguments in `given`."""

    def __init__(self, description: str, **options: Any):
        super().__init__(
            prog=called(),
            description=description,
            formatter_class=_Help,
            allow_abbrev=False,
            **options,
        )

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As argparse's, which knows nothing of what no path and no name can hold."""
        for arg in sys.argv[1:] if args is None else args:
            if "\0" in arg:
                raise UserError(f"{arg!r} has a NUL in it, which no file and no name has.")
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Sequence[str] | None = None) -> argparse.Namespace:
        found = super().parse_args(args)
        # What the parser finds set it does not set to its default.
        left = argparse.Namespace(**dict.fromkeys(vars(found), UNSET))
        super().parse_args(args, left)
        found.given = {name for name, value in vars(left).items() if value is not UNSET}
        return found

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help lists the options.")


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind every option that has one, the description as it is written, and commands as
    they are called here."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return super()._fill_text(as_called(text), width, indent)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return super()._split_lines(as_called(text), width)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class Listed(argparse.Action):
    """An option that takes names with spaces or commas between them."""

    def __call__(self, parser: Any, namespace: Any, words: Any, option: str | None = None) -> None:
        names = [name.strip() for word in words for name in word.split(",")]
        found = [name for name in names if name]
        if not found:
            raise argparse.ArgumentError(self, "expected at least one argument")
        setattr(namespace, self.dest, found)


def device(name: str) -> torch.device:
    """The device that --device names, after a look whether it is there."""
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


def precision(name: str, chosen: torch.device) -> str:
    """What --precision means on a device."""
    if name != "auto":
        return name
    capable = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bfloat16" if capable else "float32"


def dataset(name: str) -> str:
    """A dataset as checkpoints keep it: a folder by its whole path, a name as it is."""
    return str(Path(name).resolve()) if looks_like_a_path(name) else source_of(name)


def constants(args: argparse.Namespace, number: str = "") -> dict[str, Any]:
    """What the options of a published network, or of that with this number, say of it, as
    `checkpoints.load` takes it."""
    return {kind: getattr(args, kind + number) for kind in CONSTANTS}


def one_of_two(path: Path, args: argparse.Namespace, number: str) -> Checkpoint:
    """One of two networks, read as the options with its number say, which are named where there is
    something to tell."""

    def numbered(text: str) -> str:
        return re.sub(rf"--({'|'.join(CONSTANTS)})\b", rf"--\g<1>{number}", text)

    try:
        found = checkpoints.load(path, **constants(args, number))
    except UserError as error:
        raise UserError(numbered(str(error))) from error
    return replace(found, notes=tuple(map(numbered, found.notes)))


def load_data(name: str, where: torch.device, *networks: Checkpoint) -> tuple[AnySplit, AnySplit]:
    """Both splits of a dataset at the size of the networks' images; what there is to know of them
    is told on stderr.

    Raises
    ------
    UserError : where networks take images of different sizes.
    """
    first, *others = networks
    size = first.network.input_shape[-1]
    for other in others:
        if other.network.input_shape[-1] != size:
            theirs = other.network.input_shape[-1]
            raise UserError(
                f"{first.path} takes images of {size}×{size} pixels and {other.path} of "
                f"{theirs}×{theirs}, but both have to see the same ones; train one of them at the "
                "size of the other (train.py --image-size)."
            )
    train, test = data.load(name, where, shown, size)
    for note in dict.fromkeys((*train.notes, *test.notes)):
        tell(note)
    return train, test


class Evaluated(NamedTuple):
    """A network, both splits of a dataset with their classes in the order of its answers, and what
    a reader of its numbers has to know, in sentences."""

    checkpoint: Checkpoint
    train: AnySplit
    test: AnySplit
    notes: list[str]


def evaluated(args: argparse.Namespace) -> Evaluated:
    """The network that is to be evaluated, and the dataset to do it on: the one that -d names, or
    the one it was trained on. What there is to know is told."""
    misplaced.check_places(args, "checkpoint")
    where = device(args.device)
    named = args.dataset if args.dataset is None else dataset(args.dataset)
    checkpoint = checkpoints.load(
        args.checkpoint, model=args.model, dataset=named, **constants(args)
    ).to(where)
    train, test = load_data(named or checkpoint.dataset, where, checkpoint)
    (train, _), (test, notes) = map(checkpoint.answerable, (train, test))
    notes = [*checkpoint.notes, *notes]
    warn(*notes)
    return Evaluated(checkpoint, train, test, notes)


def tell(note: str) -> None:
    """Something that people should know, on stderr."""
    say(f"note: {note}")


def warn(*notes: str) -> None:
    """Tell on stderr what a reader of the numbers has to doubt."""
    for note in notes:
        say(f"warning: {note}")


def log_verbosely() -> None:
    """Show the library's debug log on stderr."""
    logging.basicConfig(format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("robust_stitching").setLevel(logging.DEBUG)
