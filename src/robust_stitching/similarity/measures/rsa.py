"""Do two representations see the same distances between images? Representational similarity."""

from collections.abc import Callable

import torch
from torch import Tensor

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.distances import (
    CorrelationDistances,
    Distances,
    EuclideanDistances,
)
from robust_stitching.similarity.forms import POOLED, Gram
from robust_stitching.similarity.gram import GramSums, normalised
from robust_stitching.similarity.measure import (
    PERMUTATION,
    ROTATIONS,
    SCALE,
    SHIFT,
    Measure,
    Stacked,
    at_least,
    value_by,
)

LEAST_IMAGES = 3
"""Two images have a single distance, which correlates with nothing."""


def _pearson(x: Distances, y: Distances) -> float:
    return float((x.scores @ y.scores).clamp(-1, 1))


def _spearman(x: Distances, y: Distances) -> float:
    return float((x.rank_scores @ y.rank_scores).clamp(-1, 1))


def _score_matrix(x: Distances) -> Tensor:
    return x.square(x.scores.float())


def _rank_matrix(x: Distances) -> Tensor:
    return x.square(x.rank_scores.float())


def _correlations(sums: GramSums) -> Tensor:
    """Of scores of length 1, each of which stands in a matrix twice."""
    return (sums.products / 2).clamp(-1, 1)


PEARSON = _pearson, Stacked(_score_matrix, _correlations)
SPEARMAN = _spearman, Stacked(_rank_matrix, _correlations)


def _differences(products: Tensor) -> Tensor:
    """‖S − S′‖ of every pair from their inner products, NaN where a side does not vary."""
    own = products.diagonal()
    squares = (own[:, None] + own - 2 * products).clamp(min=0)
    varies = own > 0
    return torch.where(varies[:, None] & varies, squares.sqrt(), torch.nan)


def _rsm_norm(sums: GramSums) -> Tensor:
    return _differences(normalised(sums.biased()))


def _raw_rsm_norm(sums: GramSums) -> Tensor:
    return _differences(sums.biased())


def _rsa(
    of: str,
    correlation: str,
    form: type[Distances],
    how: tuple[Callable, Stacked],
    ignores: frozenset[str],
) -> Measure:
    value, stacked = how
    return Measure(
        name=f"rsa-{of}-{correlation.lower()}",
        title=f"RSA, {of} distances, {correlation}",
        estimator=f"RSA ({correlation} correlation of the {of} distances between images)",
        low=-1,
        high=1,
        same=1,
        cost="one pass, rows² × channels products; keeps rows²/2 numbers of each layer",
        form=form,
        value=value,
        stacked=stacked,
        limits=at_least(LEAST_IMAGES),
        ignores=ignores,
    )


def _rsm(name: str, title: str, estimator: str, high: float, pairs: Callable, **other) -> Measure:
    return Measure(
        name=name,
        title=title,
        estimator=estimator,
        low=0,
        high=high,
        same=0,
        cost="as debiased-cka, and together with it no more than one of them",
        form=Gram,
        value=value_by(pairs),
        pairs=pairs,
        **other,
    )


_ROWWISE, _RIGID = frozenset({PERMUTATION, SCALE}), ROTATIONS | {SHIFT}
MEASURES = (
    _rsa("correlation", "Pearson", CorrelationDistances, PEARSON, _ROWWISE),
    _rsa("correlation", "Spearman", CorrelationDistances, SPEARMAN, _ROWWISE),
    _rsa("euclidean", "Pearson", EuclideanDistances, PEARSON, _RIGID | {SCALE}),
    _rsa("euclidean", "Spearman", EuclideanDistances, SPEARMAN, _RIGID | {SCALE}),
    _rsm(
        "rsm-norm",
        "difference of similarity matrices",
        "norm of the difference of the centred Gram matrices, each of norm 1 (0 is alike)",
        2**0.5,
        _rsm_norm,
        unbiased="debiased-cka",
        ignores=_RIGID | {SCALE},
    ),
    _rsm(
        "raw-rsm-norm",
        "raw difference of similarity matrices",
        "norm of the difference of the centred Gram matrices (0 is alike)",
        float("inf"),
        _raw_rsm_norm,
        ignores=_RIGID,
    ),
)
CORRELATION_PEARSON, CORRELATION_SPEARMAN, EUCLIDEAN_PEARSON, EUCLIDEAN_SPEARMAN = MEASURES[:4]
RSM_NORM, RAW_RSM_NORM = MEASURES[4:]


def rsa_correlation_pearson(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """Representational similarity analysis by correlation distances, in [−1, 1].

    The Pearson correlation of the n(n − 1)/2 distances 1 − r(x_i, x_j) on both sides, r over the
    channels of two rows (Kriegeskorte, Mur and Bandettini, 2008). A row that is the same in all
    channels has r = 0 with all others. Distances of n rows take n² · d products and n²/2 numbers.

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), three images or more.
    positions : of maps, "pooled" takes the mean over positions as the row of an image, "all" has a
        row for each position, see `rows.Rows`.

    Returns
    -------
    NaN where all distances of a side are the same, as with a single channel.

    Raises
    ------
    ValueError : for fewer images, other shapes, other numbers of images, and values that are not
        finite.
    """
    return between(CORRELATION_PEARSON, x, y, positions=positions)


def rsa_correlation_spearman(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """The same by Spearman's correlation, of the ranks of the distances: equal ones share theirs.

    It sorts n²/2 numbers of each side. Parameters, result and errors are those of
    `rsa_correlation_pearson`.
    """
    return between(CORRELATION_SPEARMAN, x, y, positions=positions)


def rsa_euclidean_pearson(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """Representational similarity analysis by the distances ‖x_i − x_j‖, in [−1, 1].

    Parameters, result and errors are those of `rsa_correlation_pearson`; a single channel has a
    value.
    """
    return between(EUCLIDEAN_PEARSON, x, y, positions=positions)


def rsa_euclidean_spearman(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """The same by Spearman's correlation; parameters, result and errors are those of
    `rsa_correlation_pearson`, and a single channel has a value."""
    return between(EUCLIDEAN_SPEARMAN, x, y, positions=positions)


def rsm_norm(x: Array, y: Array) -> float:
    """‖S/‖S‖ − S′/‖S′‖‖ of the centred Gram matrices S = HXXᵀH, Frobenius norms, in [0, √2].

    It is √(2 − 2 CKA) with the exact CKA, and as biased: near 0 where features far outnumber
    images. Maps enter whole.

    Parameters and errors are those of `cka`; NaN where a side does not vary.
    """
    return between(RSM_NORM, x, y)


def raw_rsm_norm(x: Array, y: Array) -> float:
    """‖S − S′‖ of the centred Gram matrices as they are, from 0 on.

    The pairwise inner product loss of Yin and Shen (2018, definition 1), of centred features. It
    grows with the number of images and with the square of the activations.

    Parameters and errors are those of `cka`; NaN where a side does not vary.
    """
    return between(RAW_RSM_NORM, x, y)
