"""How activations lie: channels and positions, and how one layout is brought to another."""

import math

import torch.nn.functional as F
from torch import Tensor


def channels(shape: tuple[int, ...]) -> int:
    """How many channels an activation of this shape has: the first of a map, else the last."""
    return shape[0] if len(shape) == 3 else shape[-1]


def positions(shape: tuple[int, ...]) -> tuple[int, int]:
    """Its grid of positions, (height, width); a vector has one.

    Tokens count as a square grid where their number is a square, else as one row.
    """
    if len(shape) == 3:
        return shape[1], shape[2]
    if len(shape) == 1:
        return 1, 1
    side = math.isqrt(shape[0])
    return (side, side) if side * side == shape[0] else (1, shape[0])


def resize(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Activations (N, …) laid out at the positions of `shape`, with their own channels.

    Averaged over areas where the grid shrinks, bilinear where it grows.
    """
    own, target = positions(x.shape[1:]), positions(shape)
    if own == target and x.ndim == len(shape) + 1:
        return x
    grid = x.transpose(1, 2) if x.ndim == 3 else x
    grid = grid.reshape(len(x), grid.shape[1], *own)
    if target[0] <= own[0] and target[1] <= own[1]:
        grid = F.adaptive_avg_pool2d(grid, target)
    else:
        grid = F.interpolate(grid, target, mode="bilinear", align_corners=False)
    if len(shape) == 3:
        return grid
    return grid.flatten(2).transpose(1, 2) if len(shape) == 2 else grid.flatten(1)


def rows(x: Tensor) -> Tensor:
    """Activations (N, …) as one row of channels a position: (N·positions, C)."""
    return x.movedim(1, -1).flatten(0, -2) if x.ndim == 4 else x.flatten(0, -2)
