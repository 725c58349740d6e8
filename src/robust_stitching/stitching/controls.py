"""Controls of a stitch: how well the map and the end network do with other fronts.

A map of enough freedom can learn the task by itself. What a stitch says about the front shows only
beside the end network stitched to itself, and beside fronts that never learned anything.
"""

import copy
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import nn

from robust_stitching import models
from robust_stitching.basics.copying import copy_of
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.own_lines import with_line
from robust_stitching.basics.seeds import generator_for
from robust_stitching.data import AnySplit
from robust_stitching.stitching.statistics import estimate_statistics

SELF, RANDOM = "self_stitch", "random_front"
NEGLIGIBLE = 0.1
"""A factor of a whole branch below this makes nothing of the branch."""


def with_random_weights(network: nn.Module, split: AnySplit, seed: int, number: int) -> nn.Module:
    """A network of the same architecture with weights that never learned anything, the one of that
    `number` among those of a seed, drawn apart from those that any training begins with.

    It normalises images as `network` does. All its branches are alive, also those that a training
    begins with switched off; its batch norms have the statistics of images of `split`: without them
    its activations would vanish, or grow, from layer to layer.

    Raises
    ------
    UserError : see `require_factory`.
    """
    require_factory(network)
    own_seed = generator_for(seed, "twin", number).initial_seed()
    twin = _twin(network, own_seed)
    twin.to(split.device)
    if network.architecture.get("code") and _alike(twin, _twin(network, own_seed + 1)):
        raise UserError(
            f"`controls` need fronts with fresh weights, but {network.architecture['model']} gives "
            "the same at every seed; let it neither seed nor load weights, or leave `controls` out."
        )
    name, normalize = models.normalisation_of(network)
    setattr(twin, name, copy.deepcopy(normalize))
    wake(twin, own_seed)
    twin.eval()
    estimate_statistics(twin, split, seed)
    return twin


def require_factory(network: nn.Module) -> None:
    """Raise UserError for a stitched network, which was never one thing before its training, and
    for one in memory with weights that nobody knows how to begin anew."""
    if "model" not in network.architecture:
        raise UserError(
            "`controls` need a front network with an initialisation of its own, but this front is "
            "a stitched one; leave `controls` out."
        )
    if network.architecture.get("in_memory"):
        _twin(network, 0)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same weights."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs)


def _twin(network: nn.Module, seed: int) -> nn.Module:
    """A network of the same architecture as it begins: as whoever builds it makes it, or, in
    memory, as its modules begin by themselves."""
    if not network.architecture.get("in_memory"):
        return models.rebuilt(network.architecture, seed)
    twin = copy_of(network)
    twin.cpu()
    _begin_anew(twin, seed)
    return twin


def _begin_anew(network: nn.Module, seed: int) -> None:
    """Have the modules of a network set their weights. All are NaN before: so are those afterwards
    that nothing sets, or that come of trained ones. Raises UserError for them."""

    def refuse(name: str, module: nn.Module, what: str) -> NoReturn:
        where = f"its part '{name}', a {type(module).__name__}," if name else "it"
        raise UserError(
            "`controls` need fronts with fresh weights, but nobody knows those of "
            f"{network.architecture['model']}: {where} has {what}, or leave `controls` out."
        )

    for name, module in network.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own and _reset_of(module) is None:
            refuse(name, module, f"weights ({', '.join(own)}) and no reset_parameters; give it one")
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.fill_(torch.nan)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in network.named_modules():
            reset = _reset_of(module)
            try:
                if reset is not None:
                    reset()
            except Exception as error:  # whatever code of the user's raises
                refuse(name, module, f"a reset_parameters that fails ({with_line(error)}); mend it")
    for name, module in network.named_modules():
        parameters = module.named_parameters(recurse=False)
        left = [name for name, value in parameters if bool(value.isnan().any())]
        if left:
            weights = f"weights ({', '.join(left)}) that no reset_parameters sets"
            refuse(name, module, f"{weights}; let its own set them")


def _reset_of(module: nn.Module) -> Callable[[], None] | None:
    """What gives a module's own weights the values that they begin with; None for one whose weights
    are computed before each pass, as by `torch.nn.utils.weight_norm`: from what, nobody says."""
    if module._forward_pre_hooks:
        return None
    own = getattr(module, "reset_parameters", None)
    return own or getattr(module, "_reset_parameters", None)


@torch.no_grad()
def wake(network: nn.Module, seed: int) -> None:
    """Let every branch of a fresh network count. Deep networks begin with the last normalisation of
    a branch at 0 (Goyal et al., 2017), a factor near 0 behind it (layer scale), or its last weights
    at 0: such a front would be its stem and its shortcuts alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if _is_factor(name, parameter) and _is_negligible(parameter):
                    parameter.fill_(1)
            weight = getattr(module, "weight", None)
            layer = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
            if layer and bool((weight == 0).all()):
                module.to("cpu").reset_parameters()
                module.to(weight.device)


def _is_factor(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter has one number a channel, or one for all, and is none that is added."""
    one_a_channel = parameter.numel() == max(parameter.shape, default=1)
    token = parameter.ndim > 1 and parameter.shape[0] == 1 < parameter.numel()
    return one_a_channel and not token and not name.endswith("bias")


def _is_negligible(parameter: nn.Parameter) -> bool:
    return bool((parameter.abs() < NEGLIGIBLE).all()) and bool(parameter.std(correction=0) == 0)
