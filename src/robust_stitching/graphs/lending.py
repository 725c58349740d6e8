"""Python and torch as a traced forward meets them: what takes plain values only, taking symbols.

``len`` has to return a plain number, ``isinstance`` looks at classes; ``torch.zeros(n, 3)`` and
``token.expand(n, -1, -1)`` refuse a symbol in the first place. What `torch.autograd.Function` makes
up is one operation, with the gradient that it says; a checkpoint of torch is what it runs.
"""

import builtins
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils import checkpoint

from robust_stitching.graphs.symbols import COUNTED, SYMBOLS, NoGraph, NumberOfImages, symbols_in

T = TypeVar("T")

FUNCTIONS = ("zeros", "ones", "empty", "full", "rand", "randn", "broadcast_to")
METHODS = (
    *("expand", "broadcast_to", "repeat", "view", "reshape", "tile"),
    *("new_zeros", "new_ones", "new_empty", "new_full"),
)
REENTRANT = checkpoint.CheckpointFunction
NOT_REENTRANT = "_checkpoint_without_reentrant_generator"
"""How torch 2.1 to 2.13 call what surrounds the function of a checkpoint."""

_one_at_a_time = threading.RLock()
_len, _isinstance = builtins.len, builtins.isinstance
_apply = vars(Function)["apply"].__func__
_around_checkpoint = getattr(checkpoint, NOT_REENTRANT, None)


@contextmanager
def lent() -> Iterator[None]:
    """Within the block, which only one thread is in at a time, they take symbols."""
    with _one_at_a_time, _changed(_changes()):
        yield


class _LikeInt(type):
    """To be `int` for whoever does not look at its identity."""

    def __instancecheck__(cls, value: Any) -> bool:
        return _is_one(value, int)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, int)

    def __eq__(cls, other: Any) -> bool:
        return other is cls or other is int

    def __hash__(cls) -> int:
        return hash(int)


class Whole(int, metaclass=_LikeInt):
    """`int`, which has to return a plain number, of a number of images."""

    def __new__(cls, value: Any = 0, *base: Any) -> Any:
        if type(value) is NumberOfImages:
            return value.tracer.create_proxy("call_function", int, (value,), {})
        return int(value, *base)


def with_whole_numbers(run: Callable[[], T]) -> T:
    """What `run` gives; where ``int(n)`` stops it, for whose n the number of images is needed, it
    is run again with `Whole` in its place, in that file alone."""
    lent_to: list[dict[str, Any]] = []
    try:
        while True:
            try:
                return run()
            except NoGraph as error:
                names = _names_around(error)
                if str(error) != COUNTED or names is None or "int" in names:
                    raise
                names["int"] = Whole
                lent_to.append(names)
    finally:
        for names in lent_to:
            del names["int"]


def _names_around(error: Exception) -> dict[str, Any] | None:
    """The globals of the innermost code in a traceback that is not this library's."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [frame.f_globals for frame in reversed(frames)]
    others = (n for n in names if not str(n.get("__name__")).startswith("robust_stitching."))
    return next(others, None)


def _changes() -> list[tuple[Any, str, Any]]:
    """Owner, name and new value."""
    changes = [(builtins, "len", _length), (builtins, "isinstance", _is_one)]
    changes += [(Function, "apply", classmethod(_applied))]
    changes += [(checkpoint, NOT_REENTRANT, _not_reentrant)]
    changes += [(torch, name, _function(name)) for name in FUNCTIONS]
    changes += [(Tensor, name, _method(name)) for name in METHODS]
    return changes


@contextmanager
def _changed(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    before = [(owner, name, vars(owner).get(name)) for owner, name, _ in changes]
    try:
        for change in changes:
            setattr(*change)
        yield
    finally:
        for owner, name, value in before:
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def _length(value: Any) -> Any:
    return value.tracer.length(value) if type(value) in SYMBOLS else _len(value)


def _is_one(value: Any, kinds: Any) -> bool:
    if _isinstance(value, kinds) or type(value) not in SYMBOLS:
        return _isinstance(value, kinds)
    stands_for, _ = value.tracer.values.of(value.node)
    return _isinstance(stands_for, kinds)


@cache
def _function(name: str) -> Callable:
    original = getattr(torch, name)
    return _recording(original, "call_function", original)


@cache
def _method(name: str) -> Callable:
    return _recording(getattr(Tensor, name), "call_method", name)


def _recording(original: Callable, kind: str, target: Callable | str) -> Callable:
    """`original`, which becomes an operation of the graph where it is given a symbol."""

    @wraps(original)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        symbols = symbols_in([args, kwargs])
        if not symbols:
            return original(*args, **kwargs)
        return symbols[0].tracer.create_proxy(kind, target, args, kwargs)

    return recorded


def _applied(function: type[Function], *args: Any, **kwargs: Any) -> Any:
    symbols = symbols_in([args, kwargs])
    if not symbols:
        return _apply(function, *args, **kwargs)
    if function is REENTRANT:
        run, _, *given = args
        return run(*given)
    return symbols[0].tracer.create_proxy("call_function", function.apply, args, kwargs)


def _not_reentrant(*args: Any, **kwargs: Any) -> Iterator[None]:
    if symbols_in([args, kwargs]):
        return _nothing_around()
    return _around_checkpoint(*args, **kwargs)


def _nothing_around() -> Iterator[None]:
    yield
