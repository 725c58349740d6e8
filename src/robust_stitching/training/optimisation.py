"""How a network is optimised: settings, the optimiser, and its learning rate over time."""

from dataclasses import dataclass

import torch
from torch import nn

from robust_stitching.data import AnySplit


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes
    ----------
    lr : of the first third of the training; a tenth of it in the second, a hundredth in the last.
    weight_decay : L2 penalty, added to the gradient.
    optimizer : "sgd" (Nesterov momentum 0.9) or "adam".
    warmup : iterations over which the learning rate rises linearly from 0; never more than a fifth
        of the training; 0 turns it off.
    clip : largest norm of the gradient of all parameters together; 0 turns clipping off.
    seed : of order and augmentation.
    precision : "float32", or "bfloat16" for autocast.
    """

    epochs: int
    lr: float
    batch_size: int = 128
    weight_decay: float = 1e-4
    optimizer: str = "sgd"
    warmup: int = 0
    clip: float = 0.0
    seed: int = 0
    precision: str = "float32"

    def iterations_on(self, data: AnySplit) -> int:
        """How many steps the whole training takes."""
        return self.epochs * data.batches_per_epoch(self.batch_size)


def learning_rate(config: TrainingConfig, iteration: int, iterations: int) -> float:
    """The rate of one step: linear warm-up, then divided by 10 at 1/3 and again at 2/3 of all."""
    warmup = min(config.warmup, iterations // 5)
    rise = min(1.0, (iteration + 1) / warmup) if warmup else 1.0
    return config.lr * rise * 0.1 ** (3 * iteration // iterations)


def optimizer_for(parameters: list[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=0.9,
        nesterov=True,
        weight_decay=config.weight_decay,
    )
