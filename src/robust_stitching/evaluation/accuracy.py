"""Loss and accuracy of a network on a split."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust_stitching.basics.labels import are_attributes, are_right, loss_of
from robust_stitching.basics.modes import evaluating
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit

BATCH_SIZE = 250
"""Answers depend on it in their last digits: all that looks at a network takes the same."""


@dataclass(frozen=True)
class Accuracy:
    """Mean loss (see `labels.loss_of`) and share of right answers, in [0, 1], over `n_images`.

    `per_attribute` is that share for each attribute; None where labels are classes.
    """

    loss: float
    accuracy: float
    n_images: int
    per_attribute: tuple[float, ...] | None = None


def predict(
    network: nn.Module,
    split: AnySplit,
    batch_size: int = BATCH_SIZE,
    progress: Progress = silent,
    what: str = "evaluating",
) -> Tensor:
    """The logits for a whole split, float32 of shape (N, classes)."""
    return predict_all([network], split, batch_size, progress, what)[0]


def predict_all(
    networks: Sequence[nn.Module],
    split: AnySplit,
    batch_size: int = BATCH_SIZE,
    progress: Progress = silent,
    what: str = "evaluating",
) -> list[Tensor]:
    """The same of several networks in one pass, each of which sees the very same batches."""
    logits: list[list[Tensor]] = [[] for _ in networks]
    with evaluating(*networks), progress(len(split), what) as bar:
        for images, labels in split.batches(batch_size):
            for network, own in zip(networks, logits, strict=True):
                own.append(network(images).float())
            bar.update(len(labels))
    return [torch.cat(own) for own in logits]


def accuracy_of(logits: Tensor, labels: Tensor) -> Accuracy:
    """Loss and accuracy of logits (N, classes) against labels (N,), or both (N, A), summed in
    float64."""
    loss, right = loss_of(logits.double(), labels), are_right(logits, labels).double()
    per_attribute = tuple(right.mean(dim=0).tolist()) if are_attributes(labels) else None
    return Accuracy(loss.item(), right.mean().item(), len(labels), per_attribute)


def evaluate(
    network: nn.Module, split: AnySplit, batch_size: int = BATCH_SIZE, progress: Progress = silent
) -> Accuracy:
    """Loss and accuracy of `network` on `split`, in evaluation mode."""
    return accuracy_of(predict(network, split, batch_size, progress), split.labels)
