"""Functions that a copied object holds, made to work on the copy: `copy.deepcopy` keeps functions
as they are, and with them whatever they were made with."""

import copy
import dis
import functools
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import BuiltinMethodType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from robust_stitching.basics.errors import UserError

Memo = dict[int, Any]
"""Of `copy.deepcopy`: by the identities of what was copied, the copies."""

Cached = type(functools.lru_cache(lambda: None))


def renew(memo: Memo) -> None:
    """Replace functions that copies hold and that hold something of which there is a copy by others
    that hold that; what leads a function there is copied, too.

    Raises
    ------
    UserError : for a function that knows a module or a tensor that was copied by a global name.
    """
    done = {id(memo)}  # where deepcopy keeps what must stay alive
    while new := {key: memo[key] for key in memo.keys() - done}:
        done |= new.keys()
        for copied in new.values():
            for place, key, value in list(_places(copied)):
                renewed = _renewed(value, memo)
                if renewed is not value:
                    place[key] = renewed


def _places(copied: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Where a copy holds something that can be replaced: in what, under which key, and what."""
    attributes = _attributes(copied)
    for place in (attributes, copied) if isinstance(copied, dict) else (attributes,):
        yield from ((place, key, value) for key, value in place.items())
    if isinstance(copied, list):
        yield from ((copied, number, value) for number, value in enumerate(copied))


def _attributes(value: Any) -> dict[str, Any]:
    own = None if isinstance(value, type | ModuleType) else getattr(value, "__dict__", None)
    return own if isinstance(own, dict) else {}


def _renewed(value: Any, memo: Memo) -> Any:
    """What a copy holds, working on copies: the same where it does already."""
    if isinstance(value, tuple):
        parts = [_renewed(part, memo) for part in value]
        if all(a is b for a, b in zip(parts, value, strict=True)):
            return value
        return value._make(parts) if hasattr(value, "_make") else tuple(parts)
    if isinstance(value, MethodType):  # its object was copied
        function = _renewed(value.__func__, memo)
        return value if function is value.__func__ else MethodType(function, value.__self__)
    if isinstance(value, partial):
        held = (value.func, value.args, tuple(value.keywords.items()))
        function, args, keywords = renewed = _renewed(held, memo)
        return value if renewed is held else partial(function, *args, **dict(keywords))
    kept = isinstance(value, FunctionType | Cached | BuiltinMethodType | weakref.ref)
    if not kept:
        return value
    if isinstance(value, FunctionType):
        _require_no_global(value, memo)
    if id(value) in memo:
        return memo[id(value)]
    if not _leads_to_copied(value, memo):
        return value
    if isinstance(value, weakref.ref):
        return weakref.ref(_own(value(), memo))
    if isinstance(value, BuiltinMethodType):
        return getattr(_own(value.__self__, memo), value.__name__)
    if isinstance(value, Cached):
        return functools.lru_cache(**value.cache_parameters())(_own(value.__wrapped__, memo))
    return _rebuilt(value, memo)


def _rebuilt(function: FunctionType, memo: Memo) -> FunctionType:
    """A function with the same code that holds copies."""
    before = function.__closure__ or ()
    fresh = [cell for cell in before if id(cell) not in memo]
    cells = tuple(memo.setdefault(id(cell), CellType()) for cell in before)
    made = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
    memo[id(function)] = made  # before its cells are filled: it may know itself
    for cell in fresh:
        with suppress(ValueError):  # an empty one
            memo[id(cell)].cell_contents = _own(cell.cell_contents, memo)
    made.__defaults__ = _own(function.__defaults__, memo)
    made.__kwdefaults__ = _own(function.__kwdefaults__, memo)
    made.__qualname__, made.__module__ = function.__qualname__, function.__module__
    vars(made).update({key: _own(value, memo) for key, value in vars(function).items()})
    return made


def _own(value: Any, memo: Memo) -> Any:
    """What a function of the copy has in the place of what that of the original has."""
    led = _leads_to_copied(value, memo)
    return _renewed(copy.deepcopy(value, memo) if led else value, memo)


def _leads_to_copied(value: Any, memo: Memo) -> bool:
    seen, waiting = set(map(id, memo.values())), [value]  # copies, which are renewed themselves
    while waiting:
        value = waiting.pop()
        if id(value) in memo:
            return True
        if id(value) not in seen:
            seen.add(id(value))
            waiting.extend(parts_of(value))
    return False


def parts_of(value: Any) -> Iterator[Any]:
    """What an object holds."""
    yield from _attributes(value).values()
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, tuple | list | set | frozenset):
        yield from value
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, BuiltinMethodType):
        yield value.__self__
    elif isinstance(value, weakref.ref):
        yield value()
    elif isinstance(value, FunctionType):
        yield from (value.__defaults__, value.__kwdefaults__)
        for cell in value.__closure__ or ():
            with suppress(ValueError):
                yield cell.cell_contents


def _require_no_global(function: FunctionType, memo: Memo) -> None:
    for name in _global_names(function.__code__):
        known = function.__globals__.get(name)
        if isinstance(known, nn.Module | Tensor) and id(known) in memo:
            code = function.__code__
            where = f"line {code.co_firstlineno} of {code.co_filename}"
            raise UserError(
                f"{function.__qualname__} ({where}), which the network holds, knows a part of it "
                f"by the global name '{name}', and a copy of it would do so too; make it a method."
            )


def _global_names(code: CodeType) -> set[str]:
    """The names that a function looks up in its file."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return names.union(*map(_global_names, inner))
