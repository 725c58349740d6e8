"""Controls of a stitch: how well the map and the end network do with other fronts.

A map of enough freedom can learn the task by itself. What a stitch says about the front shows only
beside the end network stitched to itself, and beside a front that never learned anything.
"""

import copy

from torch import nn

from robust_stitching import models
from robust_stitching.errors import UserError

SELF, RANDOM = "self_stitch", "random_front"
CONTROLS = (SELF, RANDOM)


def with_random_weights(network: nn.Module, seed: int) -> nn.Module:
    """A network of the same architecture, as it was before any training; it normalises images as
    `network` does.

    Raises
    ------
    UserError : for a stitched network, which was never one thing before its training.
    """
    if "model" not in network.architecture:
        raise UserError(
            "--controls needs a front network with an initialisation of its own, but this front is "
            "a stitched one; leave --controls out."
        )
    twin = models.build(**network.architecture, seed=seed)
    twin.normalize = copy.deepcopy(network.normalize)
    return twin.eval()
