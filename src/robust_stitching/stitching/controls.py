"""Controls of a stitch: how well the map and the end network do with other fronts.

A map of enough freedom can learn the task by itself. What a stitch says about the front shows only
beside the end network stitched to itself, and beside a front that never learned anything.
"""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from robust_stitching import models
from robust_stitching.data import AnySplit
from robust_stitching.data.split import generator_for
from robust_stitching.errors import UserError
from robust_stitching.modes import without_tf32

SELF, RANDOM = "self_stitch", "random_front"
CALIBRATED_ON = 1000  # images that give the batch norms of a random network their statistics
BATCH_SIZE = 100


def with_random_weights(network: nn.Module, split: AnySplit, seed: int) -> nn.Module:
    """A network of the same architecture with weights that never learned anything, drawn apart from
    those that any training with the same seed begins with.

    It normalises images as `network` does. Its batch norms have the statistics of images of
    `split`: without them its activations would vanish, or grow, from layer to layer.

    Raises
    ------
    UserError : for a stitched network, which was never one thing before its training.
    """
    if "model" not in network.architecture:
        raise UserError(
            "--controls needs a front network with an initialisation of its own, but this front is "
            "a stitched one; leave --controls out."
        )
    own_seed = generator_for(seed, "twin").initial_seed()
    twin = models.build(**network.architecture, seed=own_seed).to(split.device)
    twin.normalize = copy.deepcopy(network.normalize)
    _calibrate(twin.eval(), split.sample(CALIBRATED_ON, seed))
    return twin


def _calibrate(network: nn.Module, split: AnySplit) -> None:
    """Set the statistics of batch norms to their means over batches of `split`."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # the plain mean of all batches
    with torch.no_grad(), without_tf32():
        for images, _ in split.batches(BATCH_SIZE):
            network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
