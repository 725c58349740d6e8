"""What training minimises: an objective is a function of the network, one batch and the number of
the iteration, from which it draws its random numbers: a resumed training sees the same ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from robust_stitching.attacks.losses import Loss, cross_entropy
from robust_stitching.basics.labels import losses_of


class Pass(NamedTuple):
    """What a network makes of images (n, C, H, W): its logits (n, classes), and the activations at
    the layers that somebody wants, by name."""

    images: Tensor
    logits: Tensor
    activations: Mapping[str, Tensor]


Look = Callable[[nn.Module, Tensor], Pass]
"""``look(network, images)``: a pass with gradients."""


def at_logits(network: nn.Module, images: Tensor) -> Pass:
    """A pass of which nobody wants more than the logits."""
    return Pass(images, network(images), {})


class Outcome(NamedTuple):
    """What an objective makes of a batch of B images.

    `logits` (B, classes) are for the images as they are, `attacked` (k, classes) for the first k of
    them under attack; None where none was attacked. `last` is the last pass that the loss has seen:
    of images as they are, or, under attack, of attacked ones.
    """

    loss: Tensor
    logits: Tensor
    last: Pass
    attacked: Tensor | None = None


Objective = Callable[[nn.Module, Tensor, Tensor, int], Outcome]
"""``objective(network, images, labels, iteration)``"""


def label_loss(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """−log p(label) of every image (N,); of attributes the mean over them."""
    return losses_of(logits, labels)


@dataclass(frozen=True)
class Goal:
    """What a network is to answer.

    Attributes
    ----------
    loss : of every image, ``loss(logits, labels, targets)``: what weights learn from.
    attacked : a loss that rises and falls with it (see `attacks.losses`): what Madry's attack
        maximises.
    targets : ``targets(images, labels)``, what both need to know besides the labels of images as
        they are, unattacked; None where they need nothing.
    """

    loss: Loss = label_loss
    attacked: Loss = cross_entropy
    targets: Callable[[Tensor, Tensor], Tensor | None] = lambda images, labels: None


LABELS = Goal()


def standard(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    iteration: int,
    goal: Goal = LABELS,
    look: Look = at_logits,
) -> Outcome:
    """The mean loss on the images as they are."""
    targets = goal.targets(images, labels)
    seen = look(network, images)
    return Outcome(goal.loss(seen.logits, labels, targets).mean(), seen.logits, seen)
