"""Intervals of similarities: the jackknife that leaves out blocks of images.

Measures of Gram matrices and of neighbours are biased by copies of an image, so images are never
drawn with replacement. With θ_b the value without block b of B, the variance is
(B − 1)/B Σ (θ_b − mean)² (Shao and Wu, 1989, with random blocks), the quantile that of Student's t
with B − 1 degrees of freedom.
"""

import torch
from torch import Tensor

from robust_stitching.basics.seeds import generator_for

LEAST_IMAGES, MANY = 40, 200
BLOCKS, FEW_BLOCKS = 20, 10
COVERAGE = 0.95

QUANTILES = {FEW_BLOCKS: 2.262157162798205, BLOCKS: 2.0930240544083087}
"""Of Student's t with one degree of freedom less than blocks, at (1 + `COVERAGE`)/2, as scipy gives
them, which takes longer to import than they are worth."""


def blocks_of(n: int, seed: int) -> list[Tensor]:
    """Random blocks of n images, each image in one: 20, 10 for fewer than 200 images, none for
    fewer than 40."""
    if n < LEAST_IMAGES:
        return []
    order = torch.randperm(n, generator=generator_for(seed, "jackknife"))
    return [*order.tensor_split(BLOCKS if n >= MANY else FEW_BLOCKS)]


def interval(values: Tensor, left_out: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Both ends of the 95% interval of `values`.

    Parameters
    ----------
    values : of any shape.
    left_out : of shape (B, *values.shape), the same without each block.
    low, high : the range, beyond which no end is.
    """
    count = len(left_out)
    squares = (left_out - left_out.mean(dim=0)).square().sum(dim=0)
    half = _quantile(count) * ((count - 1) / count * squares).sqrt()
    return (values - half).clamp(low, high), (values + half).clamp(low, high)


def _quantile(blocks: int) -> float:
    if blocks in QUANTILES:
        return QUANTILES[blocks]
    from scipy.stats import t

    return float(t.ppf((1 + COVERAGE) / 2, blocks - 1))
