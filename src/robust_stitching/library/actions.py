"""What is asked of networks: how right and how robust they are, and how alike."""

from collections.abc import Sequence
from typing import Any

from robust_stitching import similarity
from robust_stitching.basics.modes import usual_settings
from robust_stitching.data import AnySplit
from robust_stitching.evaluation import Accuracy
from robust_stitching.evaluation import evaluate as measure
from robust_stitching.evaluation.known import Robustness
from robust_stitching.evaluation.misread import signs
from robust_stitching.evaluation.pair import look_at
from robust_stitching.evaluation.robustness import robustness
from robust_stitching.evaluation.suites import suite, threat_on
from robust_stitching.library.given import IN_MEMORY, AnyNetwork, bar, doubt, looked_up
from robust_stitching.plans import AttackPlan, EvaluatePlan
from robust_stitching.similarity import Comparison


@usual_settings()
def evaluate(
    network: AnyNetwork, images: str | AnySplit, *, batch_size: int = 250, progress: bool = False
) -> Accuracy:
    """Loss and accuracy of a network.

    Parameters
    ----------
    images : a dataset by its name or folder, of which the test images are taken, or a split; its
        classes are matched to the network's answers by name.
    progress : show bars with rates and times, on a terminal.

    Raises
    ------
    UserError : see `Checkpoint.answerable`.
    """
    EvaluatePlan(checkpoint=IN_MEMORY, batch_size=batch_size)  # which checks what was said
    (checkpoint,), split = looked_up(images, [network])
    split, notes = checkpoint.answerable(split)
    accuracy = measure(checkpoint.network, split, batch_size, bar(progress))
    doubt(*notes, *signs(checkpoint, split, accuracy.accuracy, accuracy.loss))
    return accuracy


@usual_settings()
def attack(
    network: AnyNetwork,
    images: str | AnySplit,
    *,
    tier: str = "default",
    norm: str = "linf",
    epsilon: float | None = None,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 250,
    progress: bool = False,
) -> Robustness:
    """Attack every image that a network gets right; `accuracies()` of what is returned are those
    that are left, by attack and in the worst case.

    Parameters
    ----------
    images, progress : as those of `evaluate`.
    tier : "quick", "gradient", "default" or "standard", see `suites.suite`.
    epsilon : the radius, in pixel space; the usual one of the dataset and the norm if left out.
    steps, step_size, restarts : of the attacks, see `suites.suite`.

    Raises
    ------
    UserError : see `Checkpoint.answerable` and `suites.suite`.
    """
    asked = {"tier": tier, "norm": norm, "epsilon": epsilon, "steps": steps, "restarts": restarts}
    asked |= {"step_size": step_size, "seed": seed, "batch_size": batch_size}
    AttackPlan(checkpoint=IN_MEMORY, **asked)  # which checks what was said
    (checkpoint,), split = looked_up(images, [network])
    split, notes = checkpoint.answerable(split)
    attacks = suite(
        tier,
        threat_on(split, epsilon, norm),
        len(split.classes),
        steps=steps,
        step_size=step_size,
        restarts=restarts,
        attributes=split.attributes,
    )
    settings = {"seed": seed, "batch_size": batch_size, "progress": bar(progress)}
    known = robustness(checkpoint.network, split, attacks, **settings)
    doubt(*notes, *known.warnings, *signs(checkpoint, split, known.clean_accuracy()))
    return known


@usual_settings()
def compare(
    network1: AnyNetwork,
    network2: AnyNetwork,
    images: str | AnySplit,
    *,
    layers1: Sequence[str] | None = None,
    layers2: Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    progress: bool = False,
    **settings: Any,
) -> Comparison:
    """Compare the layers of two networks, all with all, and their answers.

    Parameters
    ----------
    images, progress : as those of `evaluate`.
    layers1, layers2 : the clean cuts if left out.
    measures : their names, or "all"; the usual ones if left out.
    settings : `batch_size`, `k`, `positions`, `seed`, `null` and `interval`, as those of
        `similarity.compare`.

    Raises
    ------
    UserError : see `similarity.compare`.
    """
    (first, second), split = looked_up(images, [network1, network2])
    first.require_images(split)
    second.require_images(split)
    pair = look_at((first, second), split, progress=bar(progress))
    doubt(*pair.notes)
    return similarity.compare(
        *(first.network, second.network, split, layers1, layers2, measures),
        order=pair.order,
        progress=bar(progress),
        **settings,
    )
