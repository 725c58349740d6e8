"""How sure a share of images is."""

import math

from torch import Tensor

QUANTILE = 1.959963984540054
"""Of the standard normal distribution at 97.5%: 95% lie within ± this."""


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% confidence interval of a share in [0, 1] that was counted on `n` images
    (Newcombe, 1998, method 3).

    Of attributes, whose mean over an image varies less than a right or wrong answer would, it is
    wider than need be.
    """
    right = round(share * n)
    p, square = right / n, QUANTILE**2
    width = 2 * (n + square)
    center = (2 * n * p + square) / width
    delta = QUANTILE / width * math.sqrt(4 * n * p * (1 - p) + square)
    return (center - delta if right else 0.0), (center + delta if right < n else 1.0)


def interval_of(share: float | None, n: int) -> list[float] | None:
    """The same as plain values for a report; None where there is no share."""
    return None if share is None else list(wilson(share, n))


def paired_interval(first: float, second: float, n: int) -> tuple[float, float]:
    """The 95% interval of the difference of two shares of the same `n` images: Wald's, with half an
    image more in each of the four cells (Agresti and Min, 2005).

    Parameters
    ----------
    first, second : the shares of images that only the first, and only the second counts.
    """
    more, fewer, total = first * n + 0.5, second * n + 0.5, n + 2
    middle = (more - fewer) / total
    half = QUANTILE * math.sqrt(more + fewer - (more - fewer) ** 2 / total) / total
    return max(middle - half, -1.0), min(middle + half, 1.0)


def at_least(hits: int, n: int, chance: float) -> float:
    """How likely it is that of `n` answers that many or more are right by chance, in (0, 1): the
    tail of the binomial distribution."""
    tail = 0.0
    for k in range(hits, n + 1):
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        tail += math.exp(ways + k * math.log(chance) + (n - k) * math.log1p(-chance))
    return tail


def mean_interval(values: Tensor) -> tuple[float, float]:
    """The 95% interval of the mean of values (n,) in [0, 1], of the normal approximation; of one
    value everything."""
    if len(values) < 2:
        return 0.0, 1.0
    mean, half = values.mean().item(), QUANTILE * values.std().item() / math.sqrt(len(values))
    return max(mean - half, 0.0), min(mean + half, 1.0)


def margin(n: int) -> float:
    """How far from its share the end of an interval can be at most, on `n` images."""
    low, high = wilson(0.5, n)
    return (high - low) / 2
