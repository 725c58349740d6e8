"""The running statistics of batch norms, estimated again from images."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.modes import evaluating
from robust_stitching.data import AnySplit
from robust_stitching.graphs.norms import keeps_statistics

IMAGES = 1000
BATCH_SIZE = 100

STATISTICS = "running_"
"""So begin the names of buffers that keep them, as those of torch do."""


def has_statistics(network: nn.Module) -> bool:
    """Whether there is anything to estimate."""
    return bool(_batch_norms(network) or _of_others(network))


def estimate_statistics(network: nn.Module, split: AnySplit, seed: int) -> None:
    """Set the statistics of all batch norms to their means over batches of up to `IMAGES` images of
    `split`, chosen by the seed; the batches are equally large but for one image. Modes stay.

    Batch norms of somebody's own, modules or functions, are those whose buffers are called as
    torch's. How far a batch moves them, nobody says, so each batch is looked at twice: statistics
    that become r₀ from 0 and r₁ from 1 move by m = 1 − (r₁ − r₀) towards r₀ / m.

    Raises
    ------
    UserError : where there are fewer than two images, which have no variance.
    """
    if not has_statistics(network):
        return
    norms, own = _batch_norms(network), _of_others(network)
    some = split.sample(IMAGES, seed)
    if len(some) < 2:
        raise UserError(f"{len(some)} training image is too few for the statistics of batch norms.")
    momenta = [norm.momentum for norm in norms]
    means = [torch.zeros_like(values, dtype=torch.float64) for values in own]
    batches = some.equal_batches(BATCH_SIZE)
    with evaluating(network):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean of all batches
        for module in network.modules():
            module.training = keeps_statistics(module)
        try:
            for number, (images, _) in enumerate(batches, 1):
                if not own:
                    network(images)
                    continue
                for mean, value in zip(means, _moved_to(network, images, own), strict=True):
                    mean += (value - mean) / number
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
        for values, mean in zip(own, means, strict=True):
            values.copy_(torch.where(mean.isfinite(), mean, values))


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Those of torch with running statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _of_others(network: nn.Module) -> list[Tensor]:
    """The statistics of all other norms."""
    buffers = _buffers_of_others(network)
    return [b for name, b in buffers if name.startswith(STATISTICS) and b.is_floating_point()]


def _buffers_of_others(network: nn.Module) -> list[tuple[str, Tensor]]:
    modules = [module for module in network.modules() if not isinstance(module, _BatchNorm)]
    return [buffer for module in modules for buffer in module.named_buffers(recurse=False)]


def _moved_to(network: nn.Module, images: Tensor, statistics: list[Tensor]) -> list[Tensor]:
    """What a batch moves the statistics of others towards, which stay; NaN where it does not."""
    before = [(buffer, buffer.clone()) for _, buffer in _buffers_of_others(network)]
    reached = []
    for start in (0, 1):
        for values in statistics:
            values.fill_(start)
        network(images)
        reached.append([values.double() for values in statistics])
        for buffer, value in before:
            buffer.copy_(value)
    return [low / (1 - (high - low)) for low, high in zip(*reached, strict=True)]
