"""The loop of every attack: an image that an iterate fools leaves it at once.

In evaluation mode a network treats each image by itself, so the images that stay are attacked
exactly as if all had stayed. On a CPU they leave at once; elsewhere after some steps, see `LOOKS`,
and nothing changes of them meanwhile.

An image with attributes gives many answers. It leaves when all of them are wrong; until then the
iterate with the most wrong answers is kept, the first of those with equally many. It is one image
that fools all the attributes it is said to fool.

Only finite numbers count: an iterate fools if its pixels and its logits are finite, and where a
gradient is not, the attack goes on as if it were zero there.
"""

from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from robust_stitching.attacks.losses import Loss
from robust_stitching.basics.labels import are_right, per_image
from robust_stitching.basics.modes import attackable

LOOKS = frozenset(5**power for power in range(1, 9))
"""The steps of an attack after which one waits for a GPU to say which images are left: for those
that are fooled meanwhile it computes in vain, which is cheaper than to wait at every step."""


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

    def only(self, rows: Tensor) -> "Attacked":
        """What became of some of the images, by their numbers."""
        return Attacked(*(getattr(self, own.name)[rows] for own in fields(self)))

    def put(self, rows: Tensor, other: "Attacked") -> None:
        """Take what became of the images `rows` from `other`."""
        for own in fields(self):
            getattr(self, own.name)[rows] = getattr(other, own.name)

    def better_of(self, better: Tensor, images: Tensor, fooled: Tensor, step: Tensor) -> "Attacked":
        """The same with other images, and what these fool, where `better` (N,) holds."""
        per_answer = better.view(-1, *[1] * (fooled.ndim - 1))
        return replace(
            self,
            images=torch.where(better.view(-1, 1, 1, 1), images, self.images),
            fooled=torch.where(per_answer, fooled, self.fooled),
            step=torch.where(per_answer, step, self.step),
        )

    def take_better(self, rows: Tensor, other: "Attacked") -> None:
        """Take from another attack on the images `rows` (numbers) what has more wrong answers."""
        own = self.only(rows)
        better = per_image(other.fooled) > per_image(own.fooled)
        own = own.better_of(better, other.images, other.fooled, other.step)
        self.put(rows, replace(own, not_finite=own.not_finite | other.not_finite))

    def cpu(self) -> "Attacked":
        """The same on the CPU: two waits for the device."""
        told = (self.fooled, self.step, self.no_gradient, self.not_finite)
        widths = [1 if part.ndim == 1 else part.shape[1] for part in told]
        rows = [part.long().view(len(part), n) for part, n in zip(told, widths, strict=True)]
        parts = torch.cat(rows, dim=1).cpu().split(widths, dim=1)
        known = (
            own.reshape(part.shape).to(part.dtype) for own, part in zip(parts, told, strict=True)
        )
        return Attacked(self.images.cpu(), *known)


class Stepper(Protocol):
    """How an attack gets from one iterate to the next; its state is about the images still in."""

    def next(self, x: Tensor, images: Tensor, loss: Tensor, gradient: Tensor | None) -> Tensor:
        """The iterate after `x`, where `loss` (N,) and its gradient were found."""

    def last(self, x: Tensor, loss: Tensor) -> Tensor:
        """What to return for images that no iterate fooled, where `x` is the last one."""

    def keep(self, rows: Tensor) -> None:
        """Forget all images but those with some numbers, which are on the CPU."""


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
    attacked, kept, x = Attacked.nothing(images, labels), Attacked.nothing(images, labels), start
    places = torch.arange(len(labels))  # of those that are still in
    device = images.device
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
                    kept.no_gradient.copy_(largest == 0)
            kept.not_finite.logical_or_(~sound & ~_all_fooled(kept))
            value = value.where(value.isfinite(), -torch.inf)
            wrong = fools(x, logits, labels)
            better = per_image(wrong) > per_image(kept.fooled)
            at_once = device.type == "cpu"  # where nothing waits for an answer
            found = not at_once or bool(better.any())
            if found:
                kept = kept.better_of(better, x, wrong, torch.where(wrong, i, -1))
            if found and (at_once or i in LOOKS):
                leave = _all_fooled(kept).cpu()
                gone, rows = leave.nonzero()[:, 0], (~leave).nonzero()[:, 0]
                attacked.put(places[gone].to(device), kept.only(gone.to(device)))
                places, here = places[rows], rows.to(device)
                kept, x, value, images, labels = (
                    kept.only(here),
                    *(v[here] for v in (x, value, images, labels)),
                )
                gradient, targets = (None if v is None else v[here] for v in (gradient, targets))
                stepper.keep(rows)
            if i == steps or not len(places):
                break
            x = stepper.next(x, images, value, gradient)
    unfooled = per_image(kept.fooled) == 0
    last = torch.where(unfooled.view(-1, 1, 1, 1), stepper.last(x, value), kept.images)
    attacked.put(places.to(device), replace(kept, images=last))
    return attacked


def _all_fooled(attacked: Attacked) -> Tensor:
    """Which images have nothing left to fool, of shape (N,)."""
    return per_image(~attacked.fooled) == 0


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
