"""The donors of a stitch and its data, brought to one order of classes, and looked at before any
work is done with them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from robust_stitching import models
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit
from robust_stitching.evaluation import accuracy_of
from robust_stitching.evaluation.misread import signs


@dataclass(frozen=True)
class Donors:
    """Two networks that answer alike.

    Attributes
    ----------
    front, end : the networks; the front's answers are in the order of the end's, where both tell
        equally many classes apart.
    splits : those that were given, with their classes in that order.
    class_names : of the answers, in that order.
    notes : what was guessed, in sentences.
    """

    front: nn.Module
    end: nn.Module
    splits: tuple[AnySplit | None, ...]
    class_names: tuple[str, ...]
    notes: list[str]


def in_one_order(front: Checkpoint, end: Checkpoint, *splits: AnySplit | None) -> Donors:
    """Bring the front's answers, and the classes of splits, to the order of the end's answers.

    Raises
    ------
    UserError : unless the end answers in the classes of each split, and both take its images.
    """
    notes = [*front.notes, *end.notes]
    ordered = []
    for split in splits:
        ours, told = end.answerable(split) if split else (None, [])
        ordered.append(ours)
        notes += told
    network, reference = front.network, splits[0]
    if front.classes == end.classes:
        notes += front.answerable(reference)[1]
        theirs = front.matching(reference).order
        order = [theirs.index(number) for number in end.matching(reference).order]
        if order != sorted(order):
            network = models.answering(network, order)
    return Donors(
        front=network,
        end=end.network,
        splits=tuple(ordered),
        class_names=end.class_names or ordered[0].classes,
        notes=list(dict.fromkeys(notes)),
    )


def doubts_about(
    front: Checkpoint, end: Checkpoint, test: AnySplit, logits: Mapping[str, Tensor]
) -> list[str]:
    """What is strange about the accuracies of the donors by their logits on `test`, which has its
    classes in the same order. A front that was made for other classes has none."""
    told = []
    for name, checkpoint in (("front", front), ("end", end)):
        asked = checkpoint.classes == end.classes and checkpoint.shares_classes(test)
        if asked or checkpoint is end:
            accuracy = accuracy_of(logits[name], test.labels)
            told += signs(checkpoint, test, accuracy.accuracy, accuracy.loss, logits[name])
    return told
