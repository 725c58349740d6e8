"""The networks of a stitching run under attack: each by itself, and by attacks made on another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from robust_stitching.attacks import Threat
from robust_stitching.attacks.pgd import worst_images
from robust_stitching.data import AnySplit
from robust_stitching.data.split import generator_for
from robust_stitching.evaluation.robustness import robustness, suite
from robust_stitching.folding import Folded
from robust_stitching.labels import are_right
from robust_stitching.modes import evaluating, without_tf32
from robust_stitching.progress import Progress, silent

TRANSFER_STEPS = 20
SOURCES = ("front", "end", "stitched")
BATCH_SIZE = 250


@dataclass(frozen=True)
class AttackScores:
    """Accuracies under attack on the same images, in [0, 1].

    Attributes
    ----------
    clean : network to accuracy without an attack.
    robust : network to attack to accuracy, attacked in its own right; the worst case last.
    transfer : network that was attacked to network that answers to accuracy, PGD with
        `TRANSFER_STEPS` full steps.
    settings : of the attacks.
    warnings : signs of masked gradients.
    """

    threat: Threat
    n_images: int
    clean: dict[str, float]
    robust: dict[str, dict[str, float]]
    transfer: dict[str, dict[str, float]]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...]


def measure_attacks(
    networks: Mapping[str, nn.Module],
    split: AnySplit,
    threat: Threat,
    seed: int,
    progress: Progress = silent,
) -> AttackScores:
    """Attack every network with the default suite, and hand attacks on some to all others."""
    attacks = suite("default", threat, len(split.classes), attributes=split.attributes)
    clean, robust, warnings = {}, {}, list(attacks.notes)
    for name, network in networks.items():
        found = robustness(
            network,
            split,
            attacks,
            seed=seed,
            progress=progress,
            what=f"attacking {name}",
            keep_images=False,
        )
        clean[name], robust[name] = found.clean_accuracy(), found.accuracies()
        warnings += [f"{name}: {warning}" for warning in found.warnings]
    sources = {name: networks[name] for name in SOURCES if name in networks}
    with without_tf32():
        transfer = {
            name: _transfer(source, networks, split, threat, seed)
            for name, source in sources.items()
        }
    return AttackScores(
        threat=threat,
        n_images=len(split),
        clean=clean,
        robust=robust,
        transfer=transfer,
        settings={**attacks.settings, "transfer attack": f"PGD-{TRANSFER_STEPS}"},
        warnings=tuple(warnings),
    )


def _transfer(
    source: nn.Module, networks: Mapping[str, nn.Module], split: AnySplit, threat: Threat, seed: int
) -> dict[str, float]:
    """How often each network is right on images made against `source`: the end point of all steps,
    since an attack that stops at the first mistake hardly transfers."""
    right = dict.fromkeys(networks, 0)
    source = Folded(source)
    generator = generator_for(seed, "transfer")
    for images, labels in split.batches(BATCH_SIZE):
        attacked = worst_images(
            source,
            images,
            labels,
            threat,
            start=threat.uniform_start(images, generator),
            steps=TRANSFER_STEPS,
            step_size=2.5 * threat.epsilon / TRANSFER_STEPS,
        )
        for name, network in networks.items():
            with evaluating(network):
                right[name] += int(are_right(network(attacked), labels).sum())
    return {name: count / split.labels.numel() for name, count in right.items()}
