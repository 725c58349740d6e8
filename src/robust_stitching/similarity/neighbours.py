"""Do two representations find the same images alike? Mutual k-nearest neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor

K = 10
BLOCK = 1000
PRECISION = 2.0**40
"""Cosines closer than 1/PRECISION are a tie: copies of an image are, but for rounding."""


def nearest(rows: Tensor, k: int = K) -> Tensor:
    """Which k images are nearest to each, by cosine similarity, the image itself left out.

    Of images equally near, those that come first are taken. A row of zeros is equally far from all.

    Parameters
    ----------
    rows : of shape (n, p), n > k.

    Returns
    -------
    int64 Tensor of shape (n, k), every row in ascending order.
    """
    n = len(rows)
    if not 0 < k < n:
        raise ValueError(f"each of {n} images has {n - 1} neighbours, not {k}")
    rows = F.normalize(rows.double(), dim=1)
    found = []
    for start in range(0, n, BLOCK):
        alike = (rows[start : start + BLOCK] @ rows.T).mul_(PRECISION).round_()
        alike.diagonal(offset=start).fill_(-torch.inf)
        last = alike.topk(k, dim=1).values[:, -1:]
        nearer, tied = alike > last, alike == last
        room = k - nearer.sum(dim=1, keepdim=True)
        chosen = nearer | (tied & (tied.cumsum(dim=1) <= room))
        found.append(chosen.nonzero()[:, 1].view(-1, k))
    return torch.cat(found)


def mutual_neighbours(nearest_x: Tensor, nearest_y: Tensor) -> float:
    """The mean share of its k nearest neighbours that an image has in both representations (Huh et
    al., 2024, appendix A, without their clipping of outliers), in [0, 1].

    Unrelated representations share k/(n − 1) on average.

    Parameters
    ----------
    nearest_x, nearest_y : of `nearest`, of shape (n, k).
    """
    shared = (nearest_x[:, :, None] == nearest_y[:, None, :]).sum()
    return float(shared) / nearest_x.numel()
