"""What the training of a map minimises besides, or instead of, the loss on the labels."""

import torch
from torch import Tensor, nn

from robust_stitching.attacks.losses import Loss, divergence
from robust_stitching.basics.labels import choices_of
from robust_stitching.basics.modes import evaluating
from robust_stitching.graphs import graph
from robust_stitching.graphs.folding import Folded
from robust_stitching.similarity.gram import LEAST_IMAGES, GramSums
from robust_stitching.training.objectives import LABELS, Goal, Objective, Outcome

TARGETS = ("hard", "soft_1", "soft_2", "soft_12", "soft_1_plus_2")
FRONT_TARGETS = ("soft_1", "soft_12", "soft_1_plus_2")


def goal_of(kind: str, temperature: float, front: nn.Module, end: nn.Module) -> Goal:
    """The labels, or the donors' softened answers to the unattacked images.

    With p₁ and p₂ the softmax of the donors' logits z₁ (front) and z₂ (end) over the temperature T:
    p₁ (soft_1), p₂ (soft_2), the mean of the losses on both, which is the loss on their mean
    (soft_12), or the softmax of the mean logits over T (soft_1_plus_2).
    """
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


def penalised(
    objective: Objective, network: nn.Module, end: nn.Module, layer: str, l1: float, cka: float
) -> Objective:
    """`objective` plus l1 · mean |W| plus cka · CKA between the mapped activation and what `end`
    has at `layer` for the same images: those of the last pass, attacked ones under attack.

    Parameters
    ----------
    network : a stitched network with a `transform`, the one that is trained.
    """
    watched = _Watched(network)
    own = graph.features(end, [layer]) if cka else None

    def found(_: nn.Module, images: Tensor, labels: Tensor, iteration: int) -> Outcome:
        outcome = objective(watched, images, labels, iteration)
        loss = outcome.loss
        if l1:
            loss = loss + l1 * network.transform.matrix.abs().mean()
        if own is not None and len(watched.images) >= LEAST_IMAGES:
            with evaluating(own), torch.autocast(images.device.type, enabled=False):
                (expected,) = own(watched.images)
            loss = loss + cka * batch_cka(watched.mapped, expected)
        return outcome._replace(loss=loss)

    return found


class _Watched(nn.Module):
    """A stitched network that remembers the last images it saw and what the map made of them."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.piece = graph.features(network, ["transform", "output"])
        self.images = self.mapped = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        self.images = images
        self.mapped, logits = self.piece(images)
        return logits


def batch_cka(x: Tensor, y: Tensor) -> Tensor:
    """Debiased linear CKA of the activations x (n, …) and y (n, …) of one batch of at least four
    images, differentiable. Of few images with many features, the biased one is near 1 whatever
    they are."""
    n = len(x)
    with torch.autocast(x.device.type, enabled=False):
        x, y = (value.flatten(1).float() for value in (x, y))
        x, y = x - x.mean(dim=0), y - y.mean(dim=0)
        sums = GramSums(n, 2, x.device)
        sums.add(slice(0, n), slice(0, n), torch.stack([x @ x.T, y @ y.T]))
        hsic = sums.unbiased()
        # Where the map is still constant, CKA has no value: 0, without a gradient, does no harm.
        return hsic[0, 1] / (hsic[0, 0] * hsic[1, 1]).clamp(min=torch.finfo(hsic.dtype).tiny).sqrt()
