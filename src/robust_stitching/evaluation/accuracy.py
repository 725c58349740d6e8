"""Loss and accuracy of a network on a split."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching.data import Split
from robust_stitching.modes import evaluating
from robust_stitching.progress import Progress, silent

BATCH_SIZE = 500


@dataclass(frozen=True)
class Accuracy:
    """Mean cross-entropy and share of right answers, in [0, 1], over `n_images`."""

    loss: float
    accuracy: float
    n_images: int


def predict(
    network: nn.Module,
    split: Split,
    batch_size: int = BATCH_SIZE,
    progress: Progress = silent,
    what: str = "evaluating",
) -> Tensor:
    """The logits for a whole split, float32 of shape (N, classes)."""
    logits = []
    with evaluating(network), progress(len(split), what) as bar:
        for images, labels in split.batches(batch_size):
            logits.append(network(images).float())
            bar.update(len(labels))
    return torch.cat(logits)


def accuracy_of(logits: Tensor, labels: Tensor) -> Accuracy:
    """Loss and accuracy of logits (N, classes) against labels (N,), summed in float64."""
    loss = F.cross_entropy(logits.double(), labels)
    right = (logits.argmax(dim=1) == labels).double().mean()
    return Accuracy(loss.item(), right.item(), len(labels))


def evaluate(
    network: nn.Module, split: Split, batch_size: int = BATCH_SIZE, progress: Progress = silent
) -> Accuracy:
    """Loss and accuracy of `network` on `split`, in evaluation mode."""
    return accuracy_of(predict(network, split, batch_size, progress), split.labels)
