"""The coordinates in which the inputs of a map are white, see `training.whitened`."""

import torch
from torch import Tensor

from robust_stitching.similarity import Moments

FLOOR = 1e-2
"""Directions with less than this share of the largest variance are taken to have that much: what is
dead, or nearly so, does not become noise as large as the rest. With a tenth of it, the last layers
of a network, whose variance lies in few directions, learned more of that noise."""


def whitening(moments: Moments, floor: float = FLOOR) -> Tensor:
    """The matrix M (C + 1, C + 1), float64, with [W b] = [V c] M for activations x (N, C) of these
    moments: P in its upper left, −P m beside it, (0, 1) below.

    m is the mean and P the symmetric inverse square root of the covariance, in which channels that
    are constant but for rounding do not vary; where all are, nothing is scaled.

    Parameters
    ----------
    floor : see `FLOOR`.
    """
    alive = moments.alive()[0]
    covariance = torch.where(alive[:, None] & alive, moments.xx / moments.n, 0.0)
    variances, directions = torch.linalg.eigh(covariance)
    least = floor * variances[-1] if alive.any() else 1.0
    root = (directions * variances.clamp(min=least).rsqrt()) @ directions.T
    matrix = torch.eye(len(root) + 1).to(root)
    matrix[:-1, :-1], matrix[:-1, -1] = root, -root @ moments.mean_x
    return matrix
