"""What a stitched network is to answer: the labels, or what the donors answer."""

import torch
from torch import Tensor, nn

from robust_stitching.attacks.losses import Loss, divergence
from robust_stitching.basics.labels import choices_of
from robust_stitching.basics.modes import evaluating
from robust_stitching.graphs.folding import Folded
from robust_stitching.plans import Objective
from robust_stitching.plans.parts import TASK
from robust_stitching.training.objectives import LABELS, Goal

FRONT_TARGETS = ("soft_1", "soft_12", "soft_1_plus_2")


def goal_of(plan: Objective, front: nn.Module, end: nn.Module) -> Goal:
    """The labels, or the donors' softened answers to the unattacked images.

    With p₁ and p₂ the softmax of the donors' logits z₁ (front) and z₂ (end) over the temperature T:
    p₁ (soft_1), p₂ (soft_2), the mean of the losses on both, which is the loss on their mean
    (soft_12), or the softmax of the mean logits over T (soft_1_plus_2). Of another objective than
    the task nothing; attacks then are on the labels.
    """
    kind, temperature = plan.target_type, plan.temperature
    if plan.objective != TASK:
        return Goal(no_loss)
    if kind == "hard":
        return LABELS
    views = [Folded(network) for network in (front, end)]

    def targets(images: Tensor, labels: Tensor) -> Tensor:
        with evaluating(*views), torch.autocast(images.device.type, enabled=False):
            asked = {"soft_1": views[:1], "soft_2": views[1:]}.get(kind, views)
            logits = [view(images) for view in asked]
        if kind == "soft_1_plus_2":
            logits = [torch.stack(logits).mean(dim=0)]
        softened = [(choices_of(z, labels) / temperature).softmax(dim=-1) for z in logits]
        return torch.stack(softened).mean(dim=0)

    return Goal(soft_cross_entropy(temperature), soft_divergence(temperature), targets)


def no_loss(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """0 of every image: what is learned stands in terms."""
    return logits.new_zeros(len(logits))


def soft_cross_entropy(temperature: float) -> Loss:
    """−T² Σ p log q of every image, with targets p (N, classes) and q the softmax of the logits
    over the temperature T; the factor keeps gradients of one size (Hinton et al., 2015,
    section 2). Of attributes, targets (N, A, 2), the mean over them."""

    def loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        log_q = (choices_of(logits, labels) / temperature).log_softmax(dim=-1)
        return -(temperature**2) * (targets * log_q).sum(dim=-1).view(len(logits), -1).mean(dim=1)

    return loss


def soft_divergence(temperature: float) -> Loss:
    """KL(p ‖ q) of the same targets p and softmax q, which differs from their cross-entropy by what
    no attack changes, in the form that an attack can follow."""

    def loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        return divergence(logits / temperature, labels, targets)

    return loss
