"""Training under attack: Madry's objective and that of TRADES."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching.attacks import Threat
from robust_stitching.attacks.losses import divergence
from robust_stitching.attacks.pgd import step_warnings, worst_images
from robust_stitching.basics.labels import choices_of
from robust_stitching.basics.modes import evaluating
from robust_stitching.basics.seeds import generator_for
from robust_stitching.graphs.folding import Folded, view_of
from robust_stitching.plans import Adversary
from robust_stitching.training.objectives import (
    LABELS,
    Goal,
    Look,
    Objective,
    Outcome,
    at_logits,
    standard,
)

TRADES_START = 0.001
"""Deviation of the noise from which the attack inside TRADES starts."""


def warnings_of(adversary: Adversary | None) -> tuple[str, ...]:
    """What is to be said of an attack before a training under it, in sentences."""
    if adversary is None:
        return ()
    return step_warnings(adversary.epsilon, adversary.step_size, adversary.perturb_steps)


def radius_at(adversary: Adversary, iteration: int) -> tuple[Threat, float]:
    """The threat and the step of the attack at an iteration: both rise over the ramp."""
    share = min(1.0, (iteration + 1) / adversary.ramp) if adversary.ramp else 1.0
    return Threat(share * adversary.epsilon), share * adversary.step_size


@dataclass(frozen=True)
class Attacking:
    """One step of a training under attack.

    Attributes
    ----------
    view : what is attacked, the same function as the network in evaluation mode but faster (see
        `graphs.folding`); None attacks the network itself.
    seed : of the random starts.
    goal, look : see `objectives`.
    """

    adversary: Adversary
    seed: int = 0
    view: nn.Module | None = None
    goal: Goal = LABELS
    look: Look = at_logits

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, iteration: int
    ) -> Outcome:
        """The objective."""
        if not self.adversary.attacked(len(images)):
            return standard(network, images, labels, iteration, self.goal, self.look)
        if isinstance(self.view, Folded):
            self.view.refresh()
        generator = generator_for(self.seed, iteration, 1)  # 1: apart from the order's numbers
        find = self._madry if self.adversary.kind == "madry" else self._trades
        return find(network, self.view or network, images, labels, iteration, generator)

    def _madry(
        self,
        network: nn.Module,
        view: nn.Module,
        images: Tensor,
        labels: Tensor,
        iteration: int,
        generator: torch.Generator,
    ) -> Outcome:
        """max loss(f(x′), y) over the ball, by PGD from a uniform start (Madry et al., 2018)."""
        k = self.adversary.attacked(len(images))
        threat, step = radius_at(self.adversary, iteration)
        targets = self.goal.targets(images, labels)
        worst = worst_images(
            view,
            images[:k],
            labels[:k],
            threat,
            start=threat.uniform_start(images[:k], generator),
            steps=self.adversary.perturb_steps,
            step_size=step,
            loss=self.goal.attacked,
            targets=targets if targets is None else targets[:k],
        )
        with evaluating(view):
            clean = view(images[:k])
        seen = self.look(network, torch.cat([worst, images[k:]]))
        loss = self.goal.loss(seen.logits, labels, targets).mean()
        logits = seen.logits.detach()
        return Outcome(loss, torch.cat([clean, logits[k:]]), seen, logits[:k])

    def _trades(
        self,
        network: nn.Module,
        view: nn.Module,
        images: Tensor,
        labels: Tensor,
        iteration: int,
        generator: torch.Generator,
    ) -> Outcome:
        """loss(f(x), y) + beta/B Σ max KL(f(x) ‖ f(x′)) (Zhang et al., 2019, equation 5).

        Attributes are Bernoulli distributions: both terms are means over images and attributes.
        """
        k = self.adversary.attacked(len(images))
        threat, step = radius_at(self.adversary, iteration)
        with evaluating(view):
            clean = choices_of(view(images[:k]), labels[:k]).softmax(dim=-1)
        noise = torch.randn(images[:k].shape, generator=generator).to(images)
        worst = worst_images(
            view,
            images[:k],
            labels[:k],
            threat,
            start=images[:k] + TRADES_START * noise,
            steps=self.adversary.perturb_steps,
            step_size=step,
            loss=divergence,
            targets=clean,
        )
        logits = self.look(network, images).logits
        seen = self.look(network, worst)
        gap = F.kl_div(
            choices_of(seen.logits, labels[:k]).log_softmax(dim=-1),
            choices_of(logits[:k], labels[:k]).log_softmax(dim=-1),
            reduction="sum",
            log_target=True,
        )
        loss = self.goal.loss(logits, labels, self.goal.targets(images, labels)).mean()
        loss = loss + self.adversary.beta * gap / labels.numel()
        return Outcome(loss, logits.detach(), seen, seen.logits.detach())


def objective_of(
    adversary: Adversary | None,
    network: nn.Module,
    iterations: int,
    goal: Goal = LABELS,
    *,
    seed: int = 0,
    look: Look = at_logits,
) -> Objective:
    """What a training of `network` of so many iterations minimises: the standard loss, or that
    under attack, whose random starts follow from the seed."""
    if adversary is None:
        return partial(standard, goal=goal, look=look)
    return Attacking(adversary.within(iterations), seed, view_of(network), goal, look)
