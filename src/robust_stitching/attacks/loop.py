"""The loop of every attack: an image that an iterate fools leaves it at once.

In evaluation mode a network treats each image by itself, so the images that stay are attacked
exactly as if all had stayed.

An image with attributes gives many answers. It leaves when all of them are wrong; until then the
iterate with the most wrong answers is kept, the first of those with equally many. It is one image
that fools all the attributes it is said to fool.

Only finite numbers count: an iterate fools if its pixels and its logits are finite, and where a
gradient is not, the attack goes on as if it were zero there.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from robust_stitching.attacks.losses import Loss
from robust_stitching.basics.labels import are_right, per_image
from robust_stitching.basics.modes import attackable


@dataclass(frozen=True)
class Attacked:
    """What became of a batch of N images with labels of shape (N,), or (N, A) for attributes.

    Attributes
    ----------
    images : the iterate that fooled the network, or the attack's last word, of shape (N, C, H, W).
    fooled : which of their answers the network gets wrong, of the shape of the labels.
    step : after how many steps, of the same shape; −1 where not at all.
    no_gradient : where the gradient at the start was zero in every pixel, of shape (N,).
    not_finite : where logits, loss or gradient of an iterate were not finite, of shape (N,).
    """

    images: Tensor
    fooled: Tensor
    step: Tensor
    no_gradient: Tensor
    not_finite: Tensor

    @classmethod
    def nothing(cls, images: Tensor, labels: Tensor) -> "Attacked":
        """Before any attack."""
        none = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        wrong = torch.zeros_like(labels, dtype=torch.bool)
        return cls(images.clone(), wrong, torch.full_like(labels, -1), none, none.clone())

    def take_better(self, rows: Tensor, other: "Attacked") -> None:
        """Take from another attack on the images `rows` (numbers) what has more wrong answers."""
        better = per_image(other.fooled) > per_image(self.fooled[rows])
        at = rows[better]
        self.images[at], self.fooled[at] = other.images[better], other.fooled[better]
        self.step[at] = other.step[better]
        self.not_finite[rows] |= other.not_finite


class Stepper(Protocol):
    """How an attack gets from one iterate to the next; its state is about the images still in."""

    def next(self, x: Tensor, images: Tensor, loss: Tensor, gradient: Tensor | None) -> Tensor:
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
    *,
    gradients: bool = True,
) -> Attacked:
    """Drive `stepper` from `start` for `steps` steps; what fools the network is kept and leaves.

    Parameters
    ----------
    start : the first iterate, of the shape of `images`.
    targets : what `loss` needs to know of each image besides its label, of shape (N, …).
    gradients : whether the stepper asks for them; without, it is told None.
    """
    attacked, x = Attacked.nothing(images, labels), start
    most = torch.zeros(len(labels), dtype=torch.long, device=labels.device)  # wrong answers so far
    inside = torch.arange(len(labels), device=labels.device)
    with attackable(network):
        for i in range(steps + 1):
            look = value_and_gradient if gradients and i < steps else value_alone
            value, gradient, logits = look(network, x, labels, loss, targets)
            sound = all_finite(logits) & value.isfinite()
            if gradient is not None:
                largest = gradient.abs().amax(dim=(1, 2, 3))
                sound &= largest.isfinite()
                gradient = finite_or_zero(gradient)
                if i == 0:
                    attacked.no_gradient.copy_(largest == 0)
            attacked.not_finite[inside] |= ~sound
            value = value.where(value.isfinite(), -torch.inf)
            wrong = fools(x, logits, labels)
            count = per_image(wrong)
            better = count > most[inside]
            if better.any():
                rows = inside[better]
                attacked.images[rows], most[rows] = x[better], count[better]
                attacked.fooled[rows] = wrong[better]
                attacked.step[rows] = torch.where(wrong[better], i, -1)
                stay = per_image(~wrong) > 0
                inside, x, value, images, labels = (
                    v[stay] for v in (inside, x, value, images, labels)
                )
                gradient, targets = (None if v is None else v[stay] for v in (gradient, targets))
                stepper.keep(stay)
            if i == steps or not len(inside):
                break
            x = stepper.next(x, images, value, gradient)
    unfooled = most[inside] == 0
    attacked.images[inside[unfooled]] = stepper.last(x, value)[unfooled]
    return attacked


def fools(x: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Which answers to the images `x` are wrong, bool of the shape of the labels; none where pixels
    or logits are not finite."""
    sound = x.sum(dim=(1, 2, 3)).isfinite() & all_finite(logits)  # x is in [0, 1] or nowhere
    return ~are_right(logits, labels) & sound.view(-1, *[1] * (labels.ndim - 1))


def all_finite(x: Tensor) -> Tensor:
    """Which images have finite numbers only, of shape (N,)."""
    return x.flatten(1).isfinite().all(dim=1)


def finite_or_zero(gradient: Tensor) -> Tensor:
    """A gradient to step along, with 0 where it was NaN or infinite."""
    return gradient.nan_to_num(nan=0, posinf=0, neginf=0)


def value_and_gradient(
    network: nn.Module, x: Tensor, labels: Tensor, loss: Loss, targets: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of every image (N,), its gradient with respect to `x`, and the logits. The network
    is given a copy of `x`, since some overwrite what they are given. Where nothing that can be
    differentiated leads from `x` to the answer, as behind an argmax, the gradient is 0."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = network(x.clone())
        value = loss(logits, labels, targets)
    if not value.requires_grad:
        return value, torch.zeros_like(x), logits
    (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True, materialize_grads=True)
    return value.detach(), gradient, logits.detach()


def value_alone(
    network: nn.Module, x: Tensor, labels: Tensor, loss: Loss, targets: Tensor | None = None
) -> tuple[Tensor, None, Tensor]:
    """The same without a gradient."""
    with torch.no_grad():
        logits = network(x.clone())
        return loss(logits, labels, targets), None, logits
