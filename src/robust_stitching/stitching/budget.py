"""How many test images activations are compared on, where the plan leaves that to us.

CKA over all n images takes n²/2 products of the width of a layer for each of what is compared, and
where memory does not hold all activations, passes over the images again and again. With an
ImageNet's 50,000 images at the first layers of a ResNet-50 that is hundreds of passes, and much
longer than any training of a map. Then a random sample gives the debiased CKA with an interval.

The choice depends on the plan, the networks and the numbers of images alone, never on the cut, on
time or on free memory: the same plan gives the same numbers everywhere, and the cuts of a pair are
compared alike.
"""

from typing import NamedTuple

import torch
from torch import nn

from robust_stitching.basics.modes import evaluating
from robust_stitching.graphs.folding import samples
from robust_stitching.graphs.graph import graph_of
from robust_stitching.plans.actions import Stitched
from robust_stitching.plans.parts import AUTO
from robust_stitching.similarity.blocks import BLOCK_BYTES

FEW = 2000
"""Images of a sample."""

ALWAYS = 5e12
"""Multiplications of Gram matrices that are made in any case: a minute or two of a processor."""

COMPARED = 5
"""What is compared at a cut: the donors, the map before and after training, direct matching."""

MOST_PASSES = 2


class Budget(NamedTuple):
    """What activations are compared on.

    Attributes
    ----------
    images : how many of the test images, chosen by the seed; None for all.
    why : in a sentence, what all would cost, or cost where that is much and the plan asks for it.
    """

    images: int | None
    why: str | None = None


def budget_of(
    plan: Stitched, front: nn.Module, end: nn.Module, train_images: int, test_images: int
) -> Budget:
    """What the plan says; of "auto" all images, where their Gram matrices take no more than
    `ALWAYS` multiplications, or no more than the training of the map and `MOST_PASSES` passes over
    the images; else `FEW`.

    Parameters
    ----------
    test_images : the most of a dataset that is measured on.
    """
    asked = plan.measured.similarity_images
    if plan.measured.no_pinv or isinstance(asked, int) or test_images <= FEW:
        return Budget(asked if isinstance(asked, int) else None)
    units = max(map(_widest, (front, end)))
    products = test_images**2 / 2 * COMPARED * units
    if products <= ALWAYS:
        return Budget(None)
    passes = (-(-test_images * COMPARED * units * 4 // BLOCK_BYTES) + 1) / 2
    forward = max(map(multiplications, (front, end)))
    training = 3 * forward * train_images * plan.training.epochs
    cost = (
        f"up to {products:.1e} multiplications and {passes:,.0f} passes over the images, where the "
        f"training of the map takes about {training:.1e}"
    )
    if asked != AUTO:
        return Budget(
            None, f"To compare activations on all {test_images:,} test images takes {cost}."
        )
    if products <= training and passes <= MOST_PASSES:
        return Budget(None)
    return Budget(
        FEW,
        f"Activations are compared on {FEW:,} test images, chosen by the seed: all {test_images:,} "
        f"would take {cost}. similarity_images=all takes all.",
    )


def _widest(network: nn.Module) -> int:
    """How many units the widest layer has at which one would cut; 0 where there is none."""
    layers = graph_of(network).layers.values()
    return max((layer.layout.units for layer in layers if layer.clean), default=0)


def multiplications(network: nn.Module) -> int:
    """What an image takes on its way through a network, in convolutions and matrix products."""
    from torch.utils.flop_counter import FlopCounterMode  # which takes seconds to begin

    with (
        evaluating(network),
        torch.random.fork_rng(devices=[]),
        FlopCounterMode(display=False) as c,
    ):
        network(samples(network, 2))
    return c.get_total_flops() // 2 // 2
