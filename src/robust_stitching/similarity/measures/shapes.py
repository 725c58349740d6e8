"""Distances after the best rotation, or the best order, of one side: more of Procrustes' family.

X and Y are the rows of channels without their mean; the narrower side is filled up with channels of
zeros.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.forms import POOLED, Channels
from robust_stitching.similarity.measure import PERMUTATION, ROTATIONS, SCALE, SHIFT, Measure


def _cross(x: Channels, y: Channels) -> Tensor:
    return x.centred().T @ y.centred()


def _rotated(x: Channels, y: Channels) -> Tensor:
    """max tr(QᵀXᵀY) over orthogonal Q, the nuclear norm."""
    return torch.linalg.svdvals(_cross(x, y)).sum()


def _reordered(x: Channels, y: Channels) -> Tensor:
    """max tr(PᵀXᵀY) over permutations P."""
    from scipy.optimize import linear_sum_assignment  # a stitch goes without scipy

    cross = _cross(x, y).cpu()
    rows, columns = linear_sum_assignment(cross.numpy(), maximize=True)
    return cross[rows, columns].sum()


def _similarity(x: Channels, y: Channels, best: Callable[[Channels, Channels], Tensor]) -> Tensor:
    """`best` of both sides at norm 1; NaN where a side does not vary."""
    scale = x.norm * y.norm
    return (best(x, y) / scale if scale > 0 else torch.tensor(torch.nan)).clamp(-1, 1)


def _root(x: Channels, y: Channels) -> float:
    return float((2 - 2 * _similarity(x, y, _rotated)).sqrt())


def _angle(x: Channels, y: Channels) -> float:
    return float(_similarity(x, y, _rotated).arccos())


def _permutation(x: Channels, y: Channels) -> float:
    return float((2 - 2 * _similarity(x, y, _reordered)).sqrt())


def _size_and_shape(x: Channels, y: Channels) -> float:
    if not (x.norm > 0 and y.norm > 0):
        return float("nan")
    return float((x.norm**2 + y.norm**2 - 2 * _rotated(x, y)).clamp(min=0).sqrt())


def _aligned_cosine(x: Channels, y: Channels) -> float:
    if not (x.norm > 0 and y.norm > 0):
        return float("nan")
    first, second = x.rows.double(), y.rows.double()
    left, _, right = torch.linalg.svd(first.T @ second, full_matrices=False)
    dots = ((first @ left) * (second @ right.T)).sum(dim=1)
    lengths = first.norm(dim=1), second.norm(dim=1)
    both = (lengths[0] == 0) & (lengths[1] == 0)
    length = lengths[0] * lengths[1]
    return float(torch.where(length > 0, dots / length, both.double()).mean())


def _distance(name: str, title: str, estimator: str, high: float, **other) -> Measure:
    about = {"low": 0, "same": 0, "cost": "one pass", "form": Channels}
    whole = f"{estimator}; 0 is alike)"
    return Measure(name=name, title=title, estimator=whole, high=high, **about, **other)


MEASURES = (
    _distance(
        "root-procrustes",
        "Procrustes distance, not squared",
        "orthogonal Procrustes distance (its root; both sides centred, Frobenius norm 1",
        2**0.5,
        value=_root,
        ignores=ROTATIONS | {SCALE, SHIFT},
    ),
    _distance(
        "size-and-shape",
        "size-and-shape distance",
        "Procrustes size-and-shape distance (both sides centred, not scaled",
        float("inf"),
        value=_size_and_shape,
        ignores=ROTATIONS | {SHIFT},
    ),
    _distance(
        "angular-shape",
        "angular shape distance",
        "angular shape metric (angle after the best rotation, both sides centred; radians to π/2",
        torch.pi / 2,
        value=_angle,
        ignores=ROTATIONS | {SCALE, SHIFT},
    ),
    _distance(
        "permutation-procrustes",
        "permutation Procrustes distance",
        "Procrustes distance over orders of channels (its root; both sides centred, Frobenius "
        "norm 1",
        2,
        value=_permutation,
        ignores=frozenset({PERMUTATION, SCALE, SHIFT}),
    ),
    Measure(
        name="aligned-cosine",
        title="aligned cosine similarity",
        estimator="cosine similarity of rows after the best rotation (not centred), their mean",
        low=-1,
        high=1,
        same=1,
        cost="one pass",
        form=Channels,
        value=_aligned_cosine,
        ignores=ROTATIONS | {SCALE},
    ),
)
ROOT_PROCRUSTES, SIZE_AND_SHAPE, ANGULAR_SHAPE, PERMUTATION_PROCRUSTES, ALIGNED_COSINE = MEASURES


def root_procrustes(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """min ‖XQ − Y‖ over orthogonal Q, of centred X and Y with ‖X‖ = ‖Y‖ = 1, in [0, √2]: the root
    of `procrustes`, a metric (Williams et al., 2021, section 2).

    It takes the singular values of a matrix of channels × channels, as all here but
    `permutation_procrustes`. Values below 1e-7 are rounding.

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
    return between(ROOT_PROCRUSTES, x, y, positions=positions)


def size_and_shape(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """min ‖XQ − Y‖ over orthogonal Q, of centred X and Y as large as they are, from 0 on:
    √(‖X‖² + ‖Y‖² − 2‖XᵀY‖∗), the size-and-shape distance (Dryden and Mardia, 2016).

    It grows with the number of images. Parameters, result and errors are those of
    `root_procrustes`.
    """
    return between(SIZE_AND_SHAPE, x, y, positions=positions)


def angular_shape(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """arccos(‖XᵀY‖∗ / (‖X‖ ‖Y‖)) of centred X and Y, in [0, π/2]: the angle between them after the
    best rotation, a metric (Williams et al., 2021, section 2).

    Parameters, result and errors are those of `root_procrustes`.
    """
    return between(ANGULAR_SHAPE, x, y, positions=positions)


def permutation_procrustes(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """min ‖XP − Y‖ over permutations P of channels, of centred X and Y with ‖X‖ = ‖Y‖ = 1, in
    [0, 2] (Williams et al., 2021, section 2).

    The best P is found exactly, by linear assignment: at most channels³ steps, well below a second
    for 512. Parameters, result and errors are those of `root_procrustes`.
    """
    return between(PERMUTATION_PROCRUSTES, x, y, positions=positions)


def aligned_cosine(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """The cosine of x_i Q and y_i, mean over images, in [−1, 1], for the orthogonal Q with the
    least ‖XQ − Y‖, of rows as they are, not centred (Hamilton, Leskovec and Jurafsky, 2016).

    A row of zeros counts 1 beside another one, and 0 beside any other row. Parameters, result and
    errors are those of `root_procrustes`.
    """
    return between(ALIGNED_COSINE, x, y, positions=positions)
