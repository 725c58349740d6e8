"""The symbols that a network's forward is run with while it is traced.

A symbol records what is done with it. It knows what it stands for, too, as far as shapes tell: it
is a tensor to whoever asks, has a shape, can be unpacked. Only what depends on the numbers in it,
or on how many images there are, stays open; a forward that needs such a value is told so.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

IN_PLACE = {
    f"__i{name}__": getattr(operator, f"i{name}")
    for name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or")
}

IN_MEMORY = ("stride", "is_contiguous", "storage_offset")
"""Methods that tell how a tensor lies in memory: in a graph, in the usual order."""

QUESTIONS = frozenset(
    (
        *("size", "dim", "ndimension", "numel", "nelement", "element_size", "type", "__len__"),
        *("is_floating_point", "is_complex", "is_signed", *IN_MEMORY),
    )
)
"""Methods of a tensor that tell nothing of the numbers in it."""

OF_TUPLES = frozenset(("values", "indices", "index", "count"))
"""Methods of a tensor that are also what a tuple of tensors has."""

COMPUTED = "it decides by numbers that it computes from the images"
COMPILED = "it gives images to what takes plain tensors alone, as `torch.jit.script` and `vmap` do"
COUNTED = "it needs the number of images as a plain number"


class NoGraph(fx.proxy.TraceError):
    """A forward cannot be written as a graph; why, as part of a sentence.

    Parameters
    ----------
    module : in whose forward that is, where no traceback tells.
    """

    def __init__(self, reason: str, module: nn.Module | None = None):
        super().__init__(reason)
        self.module = module


class Shape(tuple):
    """A shape some of whose sizes depend on how many images there are."""

    def numel(self) -> Any:
        """The product of all sizes."""
        count = 1
        for size in self:
            count = size * count
        return count

    def __getitem__(self, index: Any) -> Any:
        taken = super().__getitem__(index)
        return Shape(taken) if isinstance(index, slice) else taken


class Symbol(fx.Proxy):
    """What an operation gives: a tensor, or what holds tensors.

    It must not say so by its `__class__`: torch's C++ would take it for a tensor and crash.
    """

    open = COMPUTED

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        if name not in OF_TUPLES and callable(getattr(Tensor, name, None)):
            return self._method(name)
        return self.tracer.attribute(self, name)

    def _method(self, name: str) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            return self.tracer.create_proxy("call_method", name, (self, *args), kwargs)

        return method

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __len__(self) -> int:
        length = self.tracer.length(self)
        if not isinstance(length, int) or isinstance(length, Symbol):
            raise NoGraph(COUNTED)
        return length

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(self.__len__())])

    def __bool__(self) -> bool:
        raise NoGraph(self.open)

    def _no_number(self) -> Any:
        raise NoGraph(self.open)

    __int__ = __float__ = __complex__ = _no_number
    __hash__ = object.__hash__


class Fact(Symbol):
    """A plain value that is open until there are images: where they are, how many."""

    open = COUNTED

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self.tracer.attribute(self, name)

    def __str__(self) -> str:
        return str(self.tracer.values.of(self.node)[0])


class NumberOfImages(Fact):
    """A number that depends on how many images there are."""

    def __str__(self) -> str:
        raise NoGraph(self.open)

    def __hash__(self) -> int:
        raise NoGraph(self.open)


SYMBOLS = frozenset((Symbol, Fact, NumberOfImages))


def _overwrite(function: Callable) -> Callable:
    def overwrite(self: Symbol, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return overwrite


for _method, _function in IN_PLACE.items():
    setattr(Symbol, _method, _overwrite(_function))


def symbols_in(value: Any) -> list[Symbol]:
    """All symbols in a value, its collections and slices."""
    if type(value) in SYMBOLS:
        return [value]
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    elif isinstance(value, slice):
        value = [value.start, value.stop, value.step]
    if isinstance(value, list | tuple | set):
        return [symbol for held in value for symbol in symbols_in(held)]
    return []


def replaced(value: Any, known: Mapping[fx.Node, Any]) -> Any:
    """A value with what is `known` of them in the places of symbols."""
    if type(value) in SYMBOLS:
        return known[value.node]
    if isinstance(value, dict):
        return {key: replaced(held, known) for key, held in value.items()}
    if isinstance(value, slice):
        return slice(*(replaced(v, known) for v in (value.start, value.stop, value.step)))
    if isinstance(value, list | tuple) and symbols_in(value):
        held = [replaced(each, known) for each in value]
        return held if isinstance(value, list) else tuple(held)
    return value


def is_question(op: str, target: Any, symbols: list[Symbol]) -> bool:
    """Whether an operation tells nothing of the numbers in tensors."""
    if symbols and all(issubclass(type(symbol), Fact) for symbol in symbols):
        return True  # by its own type: `isinstance` tells what it stands for
    if op == "call_method":
        return target in QUESTIONS
    return target in (torch.numel, torch.is_floating_point, torch.is_complex)
