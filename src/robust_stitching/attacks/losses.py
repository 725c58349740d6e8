"""What attacks maximise: ``loss(logits, labels, targets)`` of logits (N, classes), labels (N,) and,
where a loss needs more than the label, targets (N, …); it returns one number an image, (N,).

An attack only asks in which direction a loss rises, and which of two values is larger. So each
stands here in a form that rises and falls with the published one and keeps its gradient in float32,
where the published one rounds to a constant: the cross-entropy of a confident network has no
gradient left once p(label) rounds to 1.

Cross-entropy and divergence also take attributes, logits and labels of shape (N, A); the losses
that compare logits with each other need classes.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robust_stitching.basics.labels import are_attributes, choices_of, margins_of

TINY = 1e-12
SATURATED = -15.0  # below it, log softplus(u) is u − exp(u)/2 to fourteen digits
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """What −log p(label) rises and falls with: u = log Σ_{j≠y} exp(z_j) − z_y, of which it is the
    softplus. Of attributes, log (1/A) Σ_a softplus(u_a), the logarithm of their mean."""
    u = margins_of(logits, labels)
    if not are_attributes(labels):
        return u
    return _log_softplus(u).logsumexp(dim=1) - math.log(u.shape[1])


def _log_softplus(u: Tensor) -> Tensor:
    low, high = u.clamp(max=SATURATED), u.clamp(min=SATURATED)
    return torch.where(u < SATURATED, low - low.exp() / 2, F.softplus(high).log())


def margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """max_{i≠y} z_i − z_y, above 0 where another class wins."""
    own = logits.gather(1, labels[:, None])
    return (logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1, keepdim=True) - own)[:, 0]


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
    attack inside TRADES maximises (Zhang et al., 2019), and, but for the entropy of p, which no
    attack changes, the cross-entropy with soft targets.

    Its gradient with respect to the logits is q − p, all of which rounds to 0 where p is near
    one-hot. So the gradient given is that of Σ_{j≠k} (q_j − p_j) (z_j − z_k), k the class with
    the largest p, in which no 1 is subtracted from 1, times a positive number for each image that
    brings it into the range of float32.

    `targets` are probabilities (N, classes), or (N, A, 2) for attributes: each is a Bernoulli
    distribution, and their divergences are summed.
    """
    choices = choices_of(logits if logits.dtype == torch.float64 else logits.float(), labels)
    top = targets.argmax(dim=-1, keepdim=True)
    with torch.no_grad():
        log_q = choices.log_softmax(dim=-1)
        value = F.kl_div(log_q, targets, reduction="none").flatten(1).sum(dim=1)
        log_p, log_q = (log.scatter(-1, top, -torch.inf) for log in (targets.log(), log_q))
        least = torch.maximum(log_p, log_q).flatten(1).amax(dim=1)
        least = least.view(-1, *[1] * (targets.ndim - 1))
        pull = (log_q - least).exp() - (log_p - least).exp()
    rise = (pull * (choices - choices.gather(-1, top))).flatten(1).sum(dim=1)
    return value + (rise - rise.detach())


def at_zero(loss: Loss) -> float:
    """What `loss` is where the published one is 0, the value with which APGD compares the loss
    after its first step."""
    return -math.inf if loss is cross_entropy else 0.0
