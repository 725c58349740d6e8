"""What labels mean: the class of each image, (N,), or its attributes, (N, A) of 0 and 1.

Logits are (N, classes) or (N, A): an image is of the class with the largest logit, and has the
attributes whose logits are above 0. Whatever asks how wrong an answer is, or whether it is right,
asks here, and counts every attribute of every image as an answer of its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def are_attributes(labels: Tensor) -> bool:
    """Whether labels say which attributes each image has, rather than its one class."""
    return labels.ndim == 2


def losses_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each image (N,): −log p(label), or the mean of that over attributes."""
    if are_attributes(labels):
        truth = labels.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1)
    return F.cross_entropy(logits, labels, reduction="none")


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of all images: cross-entropy, for attributes binary cross-entropy."""
    if are_attributes(labels):
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)


def margins_of(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much each answer is wrong, of the shape of the labels: u = log Σ_{j≠y} exp(z_j) − z_y,
    or −z of an attribute that holds and z of one that does not; below 0 where p(label) is above a
    half.

    −log p(label) is softplus(u). Unlike p(label), u never rounds to a constant: it is what to look
    at where a network is sure. It is in float32 at least.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if are_attributes(labels):
        return (1 - 2 * labels) * logits
    own = labels[:, None]
    others = logits.scatter(1, own, -torch.inf)
    return others.logsumexp(dim=1) - logits.gather(1, own)[:, 0]


def answers_of(logits: Tensor, labels: Tensor) -> Tensor:
    """What a network takes for the labels, of their shape."""
    return (logits > 0).long() if are_attributes(labels) else logits.argmax(dim=1)


def are_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Which answers are right, bool of the shape of the labels."""
    return answers_of(logits, labels) == labels


def per_image(answers: Tensor) -> Tensor:
    """A mask of answers, (N,) or (N, A), as how many of each image's answers it has, (N,)."""
    return answers.long() if answers.ndim == 1 else answers.sum(dim=1)


def choices_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits whose softmax over the last dimension is what a network predicts: (N, classes), or
    (N, A, 2) of having and not having each attribute, since σ(z) = eᶻ / (eᶻ + e⁰)."""
    if are_attributes(labels):
        return torch.stack([logits, torch.zeros_like(logits)], dim=-1)
    return logits
