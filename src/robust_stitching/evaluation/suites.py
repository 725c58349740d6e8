"""Attacks that are run together: what the tiers mean."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from robust_stitching.attacks import (
    Attacked,
    Draws,
    Threat,
    apgd,
    apgd_targeted,
    draws_at,
    fgsm,
    pgd,
    square,
)
from robust_stitching.attacks.losses import dlr
from robust_stitching.attacks.pgd import step_warnings, usual_step
from robust_stitching.attacks.threat import LARGEST
from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.basics.labels import per_image
from robust_stitching.data import AnySplit, usual_epsilon
from robust_stitching.evaluation import autoattack
from robust_stitching.plans.parts import TIERS

USUAL_L2 = 0.5  # radius, on images of any dataset
TARGETS = 9  # classes that APGD-T tries
QUERIES = 500  # of Square Attack, for each image

Run = Callable[[nn.Module, Tensor, Tensor, Draws], Attacked]


@dataclass(frozen=True)
class Attack:
    """One attack of a suite.

    Attributes
    ----------
    run : ``run(network, images, labels, draws)`` from one random start.
    passes : of the network in a run, at most; 0 where nobody knows.
    restarts : from how many random starts it is run, each on what the ones before left.
    on_what_is_left : whether it only gets the images with right answers that no attack before it
        fooled; else all that are right as they are.
    """

    run: Run
    passes: int
    restarts: int = 1
    on_what_is_left: bool = False

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, places: Tensor, *seeds: int | str
    ) -> Attacked:
        """Attack images that stand at `places` (N,) of their split; their random numbers follow
        from that and `seeds`."""
        attacked = self.run(network, images, labels, draws_at(places, *seeds, 0))
        for restart in range(1, self.restarts):
            rows = per_image(~attacked.fooled).cpu().nonzero()[:, 0]
            if not len(rows):
                break
            left, draws = rows.to(images.device), draws_at(places[rows], *seeds, restart)
            attacked.take_better(left, self.run(network, images[left], labels[left], draws))
        return attacked


@dataclass(frozen=True)
class Suite:
    """Attacks that are run together, in their order.

    Attributes
    ----------
    attacks : name to attack; names say exactly what is run.
    settings : their parameters, for reports.
    notes : what was left out, and why.
    warnings : what makes them weaker than they seem, as they were asked for.
    """

    threat: Threat
    tier: str
    attacks: Mapping[str, Attack]
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def cumulative(self) -> tuple[str, ...]:
        """The attacks on what is left; the accuracy under them is that after all up to them."""
        return tuple(name for name, attack in self.attacks.items() if attack.on_what_is_left)

    @property
    def passes(self) -> int:
        """Of the network for a batch, at most; 0 where nobody knows."""
        counts = [attack.passes * attack.restarts for attack in self.attacks.values()]
        return sum(counts) if all(counts) else 0


def threat_on(split: AnySplit, epsilon: float | None, norm: str = "linf") -> Threat:
    """The ball of a radius around images of `split`, or for None the usual one there.

    Raises
    ------
    UserError : for a radius that is none, or that covers every image.
    """
    usual = USUAL_L2 if norm == "l2" else usual_epsilon(split.source)
    radius = usual if epsilon is None else epsilon
    if norm == "linf" and not 0 < radius <= 1:
        raise UserError(
            f"the l-inf radius has to be above 0 and at most 1, not {radius:g}: 1 covers every "
            "image."
        )
    if not radius > 0:
        raise UserError(f"the l2 radius has to be above 0, not {radius:g}.")
    if radius > LARGEST:
        farthest = math.sqrt(split.channels) * split.image_size
        raise UserError(
            f"an l2 radius of {radius:g} covers every image many times over; choose {farthest:.4g} "
            "at most, the distance between black and white."
        )
    return Threat(radius, norm)


def suite(
    tier: str,
    threat: Threat,
    classes: int,
    *,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    attributes: bool = False,
) -> Suite:
    """The attacks of a tier.

    Parameters
    ----------
    tier : "quick" (FGSM and PGD), "gradient" (also APGD on cross-entropy and on DLR), "default"
        (also, on what these leave, targeted APGD and Square Attack), or "standard" (the published
        AutoAttack, which fixes its own parameters).
    steps : of PGD and of each APGD.
    step_size : of PGD; None is the usual one (see `attacks.pgd.usual_step`).
    restarts : random starts of every attack but FGSM.
    attributes : whether the labels are attributes, of which there are `classes`; then the attacks
        whose losses compare classes are left out.

    Raises
    ------
    UserError : for an unknown tier, for AutoAttack on attributes, or where its package is not
        installed.
    """
    if tier not in TIERS:
        raise unknown("tier", tier, TIERS)
    if tier == "standard":
        return _autoattack(threat, classes, attributes)
    size = usual_step(threat.epsilon, steps) if step_size is None else step_size

    def run_pgd(network: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Attacked:
        return pgd(network, x, y, threat, steps=steps, step_size=size, generator=draws)

    def run_apgd(**options: Any) -> Run:
        return lambda network, x, y, draws: apgd(
            network, x, y, threat, steps=steps, generator=draws, **options
        )

    def run_targeted(network: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Attacked:
        return apgd_targeted(network, x, y, threat, steps=steps, generator=draws, targets=TARGETS)

    def run_square(network: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Attacked:
        return square(network, x, y, threat, queries=QUERIES, generator=draws)

    attacks = {
        "FGSM": Attack(lambda network, x, y, draws: fgsm(network, x, y, threat), 2),
        f"PGD-{steps}": Attack(run_pgd, steps + 1, restarts),
    }
    settings = {"steps": steps, "PGD step size": size, "restarts": restarts}
    notes = []
    if tier in ("gradient", "default"):
        attacks["APGD-CE"] = Attack(run_apgd(), steps + 1, restarts)
        if _possible("APGD-DLR", 3, classes, attributes, notes):
            attacks["APGD-DLR"] = Attack(run_apgd(loss=dlr), steps + 1, restarts)
    if tier == "default":
        if _possible("APGD-T", 4, classes, attributes, notes):
            targets = min(TARGETS, classes - 1)
            passes = 1 + targets * (steps + 1)
            attacks["APGD-T"] = Attack(run_targeted, passes, restarts, on_what_is_left=True)
            settings["targets"] = targets
        attacks["Square"] = Attack(run_square, QUERIES, restarts, on_what_is_left=True)
        settings["queries"] = QUERIES
    warnings = step_warnings(threat.epsilon, size, steps)
    return Suite(threat, tier, attacks, settings, tuple(notes), warnings)


def cumulative_note(names: Sequence[str]) -> str:
    """How to read the accuracy under attacks that were not run on all images."""
    were = "were" if len(names) > 1 else "was"
    return (
        f"{' and '.join(names)} {were} run on the images that every attack before had left; the "
        "accuracy is what is left after all of them."
    )


NUMBERS = {3: "three", 4: "four"}


def _possible(name: str, least: int, classes: int, attributes: bool, notes: list[str]) -> bool:
    """Whether an attack that compares `least` classes can be run; else a note says why not."""
    if attributes:
        notes.append(f"{name} compares classes and was left out: the labels are attributes.")
    elif classes < least:
        notes.append(
            f"{name} needs {NUMBERS[least]} classes and was left out: there are {classes}."
        )
    return not attributes and classes >= least


def _autoattack(threat: Threat, classes: int, attributes: bool) -> Suite:
    if attributes:
        raise UserError(
            "tier='standard' is AutoAttack, whose losses compare classes, but these labels are "
            "attributes; choose tier='default'."
        )
    run = autoattack.attack_for(threat, classes)
    attacks = {autoattack.NAME: Attack(run, passes=0)}
    return Suite(threat, "standard", attacks, {}, autoattack.notes(classes))
