"""What training minimises: the plain loss, Madry's, or that of TRADES.

An objective is a function of the network, one batch and the number of the iteration, from which it
draws its random numbers: a resumed training sees the same ones.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching.attacks import Threat
from robust_stitching.attacks.losses import Loss, cross_entropy, divergence
from robust_stitching.attacks.pgd import step_warnings, worst_images
from robust_stitching.basics.labels import choices_of, losses_of
from robust_stitching.basics.modes import evaluating
from robust_stitching.basics.seeds import generator_for
from robust_stitching.graphs.folding import Folded, view_of

TRADES_START = 0.001  # deviation of the noise from which the attack inside TRADES starts


class Outcome(NamedTuple):
    """What an objective makes of a batch of B images.

    `logits` (B, classes) are for the images as they are, `attacked` (k, classes) for the first k of
    them under attack; None where none was attacked.
    """

    loss: Tensor
    logits: Tensor
    attacked: Tensor | None = None


Objective = Callable[[nn.Module, Tensor, Tensor, int], Outcome]
"""``objective(network, images, labels, iteration)``"""


def label_loss(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """−log p(label) of every image (N,); of attributes the mean over them."""
    return losses_of(logits, labels)


@dataclass(frozen=True)
class Goal:
    """What a network is to answer.

    Attributes
    ----------
    loss : of every image, ``loss(logits, labels, targets)``: what weights learn from.
    attacked : a loss that rises and falls with it (see `attacks.losses`): what Madry's attack
        maximises.
    targets : ``targets(images, labels)``, what both need to know besides the labels of images as
        they are, unattacked; None where they need nothing.
    """

    loss: Loss = label_loss
    attacked: Loss = cross_entropy
    targets: Callable[[Tensor, Tensor], Tensor | None] = lambda images, labels: None


LABELS = Goal()


def standard(
    network: nn.Module, images: Tensor, labels: Tensor, iteration: int, goal: Goal = LABELS
) -> Outcome:
    """The mean loss on the images as they are."""
    targets = goal.targets(images, labels)
    logits = network(images)
    return Outcome(goal.loss(logits, labels, targets).mean(), logits)


@dataclass(frozen=True)
class Adversary:
    """The attack inside adversarial training; the flags of train.py say the same.

    Attributes
    ----------
    kind : "madry" or "trades".
    epsilon, step_size : l-inf radius and step, in pixel space.
    perturb_steps : steps of the attack.
    beta : weight of the TRADES term.
    attack_ratio : share of each batch that is attacked, 0 to 1.
    ramp : iterations over which epsilon and step rise to their values; 0 turns that off.
    seed : of the attack's random starts.
    """

    kind: str
    epsilon: float = 8 / 255
    step_size: float = 2 / 255
    perturb_steps: int = 10
    beta: float = 10.0
    attack_ratio: float = 1.0
    ramp: int = 0
    seed: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be said of the attack before a training under it, in sentences."""
        return step_warnings(self.epsilon, self.step_size, self.perturb_steps)

    @property
    def label(self) -> str:
        """As part of a folder's name: kind and radius."""
        return f"{self.kind}-eps{self.epsilon:.4g}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def within(self, iterations: int) -> "Adversary":
        """The same for a training of so many iterations: the ramp takes a third at most."""
        return replace(self, ramp=min(self.ramp, iterations // 3))

    def attacked(self, batch: int) -> int:
        """How many images of a batch are attacked. TRADES shows them to the network by themselves,
        in training mode, where batch norms need two: it attacks two where it would attack one."""
        k = round(self.attack_ratio * batch)
        return min(2, batch) if k == 1 and self.kind == "trades" else k

    def radius(self, iteration: int) -> tuple[Threat, float]:
        """The threat and the step at an iteration."""
        share = min(1.0, (iteration + 1) / self.ramp) if self.ramp else 1.0
        return Threat(share * self.epsilon), share * self.step_size

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        iteration: int,
        view: nn.Module | None = None,
        goal: Goal = LABELS,
    ) -> Outcome:
        """The objective; the attack runs on `view`, the same function as `network` in evaluation
        mode but faster, where there is one (see `folding`)."""
        if not self.attacked(len(images)):
            return standard(network, images, labels, iteration, goal)
        generator = generator_for(self.seed, iteration, 1)  # 1: apart from the order's numbers
        find = self._madry if self.kind == "madry" else self._trades
        return find(network, view or network, images, labels, iteration, generator, goal)

    def _madry(
        self,
        network: nn.Module,
        view: nn.Module,
        images: Tensor,
        labels: Tensor,
        iteration: int,
        generator: torch.Generator,
        goal: Goal,
    ) -> Outcome:
        """max loss(f(x′), y) over the ball, by PGD from a uniform start (Madry et al., 2018)."""
        k = self.attacked(len(images))
        threat, step = self.radius(iteration)
        targets = goal.targets(images, labels)
        worst = worst_images(
            view,
            images[:k],
            labels[:k],
            threat,
            start=threat.uniform_start(images[:k], generator),
            steps=self.perturb_steps,
            step_size=step,
            loss=goal.attacked,
            targets=targets if targets is None else targets[:k],
        )
        with evaluating(view):
            clean = view(images[:k])
        logits = network(torch.cat([worst, images[k:]]))
        loss = goal.loss(logits, labels, targets).mean()
        return Outcome(loss, torch.cat([clean, logits[k:].detach()]), logits[:k].detach())

    def _trades(
        self,
        network: nn.Module,
        view: nn.Module,
        images: Tensor,
        labels: Tensor,
        iteration: int,
        generator: torch.Generator,
        goal: Goal,
    ) -> Outcome:
        """loss(f(x), y) + beta/B Σ max KL(f(x) ‖ f(x′)) (Zhang et al., 2019, equation 5).

        Attributes are Bernoulli distributions: both terms are means over images and attributes.
        """
        k = self.attacked(len(images))
        threat, step = self.radius(iteration)
        with evaluating(view):
            clean = choices_of(view(images[:k]), labels[:k]).softmax(dim=-1)
        noise = torch.randn(images[:k].shape, generator=generator).to(images)
        worst = worst_images(
            view,
            images[:k],
            labels[:k],
            threat,
            start=images[:k] + TRADES_START * noise,
            steps=self.perturb_steps,
            step_size=step,
            loss=divergence,
            targets=clean,
        )
        logits, attacked = network(images), network(worst)
        gap = F.kl_div(
            choices_of(attacked, labels[:k]).log_softmax(dim=-1),
            choices_of(logits[:k], labels[:k]).log_softmax(dim=-1),
            reduction="sum",
            log_target=True,
        )
        loss = goal.loss(logits, labels, goal.targets(images, labels)).mean()
        loss = loss + self.beta * gap / labels.numel()
        return Outcome(loss, logits.detach(), attacked.detach())


def objective_of(
    adversary: Adversary | None, network: nn.Module, iterations: int, goal: Goal = LABELS
) -> Objective:
    """What a training of `network` of so many iterations minimises: the standard loss, or that
    under attack."""
    if adversary is None:
        return partial(standard, goal=goal)
    adversary = adversary.within(iterations)
    view = view_of(network)

    def objective(network: nn.Module, images: Tensor, labels: Tensor, iteration: int) -> Outcome:
        if isinstance(view, Folded):
            view.refresh()
        return adversary(network, images, labels, iteration, view, goal)

    return objective
