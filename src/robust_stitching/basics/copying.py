"""Copies of networks."""

import copy

from torch import Tensor, nn

from robust_stitching.basics.errors import UserError, first_line


def copy_of(network: nn.Module) -> nn.Module:
    """A copy of a network with weights of its own. Tensors that its modules hold and that a pass
    has computed, as `torch.nn.utils.weight_norm` does, are copied as numbers.

    Raises
    ------
    UserError : where it holds something that cannot be copied.
    """
    held = [value for m in network.modules() for value in vars(m).values()]
    computed = (v for v in held if isinstance(v, Tensor) and v.grad_fn is not None)
    try:
        return copy.deepcopy(network, {id(value): value.detach().clone() for value in computed})
    except Exception as error:  # whatever is held may raise what it likes
        raise UserError(
            f"the network {type(network).__name__} cannot be copied ({first_line(error)}); remove "
            "from its modules what is no part of it."
        ) from error
