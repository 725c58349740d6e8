"""Networks of one's own: made by a function in a file that the user names, ``nets.py:mine``.

Its file is run only where a command, a call or a plan names it, never because a checkpoint does: an
architecture says which function made a network, and `rebuilt` knows those that were named.
"""

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from robust_stitching.basics.beside import Beside
from robust_stitching.basics.code import Function, function_in
from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.basics.modes import usual_settings
from robust_stitching.basics.seeds import generators_kept
from robust_stitching.models import registry
from robust_stitching.models.adopting import adopted
from robust_stitching.models.probe import channels_taken, logits_at
from robust_stitching.models.registry import Entry, Network
from robust_stitching.models.unwrapping import unwrapped_copy

T = TypeVar("T")

SIZES = (32, 28, 224, 64, 96, 128, 256, 299, 384, 48, 16, 8)
"""Pixels of a side that are tried where nobody says which images a network takes."""

TOLD = ("num_classes", "in_channels", "image_size")
"""What a function is told, if its signature has it."""

PREFIX = "_own_"
"""Of the names of modules of the user's code."""

EXAMPLE = {"num_classes": 10, "in_channels": 3}

_named: dict[str, Entry] = {}
"""Those that were named in this process, by the hash of their code."""


def asked_for(text: str) -> Entry:
    """The entry of a network that the user names: of the registry, or made by a function of the
    user's, whose file is run.

    Raises
    ------
    UserError : for an unknown name, and where the file or the function is not there or fails.
    """
    own = function_in(text)
    if own is None:
        return registry.entry(text)
    path = own.path.resolve()
    for entry in _named.values():
        same = entry.name == own.short and entry.files[0] == path
        if same and entry.code == own.hash(entry.files[1:]):
            return entry
    entry = _entry(own)
    _named[entry.code] = entry
    return entry


def rebuilt(architecture: Mapping[str, Any], seed: int = 0) -> Network:
    """The network that an architecture describes, with fresh weights.

    Raises
    ------
    UserError : for one that was made by a function that was not named in this process.
    """
    sizes = {name: value for name, value in architecture.items() if name != "code"}
    model, code = sizes.pop("model"), architecture.get("code")
    if code is not None and code not in _named:
        raise UserError(
            f"{model} is a function of somebody's own, and no code is run because a file names it; "
            f"name it yourself: `model`, as in path/to/{model}."
        )
    return registry.build(model if code is None else _named[code], **sizes, seed=seed)


def at_a_size(entry: Entry, size: int | None, make: Callable[[int | None], T]) -> T:
    """What `make` makes for images of a size; where that fails with code of the user's, of which
    nobody knows what it takes, for images of the first size that works.

    Raises
    ------
    UserError : that of `size`, where no other works.
    """
    try:
        return make(size)
    except UserError as error:
        for other in SIZES if entry.code else ():
            with suppress(UserError):
                return make(other)
        raise error


def example(text: str, image_size: int | None = None) -> Network:
    """The network that the user names, made to be looked at: for ten classes and colour, where it
    takes any, at its own size, where nobody says another."""
    entry = asked_for(text)
    classes = None if "num_classes" in entry.fixed else EXAMPLE["num_classes"]

    def make(size: int | None) -> Network:
        return registry.build(entry, **EXAMPLE | {"num_classes": classes}, image_size=size)

    return make(image_size) if image_size else at_a_size(entry, None, make)


def _entry(own: Function) -> Entry:
    path = own.path.resolve()
    module = ModuleType(f"{PREFIX}{own.hash()}_{len(_named)}")
    beside = Beside(path)
    module.__file__, vars(module)["__builtins__"] = str(path), beside.builtins
    sys.modules[module.__name__] = module  # where dataclasses, among others, look for it
    with beside.importable(), _told(own), usual_settings(), generators_kept():
        exec(compile(own.text(), str(path), "exec"), vars(module))
    make = getattr(module, own.name, None)
    if not callable(make):
        there = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UserError(
            f"{own.path} has no function '{own.name}'; it has {', '.join(there) or 'none'}."
        )
    if isinstance(make, nn.Module):
        raise UserError(
            f"{own} is a network, not a function or a class that makes one; name its class, or a "
            "function that returns it."
        )
    taken, imported = _taken(make, own), beside.files()
    names = {parameter.name for parameter in taken}
    return Entry(
        own.short,
        partial(_made, make, own, taken, beside),
        external=True,
        code=own.hash(imported),
        files=(path, *imported),
        fixed=frozenset(TOLD) - names,
    )


def _taken(make: Callable, own: Function) -> list[inspect.Parameter]:
    """The parameters of a function that are among `TOLD`, and those that have to be given in their
    order; UserError where it wants more."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # some built-in functions do not say
        parameters = ()
    single = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    wanted = [p.name for p in single if p.default is p.empty and p.name not in TOLD]
    if wanted:
        raise UserError(
            f"{own} wants {' and '.join(wanted)}, which nobody tells it; give them defaults. What "
            f"it is told, if its signature has it, are {', '.join(TOLD)}."
        )
    return [p for p in single if p.name in TOLD or p.kind is p.POSITIONAL_ONLY]


def _made(
    make: Callable, own: Function, taken: list[inspect.Parameter], beside: Beside, **sizes: Any
) -> nn.Module:
    ordered = [sizes.get(p.name, p.default) for p in taken if p.kind is p.POSITIONAL_ONLY]
    named = {p.name: sizes[p.name] for p in taken if p.kind is not p.POSITIONAL_ONLY}
    with beside.importable(), _told(own), usual_settings():
        network = make(*ordered, **named)
    if not isinstance(network, nn.Module):
        raise UserError(f"{own} returns no network but {network!r:.60}; return an nn.Module.")
    network = unwrapped_copy(network)  # some return the same one at every call
    network.float()
    size, told = sizes["image_size"], sizes["num_classes"]
    channels = channels_taken(network, size, first=sizes["in_channels"])
    return adopted(network, channels, logits_at(network, (channels, size, size), told))


@contextmanager
def _told(own: Function) -> Iterator[None]:
    """Raise what the user's code raises as a UserError that says where."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        path = str(own.path.resolve())
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"line {line} of {own.path}" if line else str(own.path)
        raise UserError(f"{own.name} cannot be made ({first_line(error)}, {where}).") from error
