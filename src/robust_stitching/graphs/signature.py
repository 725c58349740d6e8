"""Whether two traced networks have the same graph: all that a `Graph` depends on, to be compared.

Weights are not looked at, only their shapes: a graph knows nothing of values. Whoever wants to know
whether two networks compute the same numbers says what else counts of a tensor. Nothing here keeps
a network, a tensor, or what belongs to one, alive.
"""

import hashlib
import operator
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robust_stitching.graphs.tracing import Trace

PLAIN = bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.memory_format

BUILTIN = types.BuiltinFunctionType

KNOWN = frozenset(("torch", "torchvision", "robust_stitching", "builtins"))
"""Packages whose code is the same in one process."""


def _looks(tensor: Tensor) -> Hashable:
    """What a graph depends on of a tensor."""
    return tuple(tensor.shape), tensor.stride(), tensor.dtype


def signature(
    network: nn.Module, traced: Trace, of_tensor: Callable[[Tensor], Hashable] = _looks
) -> Hashable:
    """Equal for networks that compute the same by modules that are alike, with the same names.

    What is inside modules that tracing does not look into is told by their attributes. Not seen is
    a change inside of an object that such a module holds, unless that is a tensor, a module, a
    dataclass or a collection. What cannot be compared is equal to nothing, not even to itself.

    Parameters
    ----------
    of_tensor : what counts of a tensor.
    """
    seen: dict[int, int] = {}
    names = tuple((name, node.name, kind) for name, (node, kind) in traced.named.items())
    moving = frozenset(node.name for node in traced.moving)
    parts: list[Hashable] = [names, moving, tuple(network.input_shape)]
    for node in traced.graph.nodes:
        uses = node.op in ("call_module", "get_attr")
        held = operator.attrgetter(node.target)(network) if uses else None
        given = repr((node.args, node.kwargs))
        parts.append((node.op, node.target, node.name, given, told(held, of_tensor, seen)))
    return tuple(parts)


def written(network: nn.Module) -> Hashable:
    """Equal for networks whose code is the same, and all that it may read that is no number in a
    tensor, whatever a trace sees of that: what a proof of one is true of. What is too deep to be
    read is equal to nothing."""
    try:
        return _read(network, {})
    except RecursionError:
        return object()


def _read(value: Any, seen: dict[int, int]) -> Hashable:
    """What code can read of a value, but for tensors; an object is what it holds."""
    if value is None or isinstance(value, PLAIN):
        return repr(value)
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = len(seen)

    def inner(*values: Any) -> Hashable:
        return tuple([_read(each, seen) for each in values])

    if isinstance(value, type):
        held = [vars(base).values() for base in value.__mro__ if not _known(base)]
        return value.__qualname__, inner(*(v for values in held for v in values if _is_code(v)))
    function = isinstance(value, types.FunctionType)
    if isinstance(value, Tensor | types.ModuleType | BUILTIN) or (function and _known(value)):
        return getattr(value, "__qualname__", type(value).__qualname__)
    if isinstance(value, dict):
        return inner(*value.keys(), *value.values())
    if isinstance(value, list | tuple):
        return inner(*value)
    if isinstance(value, set | frozenset):
        return frozenset(inner(*value))
    if function:
        code, outside = value.__code__, value.__globals__
        plain = [outside[n] for n in code.co_names if isinstance(outside.get(n), PLAIN)]
        closure = [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
        return code, inner(*plain, *closure, value.__defaults__, value.__kwdefaults__)
    if isinstance(value, types.MethodType | staticmethod | classmethod):
        return inner(value.__func__, getattr(value, "__self__", None))
    if isinstance(value, property):
        return inner(value.fget)
    if isinstance(value, partial):
        return inner(value.func, value.args, value.keywords)
    held = [type(value)]
    if _known(type(value)) and not isinstance(value, nn.Module):
        return inner(*held)
    for name, own in getattr(value, "__dict__", {}).items():
        empty = type(own) in (dict, OrderedDict) and not own  # as most of a module's are
        if name != "training" and not empty:
            held += name, own
    return inner(*held)


def _known(value: Any) -> bool:
    """Whether a class or function is of code that nobody changes."""
    return (getattr(value, "__module__", None) or "").partition(".")[0] in KNOWN


def _is_code(value: Any) -> bool:
    return isinstance(value, types.FunctionType | property | staticmethod | classmethod)


def _is_full(cell: types.CellType) -> bool:
    """Whether a variable that a function takes from around it has been set."""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def told(
    value: Any,
    of_tensor: Callable[[Tensor], Hashable] = _looks,
    seen: dict[int, int] | None = None,
) -> Hashable:
    """A value so that it can be compared later; what was `seen` before is its number."""
    seen = {} if seen is None else seen

    def inner(value: Any) -> Hashable:
        return told(value, of_tensor, seen)

    if value is None or isinstance(value, PLAIN):
        return repr(value)  # 1, 1.0 and True are equal, and not the same
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, Tensor):
        if is_lazy(value) or value.layout is not torch.strided:
            return object()
        return of_tensor(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.shape, value.dtype.str, hashlib.sha256(value.tobytes()).digest()
    names = vars(value) if isinstance(value, nn.Module) else _fields(value)
    if names:
        own = ((name, inner(getattr(value, name))) for name in names if name != "training")
        return weakref.ref(type(value)), *own
    if isinstance(value, dict):
        return tuple((inner(key), inner(held)) for key, held in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return type(value).__name__, *map(inner, value)
    by_identity = type(value).__eq__ is object.__eq__
    if by_identity or isinstance(value, BUILTIN):
        try:
            return weakref.ref(value)  # an address alone may be that of something else by then
        except TypeError:
            pass
    return object()


def _fields(value: Any) -> list[str]:
    """The names of a dataclass's fields; none of anything else."""
    is_one = is_dataclass(value) and not isinstance(value, type)
    return [field.name for field in fields(value)] if is_one else []
