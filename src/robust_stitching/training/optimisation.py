"""How a network is optimised: the optimiser, its learning rate over time, its precision."""

import math

import torch
from torch import nn

from robust_stitching.data import AnySplit
from robust_stitching.plans import Optimisation


def iterations_on(data: AnySplit, config: Optimisation) -> int:
    """How many steps a whole training takes."""
    return config.epochs * data.batches_per_epoch(config.batch_size)


def precision_on(device: torch.device, precision: str) -> str:
    """What "auto" means on a device: "bfloat16" on a GPU that has it, else "float32"."""
    if precision != "auto":
        return precision
    capable = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bfloat16" if capable else "float32"


def learning_rate(config: Optimisation, iteration: int, iterations: int) -> float:
    """The rate of one step: linear warm-up, and the schedule, which is of all steps. "steps":
    divided by 10 at 1/3 and again at 2/3; "cosine": (1 + cos πt)/2 of it at the share t."""
    warmup = min(config.warmup, iterations // 5)
    rise = min(1.0, (iteration + 1) / warmup) if warmup else 1.0
    if config.schedule == "cosine":
        return config.lr * rise * (1 + math.cos(math.pi * iteration / iterations)) / 2
    return config.lr * rise * 0.1 ** (3 * iteration // iterations)


def optimizer_for(
    parameters: list[nn.Parameter], config: Optimisation, weight_decay: float | None = None
) -> torch.optim.Optimizer:
    """The optimiser of a training that begins, with the weight decay of the config or another."""
    decay = config.weight_decay if weight_decay is None else weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, weight_decay=decay)
    return torch.optim.SGD(
        parameters, lr=config.lr, momentum=0.9, nesterov=True, weight_decay=decay
    )
