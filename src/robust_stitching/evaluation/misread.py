"""Signs that a network does not answer as it should: that its constants, its classes or its weights
are others than those that it was made with."""

import csv
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from robust_stitching.basics.files import slug
from robust_stitching.basics.modes import logits_of
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import SOURCES, AnySplit
from robust_stitching.evaluation.intervals import wilson

LOG = "training_log.csv"
ABOVE_CHANCE = 0.05
"""Of what can be gained over chance, a network that has learned its task gains at least as much."""

LEAST_IMAGES = 20
"""Fewer tell nothing."""

LOOKED_AT = 64
"""Images whose answers tell whether they are probabilities."""

ROUNDING = 1e-3

FAR = 0.05
"""By so much an accuracy, its 95% interval taken off, may lie below what is promised."""


def signs(
    checkpoint: Checkpoint,
    split: AnySplit,
    accuracy: float,
    loss: float = 0.0,
    logits: Tensor | None = None,
) -> list[str]:
    """What is strange about the accuracy of a network on `split`, in sentences: one near chance, or
    far below what its training promises for the same data, a loss that is no number, answers that
    are probabilities. A stitched network may well be near chance.

    Parameters
    ----------
    split : with the network's classes, see `Checkpoint.answerable`.
    logits : its answers on the split, where somebody has them; else it is asked for a few.
    """
    told = []
    if not math.isfinite(loss):
        told.append(
            f"{checkpoint.called} answers with numbers that are not finite on {split.name}."
        )
    answers = _few(checkpoint.network, split) if logits is None else logits
    if _are_probabilities(answers, split.attributes):
        told.append(
            f"{checkpoint.called} answers with probabilities, which are taken for logits: its loss "
            "says little, and attacks on it may be weak; have it return what its softmax or "
            "its sigmoid is given."
        )
    if len(split) < LEAST_IMAGES:
        return told
    chance, promise = chance_of(split), promised(checkpoint, split)
    near = accuracy < chance + ABOVE_CHANCE * (1 - chance)
    below = promise is not None and wilson(accuracy, len(split))[1] + FAR < promise
    expected = checkpoint.stitched and promise is not None and not below
    if below or (near and not expected):
        signs = [f"near chance ({chance:.2%} by always giving the most frequent answer)"] * near
        signs += [f"far below the {promise or 0:.2%} that its training ended with"] * below
        told.append(
            f"{checkpoint.called} is right on {accuracy:.2%} of {len(split):,} images of "
            f"{split.name}, {' and '.join(signs)}: are mean and std, classes and weights those "
            "that it was made with?"
        )
    return told


def _few(network: nn.Module, split: AnySplit) -> Tensor:
    """What a network answers to some images."""
    few = split.sample(LOOKED_AT, 0)
    ((images, _),) = few.batches(len(few))
    return logits_of(network, images)


def _are_probabilities(answers: Tensor, attributes: bool) -> bool:
    """Whether answers come from a softmax or, where images have one class, from sigmoids: they are
    in [0, 1], with a sum of 1 or not all the same."""
    least, most = answers.min(), answers.max()
    if not (least >= 0 and most <= 1 + ROUNDING):
        return False
    sums = answers.sum(dim=1)
    softmax = torch.allclose(sums, torch.ones_like(sums), atol=ROUNDING)
    return softmax or (not attributes and bool(least < most))


def chance_of(split: AnySplit) -> float:
    """The accuracy of giving the most frequent answer always, of each attribute or of the class;
    at least that of guessing."""
    if split.attributes:
        share = split.labels.double().mean(dim=0)
        return torch.maximum(share, 1 - share).mean().item()
    most = split.labels.bincount().max().item() / len(split)
    return max(most, 1 / len(split.classes))


def promised(checkpoint: Checkpoint, split: AnySplit) -> float | None:
    """The test accuracy with which a network's training ended, where that was on the same dataset
    and is known: from its file, else from the training log beside it."""
    dataset = checkpoint.dataset or ""
    name = SOURCES[dataset].name if dataset in SOURCES else slug(Path(dataset).name)
    if name != split.name:
        return None
    told = checkpoint.training.get("test_accuracy")
    return told if isinstance(told, float) else _logged(checkpoint.path)


def _logged(path: Path | None) -> float | None:
    """The accuracy in the last line of a training log; of an intermediate snapshot, which is called
    by its iteration, in the last line before that."""
    if path is None:
        return None
    try:
        with path.with_name(LOG).open(newline="") as file:
            rows = list(csv.DictReader(file))
        if path.stem.isdecimal():
            rows = [row for row in rows if int(row["iteration"]) <= int(path.stem)]
        accuracy = float(rows[-1]["test_accuracy"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, csv.Error):
        return None  # no log, or somebody else's
    return accuracy if 0 <= accuracy <= 1 else None
