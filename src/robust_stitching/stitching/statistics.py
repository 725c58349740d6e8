"""The running statistics of batch norms, estimated again from images."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.modes import evaluating
from robust_stitching.data import AnySplit

IMAGES = 1000
BATCH_SIZE = 100


def batch_norms(*networks: nn.Module) -> list[_BatchNorm]:
    """Those with running statistics."""
    modules = [module for network in networks for module in network.modules()]
    return [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]


def estimate_statistics(network: nn.Module, split: AnySplit, seed: int) -> None:
    """Set the statistics of all batch norms to their means over batches of up to `IMAGES` images of
    `split`, chosen by the seed; the batches are equally large but for one image. Modes stay.

    Raises
    ------
    UserError : where there are fewer than two images, which have no variance.
    """
    norms = batch_norms(network)
    if not norms:
        return
    some = split.sample(IMAGES, seed)
    if len(some) < 2:
        raise UserError(f"{len(some)} training image is too few for the statistics of batch norms.")
    momenta = [norm.momentum for norm in norms]
    with evaluating(network):
        for norm in norms:
            norm.reset_running_stats()
            norm.train().momentum = None  # the plain mean of all batches
        try:
            for images, _ in some.equal_batches(BATCH_SIZE):
                network(images)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
