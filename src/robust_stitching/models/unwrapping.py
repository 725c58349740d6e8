"""What is put around networks for speed, or made of them, and the network itself."""

import re

import torch
from torch import fx, nn

from robust_stitching.basics.copying import copy_of
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
    UserError : for a network that was scripted, traced, exported or quantised, whole or in part,
        which is no longer made of the modules that people wrote.
    """
    network = _inside(network)
    for name, module in network.named_modules():
        made = _made_by(module)
        if made:
            what = f"its part '{name}'" if name else "it"
            raise UserError(
                f"the network {type(network).__name__} cannot be cut, since {what} was made by "
                f"{made}; give the module before that."
            )
    return network


def unwrapped_copy(network: nn.Module) -> nn.Module:
    """A copy of a network in which neither it nor any of its modules is wrapped; see `unwrapped`
    and `copy_of` for what is refused."""
    copied = copy_of(unwrapped(network))
    for module in list(copied.modules()):
        for name, child in list(module._modules.items()):
            module._modules[name] = _inside(child)
    return copied


def _inside(module: nn.Module) -> nn.Module:
    while type(module).__module__.startswith("torch.") and type(module).__name__ in WRAPPERS:
        module = getattr(module, WRAPPERS[type(module).__name__])
    return module


def _made_by(module: nn.Module) -> str | None:
    """What has made another thing of a module than people wrote; None where nothing has."""
    if isinstance(module, torch.jit.ScriptModule):
        return "torch.jit"
    if isinstance(module, fx.GraphModule) and not isinstance(module.meta.get("architecture"), dict):
        return "torch.fx or torch.export"
    quantised = re.match(r"torch\.(ao\.)?nn\.(intrinsic\.)?quantized", type(module).__module__)
    return "quantisation" if quantised else None
