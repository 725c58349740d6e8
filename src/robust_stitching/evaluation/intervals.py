"""How sure a share of images is."""

from scipy.stats import binomtest

LEVEL = 0.95


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% confidence interval of a share in [0, 1] that was counted on `n` images.

    Of attributes, whose mean over an image varies less than a right or wrong answer would, it is
    wider than need be.
    """
    found = binomtest(round(share * n), n).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def interval_of(share: float | None, n: int) -> list[float] | None:
    """The same as plain values for a report; None where there is no share."""
    return None if share is None else list(wilson(share, n))


def margin(n: int) -> float:
    """How far from its share the end of an interval can be at most, on `n` images."""
    low, high = wilson(0.5, n)
    return (high - low) / 2
