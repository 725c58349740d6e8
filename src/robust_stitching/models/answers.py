"""The answers of a network: which of what it returns they are, and in another order."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

LOGITS = "logits"
Place = str | int | None
"""A key or a number in what a network returns; None where that is the logits themselves."""


def place_of_logits(output: Any, num_classes: int | None) -> Place:
    """Where the logits are in what a network returns for a batch: the tensor itself; else what is
    called "logits", or the only tensor of shape (N, classes), or of shape (N, `num_classes`); None
    also where that is not plain."""
    if isinstance(output, Tensor):
        return None
    if isinstance(output, Mapping):
        parts = dict(output)
    else:
        parts = dict(enumerate(output if isinstance(output, tuple | list) else ()))
    rows = {k: v for k, v in parts.items() if isinstance(v, Tensor) and v.ndim == 2}
    if LOGITS in rows:
        return LOGITS
    right = [key for key, value in rows.items() if value.shape[1] == num_classes]
    (only,) = right if len(right) == 1 else rows if len(rows) == 1 else (None,)
    return only


def answering(network: nn.Module, order: Sequence[int]) -> nn.Module:
    """A view of `network` whose answer i is the answer ``order[i]`` of that.

    It has the same modules under the same names, so that it can be cut where `network` can.
    `network` stays as it is.
    """
    theirs, columns = type(network), list(order)

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return theirs.forward(self, x)[:, columns]

    view = object.__new__(type(theirs.__name__, (theirs,), {"forward": forward}))
    view.__dict__ = dict(vars(network))
    return view
