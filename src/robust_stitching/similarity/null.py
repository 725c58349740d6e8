"""What a similarity would be by chance: the same with the images of one side in another order.

After arXiv 2602.14486. A permutation leaves each representation what it is and takes away all that
is shared through the images; what a measure gives then, it gives for any two representations of
that size and kind.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_stitching.basics.seeds import generator_for

LEVEL = 0.05
FEWEST = 19
"""Permutations: with fewer, no value is beyond chance at `LEVEL`."""

TIE = 1e-5
"""Values no further apart, as a share of their size, are equal: the same sums are added in another
order, and in float32. The size of a similarity is at least that of two copies."""


@dataclass(frozen=True)
class Null:
    """Values beside those of K permutations, each of the shape of the values; NaN where they are.

    Attributes
    ----------
    p : (1 + the permutations that are at least as similar) / (K + 1).
    threshold : what a value has to be beyond for p ≤ 0.05, the ⌈0.95 (K + 1)⌉-th of the value and
        its permutations, the least similar first.
    calibrated : the way from there to the value of two copies, 0 to 1: (s − τ) / (s_same − τ), 0
        where p > 0.05.
    """

    p: Tensor
    threshold: Tensor
    calibrated: Tensor


def orders(n: int, count: int, seed: int) -> list[Tensor]:
    """Random orders of n images."""
    return [torch.randperm(n, generator=generator_for(seed, "null", k)) for k in range(count)]


def null_of(values: Tensor, permuted: Tensor, same: float, larger: bool = True) -> Null:
    """What to think of `values`.

    Parameters
    ----------
    values : of any shape.
    permuted : of shape (K, *values.shape), the same of each permutation.
    same : the value of two copies.
    larger : whether larger is more similar.
    """
    sign = 1.0 if larger else -1.0
    own, others, count = sign * values.double(), sign * permuted.double(), len(permuted) + 1
    size = own.abs().clamp(min=abs(same) if larger else 0)
    reached = ~(others < own - TIE * size)  # what is not defined counts, too
    p = (1 + reached.sum(dim=0)).double() / count
    ranked = torch.cat([others, own[None]]).sort(dim=0).values
    threshold = ranked[math.ceil(round((1 - LEVEL) * count, 6)) - 1]
    room = sign * same - threshold
    beyond = (p <= LEVEL) & (room > 0)
    calibrated = torch.where(beyond, (own - threshold) / room, 0.0).clamp(0, 1)
    unknown = own.isnan()
    return Null(*(v.masked_fill(unknown, math.nan) for v in (p, sign * threshold, calibrated)))


def null_of_best(
    values: Tensor, permuted: Tensor, same: float, larger: bool = True
) -> tuple[tuple[int, int], Null] | None:
    """Where the most similar of a table of values is, and what to think of it: each permutation
    gives its own most similar, too. None where no value is defined.

    Parameters
    ----------
    values, permuted, same, larger : see `null_of`; values are (rows, columns).
    """
    if bool(values.isnan().all()):
        return None
    sign = 1.0 if larger else -1.0
    least = sign * -math.inf
    best = (sign * values.masked_fill(values.isnan(), least)).argmax()
    at = divmod(int(best), values.shape[1])
    others = (sign * permuted.masked_fill(permuted.isnan(), least)).flatten(1)
    return at, null_of(values[at], sign * others.max(dim=1).values, same, larger)
