"""Accuracy under attack, image by image: which attack fooled which image, at which step.

Robust accuracy over several attacks counts an image as right only if it is right as it is and under
every one of them: the worst case per image, never a minimum of accuracies.

Of an image with attributes each answer is counted so: an attribute is robust if it is right as it
is and in the image that each attack came up with (see `attacks.loop`), which is the one with the
most wrong answers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from robust_stitching.attacks import Attacked, Threat, apgd, fgsm, pgd
from robust_stitching.attacks.losses import dlr
from robust_stitching.data import AnySplit
from robust_stitching.data.split import generator_for
from robust_stitching.errors import UserError
from robust_stitching.evaluation import autoattack
from robust_stitching.folding import Folded
from robust_stitching.labels import are_right, per_image
from robust_stitching.modes import evaluating, without_tf32
from robust_stitching.progress import Progress, silent

BATCH_SIZE = 250
WORST = "worst case"
FGSM_MARGIN = 0.01  # by how much one step may beat many by chance
HIDDEN_GRADIENTS = 0.05  # share of images without a gradient from which on it is worth a warning

Run = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Attacked]


@dataclass(frozen=True)
class Suite:
    """Attacks that are run together.

    Attributes
    ----------
    attacks : name to attack; names say exactly what is run.
    settings : their parameters, for reports.
    notes : what was left out, and why.
    """

    threat: Threat
    attacks: Mapping[str, Run]
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()


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
    tier : "quick" (FGSM and PGD), "default" (also APGD on cross-entropy and on DLR), or "standard"
        (the published AutoAttack, which fixes its own parameters).
    steps, restarts : of PGD and APGD.
    step_size : of PGD; 2.5 · epsilon / steps if left out (Madry et al., 2018).
    attributes : whether the labels are attributes, of which there are `classes`; then the attacks
        whose losses compare classes are left out.

    Raises
    ------
    UserError : for AutoAttack on attributes, or where its package is not installed.
    """
    if tier == "standard" and attributes:
        raise UserError(
            "--tier standard is AutoAttack, whose losses compare classes, but these labels are "
            "attributes; choose --tier default."
        )
    if tier == "standard":
        notes = autoattack.notes(classes)
        return Suite(threat, {autoattack.NAME: autoattack.attack_for(threat, classes)}, {}, notes)
    size = step_size or 2.5 * threat.epsilon / steps
    attacks: dict[str, Run] = {
        "FGSM": lambda network, x, y, generator: fgsm(network, x, y, threat),
        f"PGD-{steps}": partial(_pgd, threat=threat, steps=steps, step_size=size),
    }
    notes = []
    if tier == "default":
        attacks["APGD-CE"] = partial(_apgd, threat=threat, steps=steps)
        if attributes:
            notes.append("APGD-DLR compares classes and was left out: the labels are attributes.")
        elif classes >= 3:
            attacks["APGD-DLR"] = partial(_apgd, threat=threat, steps=steps, loss=dlr)
        else:
            notes.append(f"APGD-DLR needs three classes and was left out: there are {classes}.")
    attacks = {
        name: run if name == "FGSM" else partial(_restarted, run, restarts)
        for name, run in attacks.items()
    }
    settings = {"steps": steps, "PGD step size": size, "restarts": restarts}
    return Suite(threat, attacks, settings, tuple(notes))


def _pgd(network: nn.Module, x: Tensor, y: Tensor, generator, **options) -> Attacked:
    return pgd(network, x, y, generator=generator, **options)


def _apgd(network: nn.Module, x: Tensor, y: Tensor, generator, **options) -> Attacked:
    return apgd(network, x, y, generator=generator, **options)


def _restarted(
    run: Run, restarts: int, network: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator
) -> Attacked:
    """The attack again from other random starts, on the images with right answers left."""
    found = run(network, x, y, generator)
    for _ in range(restarts - 1):
        left = per_image(~found.fooled).nonzero()[:, 0]
        if not len(left):
            break
        again = run(network, x[left], y[left], generator)
        better = per_image(again.fooled) > per_image(found.fooled[left])
        rows = left[better]
        found.images[rows], found.fooled[rows], found.step[rows] = (
            again.images[better],
            again.fooled[better],
            again.step[better],
        )
    return found


@dataclass
class Robustness:
    """What is known so far of the images of a split under a suite, on the CPU.

    Attributes
    ----------
    labels : (N,), or (N, A) for attributes.
    right : which answers are right unattacked, bool of the shape of the labels.
    steps : attack to the step at which it made a right answer wrong, of the shape of the labels; −1
        where not, or not tried.
    images : for each image the adversarial one with the most wrong answers, the first of those with
        equally many, else the original; None where they are not kept.
    no_gradient : images at which the gradient of the cross-entropy is zero.
    done : how many images have been attacked.
    """

    labels: Tensor
    right: Tensor
    steps: dict[str, Tensor]
    images: Tensor | None
    no_gradient: Tensor
    done: int = 0
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, split: AnySplit, attacks: Suite, keep_images: bool = True) -> "Robustness":
        """Nothing known yet."""
        labels = split.labels.cpu()
        originals = split.batches(1000) if keep_images else ()
        return cls(
            labels=labels,
            right=torch.zeros_like(labels, dtype=torch.bool),
            steps={name: torch.full_like(labels, -1) for name in attacks.attacks},
            images=torch.cat([images.cpu() for images, _ in originals]) if keep_images else None,
            no_gradient=torch.zeros(len(labels), dtype=torch.bool),
        )

    def attacked(self) -> Tensor:
        """Which images had a right answer to attack, of shape (N,)."""
        return per_image(self.right) > 0

    def fooled(self, attack: str) -> Tensor:
        """Which answers are wrong under an attack, or under any (`WORST`), of the labels' shape."""
        if attack == WORST:
            return torch.stack([self.fooled(name) for name in self.steps]).any(dim=0)
        return ~self.right | (self.steps[attack] >= 0)

    def accuracies(self) -> dict[str, float]:
        """Attack to accuracy in [0, 1]; the worst case of every answer last."""
        return {name: (~self.fooled(name)).double().mean().item() for name in (*self.steps, WORST)}

    def clean_accuracy(self) -> float:
        """Accuracy on the same images, unattacked."""
        return self.right.double().mean().item()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, from which `Robustness(**state)` goes on."""
        return dict(vars(self))


def robustness(
    network: nn.Module,
    split: AnySplit,
    attacks: Suite,
    *,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Progress = silent,
    what: str = "attacking",
    known: Robustness | None = None,
    after_batch: Callable[[Robustness], None] = lambda known: None,
    keep_images: bool = True,
) -> Robustness:
    """Attack every image of `split` that the network gets right, with every attack; of an image
    with attributes, one right answer is enough.

    Parameters
    ----------
    seed : of the random starts, which also depend on the place of an image's batch.
    known : what an earlier, interrupted call had found out; it is gone on with.
    after_batch : called with what is known after each batch: the place to keep it.
    keep_images : whether the adversarial images are kept, which takes the memory of all images.
    """
    known = known or Robustness.begin(split, attacks, keep_images)
    view = Folded(network)
    with without_tf32(), progress(len(split), what) as bar:
        bar.initial = bar.n = known.done
        for start in range(known.done, len(split), batch_size):
            part = split.between(start, start + batch_size)
            _attack_batch(view, part, start, attacks, seed, known)
            known.done = start + len(part)
            after_batch(known)
            bar.update(len(part))
    known.warnings = list(_doubts(network, split, known))
    return known


def _attack_batch(
    network: nn.Module, part: AnySplit, start: int, attacks: Suite, seed: int, known: Robustness
) -> None:
    ((images, labels),) = part.batches(len(part))
    with evaluating(network):
        right = are_right(network(images), labels)
    known.right[start : start + len(part)] = right.cpu()
    rows = per_image(right).nonzero()[:, 0]
    places = start + rows.cpu()
    if not len(places):
        return
    images, labels, right = images[rows], labels[rows], right[rows].cpu()
    most = torch.zeros(len(places), dtype=torch.long)  # wrong answers under any attack so far
    for number, (name, run) in enumerate(attacks.attacks.items()):
        found = run(network, images, labels, generator_for(seed, number, start))
        known.steps[name][places] = torch.where(right, found.step.cpu(), -1)
        if name == "FGSM":
            known.no_gradient[places] = found.no_gradient.cpu()
        if known.images is not None:
            wrong = per_image(found.fooled.cpu() & right)
            better = wrong > most
            known.images[places[better]] = found.images.cpu()[better]
            most[better] = wrong[better]


def _doubts(network: nn.Module, split: AnySplit, known: Robustness) -> Iterator[str]:
    """Signs that gradients are masked, so that gradient attacks look weaker than they are
    (Athalye et al., 2018)."""
    right = known.attacked().sum().item()
    hidden = known.no_gradient.sum().item()
    if right and hidden / right > HIDDEN_GRADIENTS:
        yield (
            f"the gradient is zero at {hidden} of {right} images: attacks that follow it cannot "
            "move there, and robust accuracy may be overestimated."
        )
    accuracies = known.accuracies()
    stepwise = next((name for name in known.steps if name.startswith("PGD")), None)
    if stepwise and accuracies["FGSM"] < accuracies[stepwise] - FGSM_MARGIN:
        yield (
            f"one step (FGSM, {accuracies['FGSM']:.2%}) is a stronger attack than many ({stepwise}"
            f", {accuracies[stepwise]:.2%}): a sign of masked gradients."
        )
    images, _ = next(split.between(0, 64).batches(64))
    with evaluating(network):
        if not torch.equal(network(images), network(images)):
            yield (
                "the network answers the same images differently each time: attacks on one answer "
                "say little about the next."
            )


def interval(accuracy: float, n: int) -> tuple[float, float]:
    """Wilson's 95% confidence interval of an accuracy measured on `n` images.

    Of attributes, whose mean over an image varies less than a right or wrong answer would, it is
    wider than need be.
    """
    found = binomtest(round(accuracy * n), n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)
