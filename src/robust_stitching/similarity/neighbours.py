"""Do two representations find the same images alike? Mutual k-nearest neighbours."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

K = 10
BLOCK = 1000
PRECISION = 2.0**40
"""Cosines closer than 1/PRECISION are a tie: copies of an image are, but for rounding."""


@dataclass(frozen=True)
class Neighbours:
    """The k nearest neighbours of each of n images, itself left out.

    Where more images are equally near than there is room for, each of them is taken with the same
    probability, so that what two representations share owes nothing to the order of the images.

    Attributes
    ----------
    shares : how surely image j is a neighbour of i, sparse of shape (n, n); rows add up to k, those
        of `undirected` images are empty.
    undirected : the images that point nowhere, as a row of zeros does: all others are equally near.
    k : how many neighbours.
    """

    shares: "csr_matrix"
    undirected: np.ndarray
    k: int


def nearest(rows: Tensor, k: int = K) -> Neighbours:
    """The k nearest neighbours of each image by cosine similarity.

    Parameters
    ----------
    rows : of shape (n, p), n > k.
    """
    from scipy.sparse import csr_matrix  # a stitch, which never gets here, goes without scipy

    n = len(rows)
    if not 0 < k < n:
        raise ValueError(f"each of {n} images has {n - 1} neighbours, not {k}")
    undirected = (rows == 0).all(dim=1)
    rows = F.normalize(rows.double(), dim=1)
    places, shares = [], []
    for start in range(0, n, BLOCK):
        alike = (rows[start : start + BLOCK] @ rows.T).mul_(PRECISION).round_()
        alike.diagonal(offset=start).fill_(-torch.inf)
        last = alike.topk(k, dim=1).values[:, -1:]
        nearer, tied = alike > last, alike == last
        room = k - nearer.sum(dim=1, keepdim=True)
        share = nearer.double() + tied * (room / tied.sum(dim=1, keepdim=True))
        share[undirected[start : start + BLOCK]] = 0
        found = share.nonzero()
        shares.append(share[found[:, 0], found[:, 1]].cpu())
        places.append((found + torch.tensor([start, 0], device=found.device)).cpu())
    rows_and_columns = torch.cat(places).T.numpy()
    matrix = csr_matrix((torch.cat(shares).numpy(), rows_and_columns), shape=(n, n))
    return Neighbours(matrix, undirected.cpu().numpy(), k)


def on_a_line(rows: Tensor) -> bool:
    """Whether all rows (n, p) lie along one line through 0, as those of a single channel do: then
    all cosines are 1, −1 or 0, and nothing tells near images from far ones."""
    rows = F.normalize(rows.double(), dim=1)
    directed = rows[(rows != 0).any(dim=1)]
    if not len(directed):
        return True
    return bool(((directed @ directed[0]).abs() > 1 - 1 / PRECISION).all())


def mutual_neighbours(x: Neighbours, y: Neighbours) -> float:
    """The mean share of its k nearest neighbours that an image has in both representations (Huh et
    al., 2024, appendix A, without their clipping of outliers), in [0, 1]; with ties its expectation
    over how they are broken in either.

    Unrelated representations share k/(n − 1) on average.

    Parameters
    ----------
    x, y : of the same images and the same k.
    """
    n = len(x.undirected)
    shared = float(x.shares.multiply(y.shares).sum())
    by_chance = int((x.undirected | y.undirected).sum()) * x.k**2 / (n - 1)
    return (shared + by_chance) / (n * x.k)
