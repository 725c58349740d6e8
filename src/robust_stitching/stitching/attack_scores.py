"""The networks of a stitching run under attack: each by itself, and by attacks made on another."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching.attacks import Threat, draws_at
from robust_stitching.attacks.pgd import usual_step, worst_images
from robust_stitching.basics.labels import are_right
from robust_stitching.basics.modes import logits_of, without_tf32
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.known import Robustness
from robust_stitching.evaluation.pace import Pace
from robust_stitching.evaluation.robustness import BATCH_SIZE, robustness
from robust_stitching.evaluation.suites import suite, threat_on
from robust_stitching.graphs.folding import view_of
from robust_stitching.plans.parts import REPORTED_TIER
from robust_stitching.stitching.once import NOTHING, Known, content_of

TRANSFER_STEPS = 20
SOURCES = ("front", "end", "stitched")
MOST_KEPT = 2**28
"""Bytes of attacked images, up to which those of a donor are kept for the next stitch."""


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

    def also_of(self, same: Mapping[str, str]) -> "AttackScores":
        """The scores with those of networks that are one of these under a second name.

        Parameters
        ----------
        same : second name to the name that has scores; others are left out.
        """
        known = {name: one for name, one in same.items() if one in self.robust}

        def told(scores: dict[str, Any]) -> dict[str, Any]:
            return scores | {name: scores[one] for name, one in known.items()}

        return replace(
            self,
            clean=told(self.clean),
            robust=told(self.robust),
            transfer={source: told(right) for source, right in self.transfer.items()},
        )


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
    known: Mapping[str, Known] = NOTHING,
    transfers: bool = True,
) -> AttackScores:
    """Attack every network with the suite of a tier, and hand attacks on some to all others.

    Parameters
    ----------
    known : what is known of some of them.
    transfers : see what attacks on some do to the others.
    """
    attacks = suite(tier, threat, len(split.classes), attributes=split.attributes)
    clean, robust, warnings = {}, {}, list(attacks.notes)
    view = cache(lambda name: view_of(networks[name]))
    how = content_of(split), threat, seed

    def attacked(name: str) -> Robustness:
        return robustness(
            networks[name],
            split,
            attacks,
            seed=seed,
            progress=progress,
            what=f"attacking {name}",
            keep_images=False,
            view=view(name),
        )

    def moved(name: str) -> Iterator[Tensor]:
        return _moved(view(name), split, threat, seed, progress, f"transfer from {name}")

    for name in networks:
        own = known.get(name) or Known()
        under_attack = own.once(("robustness", tier, *how), partial(attacked, name))
        clean[name], robust[name] = under_attack.clean_accuracy(), under_attack.accuracies()
        warnings += [f"{name.replace('_', ' ')}: {warning}" for warning in under_attack.warnings]
    with without_tf32():
        transfer = {
            name: _transfer(name, networks, split, how, partial(moved, name), known)
            for name in SOURCES
            if name in networks and transfers
        }
    return AttackScores(
        threat=threat,
        tier=tier,
        n_images=len(split),
        clean=clean,
        robust=robust,
        cumulative=attacks.cumulative,
        transfer=transfer,
        settings={
            **attacks.settings,
            **({"transfer attack": f"PGD-{TRANSFER_STEPS}"} if transfers else {}),
        },
        warnings=tuple(warnings),
    )


def _transfer(
    attacked: str,
    networks: Mapping[str, nn.Module],
    split: AnySplit,
    how: tuple[Hashable, ...],
    moved: Callable[[], Iterator[Tensor]],
    known: Mapping[str, Known],
) -> dict[str, float]:
    """How often each network is right on images made against one of them, batch by batch.

    Parameters
    ----------
    how : what `moved`, which makes the images, depends on besides the network.
    """
    own = known.get(attacked) or Known()
    counted = own.once(("right on its images", *how), dict)
    right = {name: counted.get(known.get(name)) for name in networks}
    asked = [name for name, count in right.items() if count is None]
    right |= dict.fromkeys(asked, 0)
    small = 4 * len(split) * split.channels * split.image_size**2 <= MOST_KEPT
    batches = own.once(("its images", *how), lambda: list(moved())) if small else moved()
    for images, labels in zip(batches, split.labels.split(BATCH_SIZE), strict=True):
        for name in asked:
            right[name] += int(are_right(logits_of(networks[name], images), labels).sum())
    counted |= {known[name]: right[name] for name in asked if name in known}
    return {name: count / split.labels.numel() for name, count in right.items()}


def _moved(
    view: nn.Module, split: AnySplit, threat: Threat, seed: int, progress: Progress, what: str
) -> Iterator[Tensor]:
    """Images attacked through the `view` of a network, batch by batch: the end point of all steps,
    since an attack that stops at the first mistake hardly transfers."""
    start = 0
    with progress(len(split), what) as bar:
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
            yield moved
        pace.batch(0)
