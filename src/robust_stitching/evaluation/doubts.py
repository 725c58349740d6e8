"""Signs that attacks look weaker than they are, above all because gradients are masked (Athalye et
al., 2018; Carlini et al., 2019): each is one sentence with what was seen and what it means.

Most are read off what the attacks found. The others cost little: a look at `LOOKED_AT` images, and
two short attacks on a few images that survived. The thresholds lie far from what every network of
archive/ shows at usual radii, standard, TRADES or Madry; tests/test_doubts.py has both sides.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robust_stitching.attacks import Threat, draws_at, pgd
from robust_stitching.attacks.loop import finite_or_zero, fools, value_alone, value_and_gradient
from robust_stitching.attacks.losses import cross_entropy, margin
from robust_stitching.attacks.pgd import usual_step
from robust_stitching.basics.copying import copy_of
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.labels import are_attributes, are_right, per_image
from robust_stitching.basics.modes import attackable, logits_of, without_tf32
from robust_stitching.basics.progress import Progress
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.known import WORST, Robustness
from robust_stitching.evaluation.pace import Pace
from robust_stitching.evaluation.suites import Suite

FEW = 3  # images by which attacks may differ by chance
FGSM_AHEAD = 0.01  # share of all images by which one step may beat many
DLR_AHEAD = 0.05  # by which APGD on DLR may beat APGD on cross-entropy
SQUARE_AHEAD = 0.1  # that random search may still fool behind all gradients
WITHOUT_GRADIENT = 0.05  # share of images
LATE = 0.1  # share of the images fooled by PGD that more than its first step has to fool
SHORT = 5  # steps of PGD, below which nothing is said of that
LOOKED_AT = 32
SAME = 1e-4  # of the largest logit: what rounding may change
SMALL, SMALLEST = 0.1, 0.001  # step of the gradient's check: of the radius, of the largest radius
SLOPE = (0.2, 5.0)  # how much of the rise it promises has to come
CLOSE = 0.05  # distance of logits below which cross-entropy takes the wrong classes for alike,
CLOSE_BY = 0.05  # if it is more than this share of the right one's lead
CHECKED = (8, 32)  # surviving images, at least and at most
CHECKED_SHARE = 1 / 20  # of all that survived
WHOLE_STEPS, EXACT_STEPS = 20, 10
STUBBORN = 0.25  # share of them


def doubts(
    network: nn.Module,
    view: nn.Module,
    split: AnySplit,
    attacks: Suite,
    known: Robustness,
    *,
    seed: int,
    progress: Progress,
) -> Iterator[str]:
    """What speaks against the numbers in `known`, found by `attacks` on all images of `split`.

    Parameters
    ----------
    view : of the network, that was attacked in its place (see `folding.view_of`).
    """
    yield from _numbers(known)
    if not known.attacked().any():
        return
    yield from _one_attack_against_another(known, weak=bool(attacks.warnings))
    few = split.sample(LOOKED_AT, seed)
    ((images, labels),) = few.batches(len(few))
    unsure = _unsure(network, images, known)
    if unsure:
        yield unsure
        return
    with without_tf32():
        yield from _gradients(network, images, labels, attacks, known)
        yield from _survivors(network, view, split, attacks.threat, known, seed, progress)


def _numbers(known: Robustness) -> Iterator[str]:
    n, attacked = known.done, known.attacked()
    if silent := int((known.not_finite & ~attacked).sum()):
        yield (
            f"{silent:,} of {n:,} images have answers that are NaN or infinite without any attack: "
            "they count as wrong."
        )
    if odd := int((known.not_finite & attacked).sum()):
        yield (
            f"logits or gradients became NaN or infinite in attacks on {odd:,} of "
            f"{int(attacked.sum()):,} images: such an answer counts as no success and such a "
            "gradient as zero, so robust accuracy may be overestimated."
        )


def _one_attack_against_another(known: Robustness, weak: bool) -> Iterator[str]:
    """Orders that attacks should not come in, if gradients lead anywhere; some of them say nothing
    where the step was chosen too short or too long (`weak`)."""
    accuracy, answers = known.accuracies(), known.right.numel()
    stepwise = next((name for name in known.steps if name.startswith("PGD")), None)

    def ahead(better: str, worse: str, share: float) -> bool:
        if better not in accuracy or worse not in accuracy:
            return False
        gap = accuracy[worse] - accuracy[better]
        return gap > share and round(gap * answers) >= FEW

    if stepwise and not weak:
        if ahead("FGSM", stepwise, FGSM_AHEAD):
            yield (
                f"one step (FGSM, {accuracy['FGSM']:.2%}) is a stronger attack than many "
                f"({stepwise}, {accuracy[stepwise]:.2%}): a sign of masked gradients."
            )
        yield from _steps_without_use(known, stepwise)
    if ahead("APGD-DLR", "APGD-CE", DLR_AHEAD):
        yield (
            f"the same attack is far stronger on differences of logits (APGD-DLR, "
            f"{accuracy['APGD-DLR']:.2%}) than on cross-entropy (APGD-CE, "
            f"{accuracy['APGD-CE']:.2%}): the scale of the logits hides the gradient of the "
            "latter, and attacks on it say little."
        )
    if "Square" in known.steps:
        fooled = int((known.steps["Square"] >= 0).sum())
        if fooled >= FEW and fooled > SQUARE_AHEAD * answers:
            yield (
                f"random search without gradients (Square) fooled {fooled:,} answers that every "
                "attack with gradients had left: a sign of masked gradients; more queries may fool "
                "more."
            )


def _steps_without_use(known: Robustness, stepwise: str) -> Iterator[str]:
    steps = known.steps[stepwise]
    fooled, late = int((steps >= 0).sum()), int((steps >= 2).sum())
    left = int((known.right & (steps < 0)).sum())
    many = int(stepwise.split("-")[1]) >= SHORT
    if many and fooled > FEW and left > LATE * fooled and late < LATE * fooled:
        yield (
            f"{stepwise} fooled {fooled:,} answers, {fooled - late:,} of them by its random start "
            "or its first step: accuracy does not fall with more steps, a sign of masked gradients."
        )


def _unsure(network: nn.Module, images: Tensor, known: Robustness) -> str | None:
    """What is to be said of answers that are not a function of the image alone."""
    one, two = logits_of(network, images), logits_of(network, images)
    halves = torch.cat([logits_of(network, half) for half in images.split(-(-len(images) // 2))])
    if _differ(one, two).any() or _taken_back(known):
        return (
            "the network answers the same images differently each time: attacks on one answer say "
            "little about the next."
        )
    if mixed := int(_differ(one, halves).sum()):
        return (
            f"the answers to {mixed} of {len(images)} images depend on which others are shown with "
            "them: attacks in one batch say little about the next."
        )
    return None


def _gradients(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    attacks: Suite,
    known: Robustness,
) -> Iterator[str]:
    """What the gradient at images as they are is worth: whether a small step along it raises the
    loss as it says."""
    right = per_image(are_right(logits_of(network, images), labels)) > 0
    if not right.any():
        return
    images, labels, threat = images[right], labels[right], attacks.threat
    whole = threat.whole(images[0].numel()).epsilon
    step = max(SMALL * threat.epsilon, SMALLEST * whole)
    with attackable(network):
        value, gradient, logits = value_and_gradient(network, images, labels, cross_entropy)
        gradient = finite_or_zero(gradient)
        moved = (images + step * threat.direction(gradient)).clamp(0, 1)
        risen, _, _ = value_alone(network, moved, labels, cross_entropy)
    blind, n = int((gradient.flatten(1).abs().amax(dim=1) == 0).sum()), len(images)
    if "FGSM" in known.steps:  # it looked at all of them
        blind, n = int(known.no_gradient.sum()), int(known.attacked().sum())
    if blind > WITHOUT_GRADIENT * n:
        yield (
            f"the gradient is zero at {blind:,} of {n:,} images: attacks that follow it cannot "
            "move there, and robust accuracy may be overestimated."
        )
        return
    promised = (gradient * (moved - images)).flatten(1).sum(dim=1)
    kept = ((risen - value) / promised).nan_to_num(0).median().item()
    if not SLOPE[0] < kept < SLOPE[1]:
        yield (
            f"a small step along the gradient changes the loss {kept:.2g} times as much as the "
            f"gradient says (median of {len(images)} images): it is not the slope of the loss, and "
            "attacks that follow it may be weaker than they look."
        )
    if attacks.tier == "quick" and not are_attributes(labels) and logits.shape[1] > 2:
        yield from _small_logits(logits, labels)


def _small_logits(logits: Tensor, labels: Tensor) -> Iterator[str]:
    """Whether softmax takes the wrong classes for alike although, by the scale of these logits,
    they are not."""
    nearest = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    mean = logits.scatter(1, labels[:, None], torch.nan).nanmean(dim=1)
    apart, ahead = (nearest - mean).median().item(), -margin(logits, labels).median().item()
    if CLOSE_BY * ahead < apart < CLOSE:
        yield (
            f"the logits of wrong classes lie only {apart:.1g} apart: cross-entropy then follows "
            "all of them at once instead of the nearest, and FGSM and PGD are weaker than they "
            "could be; what the larger tiers add does not depend on the scale of the logits."
        )


def _taken_back(known: Robustness) -> bool:
    """Whether FGSM, which looks at the images as they are first, found right answers wrong."""
    return "FGSM" in known.steps and int((known.steps["FGSM"] == 0).sum()) >= FEW


def _differ(one: Tensor, two: Tensor) -> Tensor:
    """Which images (N,) have answers that differ by more than rounding."""
    one, two = one.flatten(1), two.flatten(1)
    return (one - two).abs().amax(dim=1) > SAME * one.abs().amax(dim=1)


def _survivors(
    network: nn.Module,
    view: nn.Module,
    split: AnySplit,
    threat: Threat,
    known: Robustness,
    seed: int,
    progress: Progress,
) -> Iterator[str]:
    """Two short attacks on a few images that nothing fooled."""
    left = (known.attacked() & (per_image(known.fooled(WORST) & known.right) == 0)).nonzero()[:, 0]
    if not len(left):
        return
    n = min(max(round(CHECKED_SHARE * len(left)), CHECKED[0]), CHECKED[1], len(left))
    places = left[torch.linspace(0, len(left) - 1, n).long()]
    ((images, labels),) = split.take(places).batches(n)
    with progress(2 * n, "looking for masked gradients") as bar:
        pace = Pace(bar, WHOLE_STEPS + 1)

        def attack(network: nn.Module, x: Tensor, threat: Threat, steps: int, name: str) -> Tensor:
            pace.batch(n)
            pace.part(name, steps + 1)
            with pace.watching(network):
                return pgd(
                    *(network, x, labels, threat),
                    steps=steps,
                    step_size=usual_step(threat.epsilon, steps),
                    generator=draws_at(places, seed, name),
                ).images

        whole = threat.whole(images[0].numel())
        adversarial = attack(view, images, whole, WHOLE_STEPS, "whole")
        stubborn, rounded = n - _fooled(view, adversarial, labels), 0
        exact = _in_float64(network, images)
        if exact is not None:
            adversarial = attack(exact, images.double(), threat, EXACT_STEPS, "float64")
            rounded = _fooled(view, threat.project(adversarial.to(images), images), labels)
        pace.batch(0)
    enough = max(FEW, STUBBORN * n)
    if stubborn >= enough:
        yield (
            f"PGD-{WHOLE_STEPS} leaves {stubborn} of {n} checked images even where every image is "
            f"allowed ({threat.norm} radius {whole.epsilon:.4g}), where no network can be robust: "
            "gradients are masked."
        )
    if rounded >= enough:
        yield (
            f"PGD-{EXACT_STEPS} computed in float64 fools {rounded} of {n} checked images that "
            "nothing fooled in float32: their gradients are lost to rounding, and robust accuracy "
            "is overestimated."
        )


def _fooled(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many images have a wrong answer."""
    return int((per_image(fools(images, logits_of(network, images), labels)) > 0).sum())


def _in_float64(network: nn.Module, images: Tensor) -> nn.Module | None:
    """A copy that computes in float64; None where a network cannot."""
    try:
        exact = copy_of(network)
        exact.double()
        logits_of(exact, images[:1].double())
    except (RuntimeError, TypeError, UserError):
        return None
    return exact
