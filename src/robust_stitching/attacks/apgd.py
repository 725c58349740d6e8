"""APGD (Croce and Hein, 2020): PGD with momentum that chooses its own step size."""

import torch
from torch import Tensor, nn

from robust_stitching.attacks.draws import draws_from
from robust_stitching.attacks.loop import Attacked, attack
from robust_stitching.attacks.losses import Loss, at_zero, cross_entropy, targeted_dlr
from robust_stitching.attacks.threat import Source, Threat
from robust_stitching.basics.modes import logits_of

MOMENTUM = 0.75  # share of the new step; the rest repeats the last move
RHO = 0.75  # a step size is fine while the loss rises in more than this share of its steps


class AdaptiveStep:
    """Algorithm 1 of the paper for all images at once.

    The step size of an image starts at 2·epsilon. At each checkpoint it is halved, and the image
    set back to its best iterate, if too few steps since the last one raised the loss, or if neither
    the step size nor the best loss changed there.

    Parameters
    ----------
    before : the loss before the first step, as its first check for oscillation counts it.
    """

    def __init__(self, threat: Threat, steps: int, before: float):
        self.threat, self.before = threat, before
        self.interval = max(int(0.22 * steps), 1)
        self.shrink = max(int(0.03 * steps), 1)
        self.least = max(int(0.06 * steps), 1)
        self.since = 0  # steps since the last checkpoint
        self.state: dict[str, Tensor] = {}

    def next(self, x: Tensor, images: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        state = self.state
        if not state:
            self._begin(x, loss, gradient)
            momentum = 1.0
        else:
            x, gradient = self._look_back(x, loss, gradient)
            momentum = MOMENTUM
        move = x - state["before"]
        state["before"] = x
        step = state["size"].view(-1, 1, 1, 1) * self.threat.direction(gradient)
        plain = self.threat.project(x + step, images)
        return self.threat.project(x + momentum * (plain - x) + (1 - momentum) * move, images)

    def _begin(self, x: Tensor, loss: Tensor, gradient: Tensor) -> None:
        self.state |= {
            "before": x,
            "size": torch.full_like(loss, 2 * self.threat.epsilon),
            "best": x.clone(),
            "best_loss": loss.clone(),
            "best_gradient": gradient.clone(),
            "best_loss_then": loss.clone(),  # at the last checkpoint
            "halved_then": torch.ones_like(loss, dtype=torch.bool),
            "rises": torch.zeros_like(loss),
            "last_loss": torch.full_like(loss, self.before),
        }

    def _look_back(self, x: Tensor, loss: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Take in what the last step led to; returns where to go on from, and its gradient."""
        state = self.state
        better = loss > state["best_loss"]
        where = better.view(-1, 1, 1, 1)
        state["best"] = torch.where(where, x, state["best"])
        state["best_gradient"] = torch.where(where, gradient, state["best_gradient"])
        state["best_loss"] = torch.maximum(state["best_loss"], loss)
        state["rises"] += loss > state["last_loss"]
        state["last_loss"] = loss
        self.since += 1
        if self.since < self.interval:
            return x, gradient
        oscillates = state["rises"] <= RHO * self.interval
        stuck = ~state["halved_then"] & (state["best_loss_then"] >= state["best_loss"])
        halve = oscillates | stuck
        state["halved_then"], state["best_loss_then"] = halve, state["best_loss"].clone()
        state["size"] = torch.where(halve, state["size"] / 2, state["size"])
        state["rises"].zero_()
        self.since, self.interval = 0, max(self.interval - self.shrink, self.least)
        back = halve.view(-1, 1, 1, 1)
        return (
            torch.where(back, state["best"], x),
            torch.where(back, state["best_gradient"], gradient),
        )

    def last(self, x: Tensor, loss: Tensor) -> Tensor:
        if not self.state:
            return x
        better = (loss > self.state["best_loss"]).view(-1, 1, 1, 1)
        return torch.where(better, x, self.state["best"])

    def keep(self, rows: Tensor) -> None:
        self.state = {name: value[rows.to(value.device)] for name, value in self.state.items()}


def apgd(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    steps: int,
    generator: Source,
    loss: Loss = cross_entropy,
    start: Tensor | None = None,
) -> Attacked:
    """APGD on `loss` from a random point at distance epsilon, or from `start`."""
    start = threat.boundary_start(images, generator) if start is None else start
    stepper = AdaptiveStep(threat, steps, at_zero(loss))
    return attack(network, images, labels, loss, stepper, start, steps)


def apgd_targeted(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    steps: int,
    generator: Source,
    targets: int = 9,
) -> Attacked:
    """APGD on the targeted DLR loss towards the `targets` most likely classes besides the label,
    one after the other, each on the images that are left and from a start of its own."""
    draws = draws_from(generator, len(images))
    logits = logits_of(network, images)
    likely = logits.scatter(1, labels[:, None], torch.inf).argsort(dim=1, descending=True)
    best = Attacked.nothing(images, labels)
    for rank in range(1, min(targets, likely.shape[1] - 1) + 1):
        places = (~best.fooled.cpu()).nonzero()[:, 0]
        if not len(places):
            break
        left = places.to(images.device)
        own = images[left]
        start = threat.boundary_start(own, draws.among(places))
        stepper = AdaptiveStep(threat, steps, at_zero(targeted_dlr))
        attacked = attack(
            network, own, labels[left], targeted_dlr, stepper, start, steps, likely[left, rank]
        )
        best.images[left] = attacked.images
        best.take_better(left, attacked)
        if rank == 1:
            best.no_gradient.copy_(attacked.no_gradient)
    return best
