"""RSA, neighbours, subspaces, shapes, units and statistics: cases that are known, ties, dead units.

That each is its formula in float64, for all kinds of arrays, is in `test_arrays.py`; the laws that
hold for all of them are in `test_registry.py`.
"""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from measure_formulas import correlation_distances
from robust_stitching import similarity as s

N = 60


def pair(p: int = 6, q: int = 4, n: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two representations that share a part."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * np.linspace(0.3, 2, p) + 1
    return x, x @ rng.normal(size=(p, q)) / 2 + rng.normal(size=(n, q))


def basis(columns: int, n: int = N) -> np.ndarray:
    """Orthonormal columns whose mean is 0."""
    x = np.random.default_rng(7).normal(size=(n, columns))
    return np.linalg.qr(x - x.mean(axis=0))[0]


def turn(p: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(8).normal(size=(p, p)))[0]


# Distances between images


def test_rsa_of_three_images_on_a_line():
    """Their distances are 1, 3, 2 on one side and 3, 1, 2 on the other."""
    x, y = np.array([[0.0], [1], [3]]), np.array([[0.0], [3], [1]])
    assert s.rsa_euclidean_pearson(x, y) == pytest.approx(-1)
    assert s.rsa_euclidean_spearman(x, y) == pytest.approx(-1)
    far = np.array([[0.0], [1], [10]])
    assert s.rsa_euclidean_spearman(x, far) == pytest.approx(1)
    assert s.rsa_euclidean_pearson(x, far) == pytest.approx(
        np.corrcoef([1, 3, 2], [1, 10, 9])[0, 1]
    )
    assert math.isnan(s.rsa_correlation_pearson(x, far))  # one channel correlates with nothing


@pytest.mark.parametrize("kind", ["copies", "dead rows"])
def test_equal_distances_share_their_ranks(kind):
    x, y = pair()
    if kind == "copies":
        x[20:40] = x[:20]
    else:
        x[::3] = 0
        y[:10] = 2.5
    own, other = (np.round(correlation_distances(side), 11) for side in (x, y))
    expected = spearmanr(own, other).statistic
    assert s.rsa_correlation_spearman(x, y) == pytest.approx(expected, abs=1e-12)


def test_correlation_distances_see_the_shape_of_a_row_alone():
    x, y = pair(p=5)
    moved = x * np.linspace(1, 9, N)[:, None] + np.linspace(-3, 3, N)[:, None]
    assert s.rsa_correlation_pearson(moved, y) == pytest.approx(s.rsa_correlation_pearson(x, y))
    assert s.rsa_correlation_pearson(moved, x) == pytest.approx(1)


def test_differences_of_similarity_matrices():
    x, y = pair()
    assert s.rsm_norm(x, y) == pytest.approx(math.sqrt(2 - 2 * s.cka(x, y)))
    both = basis(6)
    assert s.rsm_norm(both[:, :3], both[:, 3:]) == pytest.approx(math.sqrt(2))
    assert s.raw_rsm_norm(both[:, :2], both[:, 2:]) == pytest.approx(math.sqrt(6))
    assert s.raw_rsm_norm(3 * x, 3 * y) == pytest.approx(9 * s.raw_rsm_norm(x, y))
    assert math.isnan(s.raw_rsm_norm(x, np.ones((N, 2))))


def test_distance_correlation_of_independent_sides():
    """0 on average, but for the biased one."""
    values = {s.unbiased_distance_correlation: [], s.distance_correlation: []}
    for seed in range(40):
        x, y = np.random.default_rng(seed).normal(size=(2, 30, 20))
        for measure, found in values.items():
            found.append(measure(x, y))
    unbiased, biased = values.values()
    error = np.std(unbiased) / math.sqrt(40)
    assert abs(np.mean(unbiased)) < 4 * error < 0.05 and min(unbiased) < 0
    assert np.mean(biased) > 0.7


def test_distance_correlation_sees_what_is_not_linear():
    x = np.linspace(-1, 1, 80)[:, None]
    assert s.cca(x, x**2) == pytest.approx(0, abs=1e-9)
    assert s.distance_correlation(x, x**2) > 0.4
    assert s.distance_correlation(x[:2], x[2:4]) == pytest.approx(1)
    same = np.eye(12)  # all distances are equal, from which nothing follows without bias
    assert math.isnan(s.unbiased_distance_correlation(same, x[:12]))
    assert 0 < s.distance_correlation(same, x[:12]) < 1
