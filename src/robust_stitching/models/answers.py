"""The answers of a network: which of what it returns they are, and in another order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

LOGITS = "logits"
Place = str | int | None
"""A key, a name or a number in what a network returns; None where that is the logits themselves."""


def place_of_logits(output: Any, num_classes: int | None) -> Place:
    """Where the logits are in what a network returns for a batch: the tensor itself; else what is
    called "logits", or the only tensor of shape (N, classes), or of shape (N, `num_classes`); None
    also where that is not plain, as where they may be inside of a part."""
    named = {} if isinstance(output, Tensor) else parts(output)
    if LOGITS in named:
        return LOGITS if _is_rows(named[LOGITS]) else None
    rows = {key: value for key, value in named.items() if _is_rows(value)}
    if any(map(_may_have_logits, named.values())):
        return None
    right = [key for key, value in rows.items() if value.shape[1] == num_classes]
    (only,) = right if len(right) == 1 else rows if len(rows) == 1 else (None,)
    return only


def _is_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2


def _may_have_logits(part: Any) -> bool:
    """Whether a part has parts, of which one is called "logits" or has their shape."""
    inside = {} if isinstance(part, Tensor) else parts(part)
    return LOGITS in inside or any(_is_rows(v) or _may_have_logits(v) for v in inside.values())


def parts(output: Any) -> dict[Any, Any]:
    """What a network returns together, by its keys, its names or its numbers."""
    if isinstance(output, Mapping):
        return dict(output)
    if is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if hasattr(output, "_asdict"):  # a named tuple
        return output._asdict()
    return dict(enumerate(output)) if isinstance(output, tuple | list) else {}


def logits_in(output: Any, place: Place) -> Any:
    """What is at a place in what a network returns; a tensor is the logits themselves, also of a
    network that returns more in another mode."""
    if place is None or isinstance(output, Tensor):
        return output
    named = isinstance(place, str) and not isinstance(output, Mapping)
    return getattr(output, place) if named else output[place]


def with_forward(theirs: type[nn.Module], forward: Callable) -> type[nn.Module]:
    """A class that is like another but for its forward. Whoever keeps a list of the classes that
    are derived from his own, or wants something of them, does not hear of it."""
    made = type.__new__(type(theirs), theirs.__name__, (_Unheard, theirs), {"forward": forward})
    made.__bases__ = (theirs,)
    return made


class _Unheard(nn.Module):
    __slots__ = ()

    def __init_subclass__(cls, **_: Any) -> None:
        """Ask no other base, while a class is made."""


def answering(network: nn.Module, order: Sequence[int]) -> nn.Module:
    """A view of `network` whose answer i is the answer ``order[i]`` of that.

    It has the same modules under the same names, so that it can be cut where `network` can.
    `network` stays as it is.
    """
    theirs, columns = type(network), list(order)

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return theirs.forward(self, x)[:, columns]

    view = object.__new__(with_forward(theirs, forward))
    view.__dict__ = dict(vars(network))
    return view
