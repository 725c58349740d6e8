"""Copies of networks."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.basics.functions import Memo, renew
from robust_stitching.basics.sharing import require_apart


def copy_of(network: nn.Module, instead: Memo | None = None) -> nn.Module:
    """A copy of a network with weights of its own. Tensors that it holds and that a pass has
    computed, as `torch.nn.utils.weight_norm` does, are copied as numbers, wherever it holds them;
    functions that it holds, hooks too, work on the copy where they worked on a part of it.

    Parameters
    ----------
    instead : what the copy has in the place of objects, by their identities.

    Raises
    ------
    UserError : where it holds something that cannot be copied, a function that knows a part of it
        by a global name, or something that leads to a part of it in the copy, too.
    """
    memo = dict(instead or {})
    try:
        with _AsNumbers():
            copied = copy.deepcopy(network, memo)
            renew(memo)
        require_apart(copied, network, memo)
    except UserError:
        raise
    except Exception as error:  # whatever is held may raise what it likes
        raise UserError(
            f"the network {type(network).__name__} cannot be copied ({first_line(error)}); remove "
            "from its modules what is no part of it."
        ) from error
    return copied


class _AsNumbers(TorchFunctionMode):
    """Within it, what a pass has computed is copied as numbers; torch would refuse to."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return function(*args, **(kwargs or {}))
