"""What a copy shares with its original."""

import gc
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import chain
from types import CodeType, FunctionType, ModuleType
from typing import Any
from weakref import ref

from torch import Tensor, nn

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.functions import Memo, parts_of

ENDS = frozenset({type(None), bool, int, float, complex, str, bytes, CodeType})
MOST = 200_000
"""Objects that are looked at: what lies behind more is no part of a network."""


def require_apart(copied: nn.Module, network: nn.Module, memo: Memo) -> None:
    """Raise UserError where a copy leads to a module or a tensor of the original of which `memo`
    has a copy, or has one of its modules: it would run, or change, those of the original."""
    own = {id(module) for module in network.modules()}
    names = {id(module): name for name, module in copied.named_modules()}
    seen, waiting = set(), deque([(copied, None, "")])
    while waiting and len(seen) < MOST:
        value, holder, key = waiting.popleft()
        kind = type(value)
        if kind in ENDS or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module | Tensor) and (id(value) in own or id(value) in memo):
            if id(value) in names:
                what = f"{_called(value, names)} is the same in the copy; mend its __deepcopy__."
            else:
                held = (
                    f"'{key}' of {_called(holder, names)} ({type(getattr(holder, key)).__name__})"
                )
                what = (
                    f"{held} would lead to a part of the original; keep functions and modules in "
                    "attributes, lists, tuples or dictionaries."
                )
            raise UserError(f"the network {type(network).__name__} cannot be copied: {what}")
        if isinstance(value, nn.Module):
            waiting.extend((held, value, name) for name, held in vars(value).items())
        else:
            waiting.extend((held, holder, key) for held in _held_by(value))


def _held_by(value: Any) -> Iterable[Any]:
    """What an object holds, but for what is there without it: classes, files of code and what
    these have by global names."""
    if isinstance(value, type | ModuleType) or (
        isinstance(value, dict) and "__builtins__" in value
    ):
        return ()
    if isinstance(value, FunctionType):
        return parts_of(value)
    if isinstance(value, ref):
        return chain(gc.get_referents(value), (value(),))
    return gc.get_referents(value)


def _called(module: nn.Module, names: Mapping[int, str]) -> str:
    name = names.get(id(module))
    return f"its part '{name}', a {type(module).__name__}," if name else "the network itself"
