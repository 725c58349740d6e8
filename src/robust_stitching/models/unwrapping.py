"""What is put around networks for speed, or made of them, and the network itself."""

import torch
from torch import nn

from robust_stitching.basics.errors import UserError

WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
"""Classes of torch that hold a network and do what it does, to the attribute that holds it."""


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside of DataParallel or torch.compile, else `network` itself.

    Raises
    ------
    UserError : for a network that was scripted or exported, whole or in part, which is no longer
        made of modules that can be cut.
    """
    while type(network).__module__.startswith("torch.") and type(network).__name__ in WRAPPERS:
        network = getattr(network, WRAPPERS[type(network).__name__])
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"its part '{name}' is" if name else "it is"
            raise UserError(
                f"the network {type(network).__name__} cannot be cut, since {what} a "
                f"{type(module).__name__} of torch.jit; give the module before that."
            )
    return network
