"""Do two representations have the same units? Matches of single channels."""

import numpy as np
from torch import Tensor

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.forms import POOLED, Channels, of_length_1
from robust_stitching.similarity.measure import PERMUTATION, SCALE, SHIFT, UNIT_SCALES, Measure


def _correlations(x: Channels, y: Channels) -> Tensor:
    """Of every unit of x with every one of y, (p, q); 0 where one is constant."""
    first, second = (of_length_1(side.centred(), dim=0) for side in (x, y))
    return (first.T @ second).clamp(-1, 1)


def _hard(x: Channels, y: Channels) -> float:
    if not (x.norm > 0 and y.norm > 0):
        return float("nan")
    from scipy.optimize import linear_sum_assignment  # a stitch goes without scipy

    found = _correlations(x, y).cpu()
    return float(found[linear_sum_assignment(found.numpy(), maximize=True)].mean())


def _soft(x: Channels, y: Channels) -> float:
    if not (x.norm > 0 and y.norm > 0):
        return float("nan")
    found = _correlations(x, y)
    return float((found.amax(dim=1).mean() + found.amax(dim=0).mean()) / 2)


def _soft_matching(x: Channels, y: Channels) -> float:
    if not (x.norm > 0 and y.norm > 0):
        return float("nan")
    first, second = x.centred().T, y.centred().T
    costs = first.square().sum(dim=1)[:, None] + second.square().sum(dim=1)
    costs -= 2 * first @ second.T
    return max(transport_cost(costs.clamp(min=0)), 0.0) ** 0.5


def transport_cost(costs: Tensor) -> float:
    """min Σ T∘costs over T ≥ 0 whose rows add up to 1/p and whose columns to 1/q, exactly.

    For p = q some permutation over p is best, so that it is a linear assignment; else a linear
    program.
    """
    from scipy.optimize import linear_sum_assignment, linprog
    from scipy.sparse import eye, kron, vstack

    costs = costs.cpu().numpy()
    p, q = costs.shape
    if p == q:
        return float(costs[linear_sum_assignment(costs)].mean())
    sums = vstack([kron(eye(p), np.ones((1, q))), kron(np.ones((1, p)), eye(q))])
    masses = np.concatenate([np.full(p, 1 / p), np.full(q, 1 / q)])
    scale = costs.max()  # the solver's tolerances are absolute
    found = linprog(costs.ravel() / scale, A_eq=sums.tocsr(), b_eq=masses, method="highs-ds")
    return float(found.fun * scale)


_MATCH = {"low": -1, "high": 1, "same": 1, "form": Channels}
_MATCH["ignores"] = frozenset({PERMUTATION, SCALE, UNIT_SCALES, SHIFT})
MEASURES = (
    Measure(
        name="hard-correlation-match",
        title="correlation match, one to one",
        estimator="correlation of units matched one to one, mean over the narrower side",
        value=_hard,
        cost="one pass",
        **_MATCH,
    ),
    Measure(
        name="soft-correlation-match",
        title="correlation match, best partner",
        estimator="correlation of units with their best partners, mean of both directions",
        value=_soft,
        cost="one pass",
        **_MATCH,
    ),
    Measure(
        name="soft-matching",
        title="soft matching distance",
        estimator="soft matching distance (root of the cost of optimal transport between units, "
        "centred; 0 is alike)",
        low=0,
        high=float("inf"),
        same=0,
        cost="one pass; for a pair of unequal widths a linear program, seconds for 512 and 511 "
        "channels",
        form=Channels,
        value=_soft_matching,
        ignores=frozenset({PERMUTATION, SHIFT}),
    ),
)
HARD, SOFT, SOFT_MATCHING = MEASURES


def hard_correlation_match(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """The correlation of units matched one to one, at best, mean over pairs, in [−1, 1].

    Each channel of the narrower side has a partner of its own on the other, so that the sum of the
    correlations over the images is largest (Li et al., 2015, section 3.1). A constant channel
    correlates 0, with its own copy, too: dead channels lower the value. The match is found exactly,
    by linear assignment, at most channels³ steps, well below a second for 512.

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), two images or more.
    positions : of maps, "pooled" takes the mean over positions as the row of an image, "all" has a
        row for each position, see `rows.Rows`.

    Returns
    -------
    NaN where a side does not vary.

    Raises
    ------
    ValueError : for other shapes, other numbers of images, and values that are not finite.
    """
    return between(HARD, x, y, positions=positions)


def soft_correlation_match(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """The correlation of a unit with its best partner, who may have others: the mean over channels
    of x and that over channels of y, halved, in [−1, 1] (Li et al., 2015, section 3.1).

    A constant channel correlates 0. Parameters, result and errors are those of
    `hard_correlation_match`.
    """
    return between(SOFT, x, y, positions=positions)


def soft_matching(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """Soft matching distance of two sets of units, from 0 on, a metric for units in any order.

    √ min Σ T_ij ‖x_i − y_j‖² over T ≥ 0 whose rows add up to 1/p and whose columns to 1/q, x_i and
    y_j the centred channels (Khosla and Williams, 2024). It grows with the number of images. For as
    many channels on both sides it is a linear assignment, well below a second for 512; for others a
    linear program of p · q unknowns, about three seconds for 512 and 511.

    Parameters, result and errors are those of `hard_correlation_match`.
    """
    return between(SOFT_MATCHING, x, y, positions=positions)
