"""Two networks that are to be compared, looked at before: how good each is, and whether they have
their answers in one order."""

from collections.abc import Sequence
from dataclasses import dataclass

from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.checkpoints.class_names import Matching, matched
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.accuracy import BATCH_SIZE, Accuracy, evaluate
from robust_stitching.evaluation.misread import signs


@dataclass(frozen=True)
class Pair:
    """What is known of two networks.

    Attributes
    ----------
    accuracies : None for a network whose classes are not as many as those of the data.
    order : for each answer of the first the number of the same one of the second; None where
        nothing says that they stand in different orders.
    notes : what a reader has to know, in sentences.
    """

    accuracies: tuple[Accuracy | None, Accuracy | None]
    order: tuple[int, ...] | None
    notes: list[str]


def look_at(
    models: tuple[Checkpoint, Checkpoint],
    split: AnySplit,
    batch_size: int = BATCH_SIZE,
    progress: Progress = silent,
) -> Pair:
    """Look at two networks on the images on which they will be compared."""
    accuracies, names, notes = [], [], [*models[0].notes, *models[1].notes]
    for model in models:
        if model.classes != len(split.classes):
            accuracies.append(None)
            names.append(model.class_names)
            continue
        own, told = model.answerable(split)
        accuracy = evaluate(model.network, own, batch_size, progress)
        accuracies.append(accuracy)
        names.append(model.class_names or split.classes)
        notes += told
        if model.shares_classes(split):
            notes += signs(model, own, accuracy.accuracy, accuracy.loss)
    matching = _between(*names)
    if matching and matching.renamed:
        notes.append(
            f"Models 1 and 2 call their classes by other names: where their answers are compared, "
            f"{matching} was taken."
        )
    order = matching.order if matching else None
    return Pair(tuple(accuracies), order, list(dict.fromkeys(notes)))


def _between(first: Sequence[str] | None, second: Sequence[str] | None) -> Matching | None:
    if first is None or second is None or len(first) != len(second):
        return None
    return matched(first, second)
