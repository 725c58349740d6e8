"""The loop of every gradient attack: an image that an iterate fools leaves it at once.

In evaluation mode a network treats each image by itself, so the images that stay are attacked
exactly as if all had stayed.

An image with attributes gives many answers. It leaves when all of them are wrong; until then the
iterate with the most wrong answers is kept, the first of those with equally many. It is one image
that fools all the attributes it is said to fool.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from robust_stitching.attacks.losses import Loss
from robust_stitching.labels import are_right, per_image
from robust_stitching.modes import attackable


@dataclass(frozen=True)
class Attacked:
    """What became of a batch of N images with labels of shape (N,), or (N, A) for attributes.

    Attributes
    ----------
    images : the iterate that fooled the network, or the attack's last word, of shape (N, C, H, W).
    fooled : which of their answers the network gets wrong, of the shape of the labels.
    step : after how many steps, of the same shape; −1 where not at all.
    no_gradient : where the gradient at the start was zero in every pixel, of shape (N,).
    """

    images: Tensor
    fooled: Tensor
    step: Tensor
    no_gradient: Tensor


class Stepper(Protocol):
    """How an attack gets from one iterate to the next; its state is about the images still in."""

    def next(self, x: Tensor, images: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        """The iterate after `x`, where `loss` (N,) and its gradient were found."""

    def last(self, x: Tensor, loss: Tensor) -> Tensor:
        """What to return for images that no iterate fooled, where `x` is the last one."""

    def keep(self, rows: Tensor) -> None:
        """Forget all images but those of a mask (N,)."""


def attack(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Loss,
    stepper: Stepper,
    start: Tensor,
    steps: int,
    targets: Tensor | None = None,
) -> Attacked:
    """Drive `stepper` from `start` for `steps` steps; what fools the network is kept and leaves.

    Parameters
    ----------
    start : the first iterate, of the shape of `images`.
    targets : what `loss` needs to know of each image besides its label, of shape (N, …).
    """
    found, x = images.clone(), start
    step = torch.full_like(labels, -1)
    most = torch.zeros(len(labels), dtype=torch.long, device=labels.device)  # wrong answers so far
    no_gradient = most.bool()
    inside = torch.arange(len(labels), device=labels.device)
    with attackable(network):
        for i in range(steps + 1):
            towards = None if targets is None else targets[inside]
            value, gradient, logits = value_and_gradient(network, x, labels[inside], loss, towards)
            if i == 0:
                no_gradient = gradient.flatten(1).abs().amax(dim=1) == 0
            right = are_right(logits, labels[inside])
            wrong = per_image(~right)
            better = wrong > most[inside]
            if better.any():
                rows = inside[better]
                found[rows], most[rows] = x[better], wrong[better]
                step[rows] = torch.where(right[better], -1, i)
                stay = per_image(right) > 0
                inside, x, value, gradient = (v[stay] for v in (inside, x, value, gradient))
                stepper.keep(stay)
            if i == steps or not len(inside):
                break
            x = stepper.next(x, images[inside], value, gradient)
    unfooled = most[inside] == 0
    found[inside[unfooled]] = stepper.last(x, value)[unfooled]
    return Attacked(found, step >= 0, step, no_gradient)


def value_and_gradient(
    network: nn.Module, x: Tensor, labels: Tensor, loss: Loss, targets: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of every image (N,), its gradient with respect to `x`, and the logits."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = network(x)
        value = loss(logits, labels, targets)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient, logits.detach()
