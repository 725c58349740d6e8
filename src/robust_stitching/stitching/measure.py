"""What a run measures on one dataset: answers and similarities, and accuracy under attack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.accuracy import accuracy_of, predict_all
from robust_stitching.evaluation.suites import threat_on
from robust_stitching.plans import Measurement
from robust_stitching.stitching.attack_scores import AttackScores, measure_attacks
from robust_stitching.stitching.noise_front import NoiseScore
from robust_stitching.stitching.once import NOTHING, Known
from robust_stitching.stitching.ood import Typical
from robust_stitching.stitching.scores import END, FRONT, Scores, measure

UNATTACKED = ("direct_matching_recalibrated",)
"""Networks that stand beside another one for their accuracy and similarity alone."""


@dataclass(frozen=True)
class Measured:
    """Scores on one dataset.

    Attributes
    ----------
    data, source : the dataset's name, and what `data.load` finds it by.
    n_images : how many were looked at.
    scores : network to its scores.
    attacks : robust and transfer accuracies; None where nothing was attacked.
    random_fronts : accuracies of the end stitched to fronts that never learned anything.
    noise_front : accuracies of the end stitched to noise around class means.
    """

    data: str
    source: str
    n_images: int
    scores: dict[str, Scores]
    attacks: AttackScores | None
    random_fronts: tuple[float, ...] = ()
    noise_front: tuple[NoiseScore, ...] = ()

    @property
    def cka(self) -> float | None:
        """Between front and end at the cut, see `Scores`."""
        return self.scores["front"].cka_to_end

    @property
    def debiased_cka(self) -> float | None:
        """Between front and end at the cut, see `Scores`."""
        return self.scores["front"].debiased_cka_to_end

    @property
    def l2(self) -> float | None:
        """Between front and end at the cut, see `Scores`."""
        return self.scores["front"].l2_to_end


def measure_on(
    split: AnySplit,
    networks: Mapping[str, tuple[nn.Module, str]],
    *,
    fronts: Sequence[nn.Module] = (),
    plan: Measurement,
    seed: int,
    progress: Progress = silent,
    known: Mapping[str, Known] = NOTHING,
    typical: Typical | str | None = None,
    noise_front: Sequence[NoiseScore] = (),
) -> Measured:
    """Measure networks, each with the layer that is compared, on a split.

    Parameters
    ----------
    fronts : stitched networks with random fronts, of which only the accuracy is measured.
    plan : what is measured.
    seed : of the choice of images that are attacked, and of the attacks.
    known : what is known of some of the networks: of donors, which are measured once.
    typical : what the end makes of training images at the cut, see `ood.typical_at`.
    noise_front : what was measured of noise around class means.
    """
    once, same = _each_once(networks)
    compared = not plan.no_pinv
    scores = measure(once, split, compared, progress, known, plan.similarity_images, seed, typical)
    attacks = None
    if not plan.no_robustness:
        answering = {
            name: network
            for name, (network, _) in once.items()
            if scores[name].accuracy is not None and name not in UNATTACKED
        }
        few = split.sample(plan.robust_images, seed)
        threat = threat_on(split, plan.eval_epsilon)
        attacks = measure_attacks(answering, few, threat, seed, progress, plan.tier, known)
        attacks = attacks.also_of(same)
    scores = {name: scores[same.get(name, name)] for name in networks}
    what = f"evaluating {len(fronts)} random fronts"
    random = predict_all(fronts, split, progress=progress, what=what) if fronts else []
    return Measured(
        split.name,
        split.source,
        len(split),
        scores,
        attacks,
        tuple(accuracy_of(own, split.labels).accuracy for own in random),
        tuple(noise_front),
    )


def _each_once(
    networks: Mapping[str, tuple[nn.Module, str]],
) -> tuple[dict[str, tuple[nn.Module, str]], dict[str, str]]:
    """The networks without those that are another one under a second name, as direct matching is
    the map before training where that began there; and the names of these, with that other one."""
    first = {cut: name for name, cut in reversed(networks.items())}
    same = {
        name: first[cut]
        for name, cut in networks.items()
        if first[cut] != name and name not in (FRONT, END)
    }
    return {name: cut for name, cut in networks.items() if name not in same}, same
