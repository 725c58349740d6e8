"""What training minimises. An objective is a function of the network and one batch."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``objective(network, images, labels)`` returns the loss (a scalar) and the logits (N, classes)
from which the training accuracy is read."""


def standard(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy with the labels."""
    logits = network(images)
    return F.cross_entropy(logits, labels), logits
