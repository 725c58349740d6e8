"""What attacks maximise: ``loss(logits, labels, targets)`` of logits (N, classes), labels (N,) and,
where a loss needs more than the label, targets (N, …); it returns one number an image, (N,).

Cross-entropy and divergence also take attributes, logits and labels of shape (N, A); the losses
that compare logits with each other need classes."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from robust_stitching.labels import choices_of, losses_of

TINY = 1e-12
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """−log p(label); of attributes the mean over them."""
    return losses_of(logits, labels)


def dlr(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The difference of logits ratio −(z_y − max_{i≠y} z_i) / (z_π1 − z_π3) of at least three
    classes (Croce and Hein, 2020, equation 6): invariant to shift and scale of the logits."""
    ordered = logits.sort(dim=1, descending=True).values
    own = logits.gather(1, labels[:, None])[:, 0]
    right = ordered[:, 0] == own
    best_other = ordered[:, 1].where(right, ordered[:, 0])
    return -(own - best_other) / (ordered[:, 0] - ordered[:, 2] + TINY)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """−(z_y − z_t) / (z_π1 − (z_π3 + z_π4)/2) towards classes `targets` (N,), of at least four
    classes (Croce and Hein, 2020, equation 7)."""
    ordered = logits.sort(dim=1, descending=True).values
    own = logits.gather(1, labels[:, None])[:, 0]
    target = logits.gather(1, targets[:, None])[:, 0]
    scale = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
    return -(own - target) / (scale + TINY)


def divergence(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """KL(p ‖ q) from the clean prediction p = `targets` to the prediction q of the logits: what the
    attack inside TRADES maximises (Zhang et al., 2019).

    `targets` are probabilities (N, classes), or (N, A, 2) for attributes: each is a Bernoulli
    distribution, and their divergences are summed.
    """
    gap = F.kl_div(choices_of(logits, labels).log_softmax(dim=-1), targets, reduction="none")
    return gap.flatten(1).sum(dim=1)
