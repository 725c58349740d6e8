"""The networks of a stitching run under attack: each by itself, and by attacks made on another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robust_stitching.attacks import Threat, draws_at
from robust_stitching.attacks.pgd import usual_step, worst_images
from robust_stitching.basics.labels import are_right
from robust_stitching.basics.modes import logits_of, without_tf32
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.pace import Pace
from robust_stitching.evaluation.robustness import BATCH_SIZE, robustness
from robust_stitching.evaluation.suites import suite, threat_on
from robust_stitching.graphs.folding import view_of
from robust_stitching.plans.parts import REPORTED_TIER

TRANSFER_STEPS = 20
SOURCES = ("front", "end", "stitched")


@dataclass(frozen=True)
class AttackScores:
    """Accuracies under attack on the same images, in [0, 1].

    Attributes
    ----------
    tier : which attacks were run (see `suites.suite`).
    clean : network to accuracy without an attack.
    robust : network to attack to accuracy, attacked in its own right; the worst case last.
    cumulative : the attacks run on what those before them left; under them accuracy is what is left
        after all up to them.
    transfer : network that was attacked to network that answers to accuracy, PGD with
        `TRANSFER_STEPS` full steps.
    settings : of the attacks.
    warnings : what was left out, and signs of masked gradients.
    """

    threat: Threat
    tier: str
    n_images: int
    clean: dict[str, float]
    robust: dict[str, dict[str, float]]
    cumulative: tuple[str, ...]
    transfer: dict[str, dict[str, float]]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...]


def check_attacks(tier: str, epsilon: float | None, split: AnySplit) -> None:
    """Raise UserError, before any work is done, where `measure_attacks` would."""
    suite(tier, threat_on(split, epsilon), len(split.classes), attributes=split.attributes)


def measure_attacks(
    networks: Mapping[str, nn.Module],
    split: AnySplit,
    threat: Threat,
    seed: int,
    progress: Progress = silent,
    tier: str = REPORTED_TIER,
) -> AttackScores:
    """Attack every network with the suite of a tier, and hand attacks on some to all others."""
    attacks = suite(tier, threat, len(split.classes), attributes=split.attributes)
    clean, robust, warnings = {}, {}, list(attacks.notes)
    views = {name: view_of(network) for name, network in networks.items()}
    for name, network in networks.items():
        found = robustness(
            network,
            split,
            attacks,
            seed=seed,
            progress=progress,
            what=f"attacking {name}",
            keep_images=False,
            view=views[name],
        )
        clean[name], robust[name] = found.clean_accuracy(), found.accuracies()
        warnings += [f"{name}: {warning}" for warning in found.warnings]
    with without_tf32():
        transfer = {
            name: _transfer(name, views[name], networks, split, threat, seed, progress)
            for name in SOURCES
            if name in networks
        }
    return AttackScores(
        threat=threat,
        tier=tier,
        n_images=len(split),
        clean=clean,
        robust=robust,
        cumulative=attacks.cumulative,
        transfer=transfer,
        settings={**attacks.settings, "transfer attack": f"PGD-{TRANSFER_STEPS}"},
        warnings=tuple(warnings),
    )


def _transfer(
    attacked: str,
    view: nn.Module,
    networks: Mapping[str, nn.Module],
    split: AnySplit,
    threat: Threat,
    seed: int,
    progress: Progress,
) -> dict[str, float]:
    """How often each network is right on images made against the `view` of one of them: the end
    point of all steps, since an attack that stops at the first mistake hardly transfers."""
    right, start = dict.fromkeys(networks, 0), 0
    with progress(len(split), f"transfer from {attacked}") as bar:
        pace = Pace(bar, TRANSFER_STEPS)
        for images, labels in split.batches(BATCH_SIZE):
            pace.batch(len(images))
            pace.part("", TRANSFER_STEPS)
            places = torch.arange(start, start + len(images))
            start += len(images)
            with pace.watching(view):
                moved = worst_images(
                    view,
                    images,
                    labels,
                    threat,
                    start=threat.uniform_start(images, draws_at(places, seed, "transfer")),
                    steps=TRANSFER_STEPS,
                    step_size=usual_step(threat.epsilon, TRANSFER_STEPS),
                )
            for name, network in networks.items():
                right[name] += int(are_right(logits_of(network, moved), labels).sum())
        pace.batch(0)
    return {name: count / split.labels.numel() for name, count in right.items()}
