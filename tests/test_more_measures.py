"""RSA, neighbours, subspaces, shapes, units and statistics: cases that are known, ties, dead units.

That each is its formula in float64, for all kinds of arrays, is in `test_arrays.py`; the laws that
hold for all of them are in `test_registry.py`.
"""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import linear_sum_assignment, linprog
from scipy.stats import spearmanr

from measure_formulas import correlation_distances
from robust_stitching import similarity as s
from robust_stitching.similarity.forms import Channels, Settings
from robust_stitching.similarity.measures.imd import TIMES, HeatTrace
from robust_stitching.similarity.measures.units import transport_cost

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


# Neighbours


def chances(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """How surely each is a neighbour of each by cosine similarity, and at which place on average,
    from all orders of those that are equally near."""
    n = len(x)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x = x / np.where(length > 0, length, 1)
    alike = np.round(x @ x.T, 10)
    sure, place = np.zeros((n, n)), np.ones((n, n))
    for i, j in np.ndindex(n, n):
        others = np.delete(alike[i], i)
        before, equal = (others > alike[i, j]).sum(), (others == alike[i, j]).sum()
        room = min(k - before, equal)
        if i != j and room > 0:
            sure[i, j], place[i, j] = room / equal, before + (1 + room) / 2
    return sure, place


def harmonic(m: float) -> float:
    """1 + 1/2 + … + 1/m, and between whole numbers."""
    return quad(lambda t: (1 - t**m) / (1 - t), 0, 1)[0]


def tied(kind: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = pair(5, 5, n=40)
    if kind == "copies":
        return np.concatenate([x[:10]] * 4), y
    x[::2], y[1:30:3] = 0, 0
    return x, y


@pytest.mark.parametrize("kind", ["copies", "dead rows", "none"])
def test_neighbours_that_are_equally_near(kind):
    x, y = tied(kind) if kind != "none" else pair(n=40)
    (sure, place), (sure_too, place_too) = chances(x, 6), chances(y, 6)
    both = sure * sure_too
    shared = both.sum(axis=1)
    assert s.jaccard_knn(x, y, k=6) == pytest.approx(np.mean(shared / (12 - shared)), abs=1e-12)
    near = 2 / ((1 + abs(place - place_too)) * (place + place_too))
    most = [harmonic(m) if m > 0 else 1 for m in shared]
    expected = np.mean(np.minimum((both * near).sum(axis=1) / most, 1))
    assert s.rank_similarity(x, y, k=6) == pytest.approx(expected, abs=1e-9)
    assert s.mutual_knn(x, y, k=6) == pytest.approx(shared.mean() / 6, abs=1e-12)
    order = np.random.default_rng(1).permutation(40)
    for measure in (s.jaccard_knn, s.rank_similarity, s.second_order_cosine):
        again = measure(x[order], y[order], k=6)
        assert again == pytest.approx(measure(x, y, k=6), abs=1e-12)


def test_copies_of_an_image_are_neighbours():
    """The image itself is left out by its number: its copy at the distance 0 is not."""
    x = np.repeat(np.random.default_rng(0).normal(size=(10, 5)), 2, axis=0)
    for measure in (s.jaccard_knn, s.euclidean_jaccard_knn, s.euclidean_mutual_knn):
        assert measure(x, x, k=1) == 1
    assert s.rank_similarity(x, x, k=1) == s.euclidean_rank_similarity(x, x, k=1) == 1
    unlike = np.random.default_rng(1).permutation(20)
    assert s.euclidean_mutual_knn(x, x[unlike], k=1) < 0.3


def test_ranks_tell_what_shares_do_not():
    """Images 1 and 2 change their places on a line: 0 to 3 keep both neighbours, the other way
    round, and 4 keeps its nearest one."""
    x, y = (np.array([places]).T for places in ([0.0, 1, 3, 7, 15], [0.0, 3, 1, 7, 15]))
    assert s.euclidean_jaccard_knn(x, y, k=2) == pytest.approx((4 * 1 + 1 / 3) / 5)
    turned = (1 / 3 + 1 / 3) / (1 + 1 / 2)
    assert s.euclidean_rank_similarity(x, y, k=2) == pytest.approx((4 * turned + 1) / 5)


@pytest.mark.parametrize("k", [3, 10])
def test_second_order_cosines_of_dead_images(k):
    x, _ = pair()
    x[:15] = 0
    assert s.second_order_cosine(x, x, k=k) == pytest.approx(1)
    y = x.copy()
    y[15:30] = 0  # which counts 0 where the other side is alive, the first 15 count 1
    assert 0.6 < s.second_order_cosine(x, y, k=k) <= 45 / 60 + 1e-9


def test_euclidean_neighbours_have_a_single_channel():
    x = np.random.default_rng(0).normal(size=(30, 1))
    assert s.euclidean_mutual_knn(x, 2 * x - 5) == 1
    assert math.isnan(s.mutual_knn(x, x)) and math.isnan(s.jaccard_knn(x, x))
    assert math.isnan(s.rank_similarity(x, x)) and math.isnan(s.second_order_cosine(x, x))


# Subspaces


def test_planted_canonical_correlations():
    """x has scales, y is x's first two directions with noise of their own, and scales."""
    e, rho, a, b = basis(6), np.array([0.9, 0.4]), np.array([3.0, 1]), np.array([0.5, 2])
    x, y = a * e[:, :2] + 7, b * (rho * e[:, :2] + np.sqrt(1 - rho**2) * e[:, 2:4]) - 1
    assert s.pwcca(x, y) == pytest.approx(rho @ a / a.sum())
    assert s.reverse_pwcca(x, y) == s.pwcca(y, x) == pytest.approx(rho @ b / b.sum())
    assert s.pwcca(x, y @ [[1, 2], [3, -4]]) == pytest.approx(rho @ a / a.sum())
    assert s.reverse_regression(x, y) == pytest.approx(rho**2 @ a**2 / (a**2).sum())
    assert s.gulp_0(x, y) == pytest.approx(math.sqrt(4 - 2 * (rho**2).sum()))
    assert s.gulp_0(x, np.column_stack([y, e[:, 4:]])) == pytest.approx(
        math.sqrt(6 - 2 * (rho**2).sum())
    )


def test_gulp_of_one_channel_each():
    """Both covariances are 1: d² = 2(1 − ρ²)/(1 + λ)²."""
    e = basis(2)
    x, y = 5 * e[:, :1] + 3, 0.6 * e[:, :1] + 0.8 * e[:, 1:]
    assert s.gulp_1e_2(x, y) == pytest.approx(math.sqrt(2 * 0.64) / 1.01)
    assert s.gulp_1e_4(x, y) == pytest.approx(math.sqrt(2 * 0.64) / 1.0001)


def test_more_channels_than_images_tell_nothing_but_with_a_ridge():
    x, y = pair(20, 20, n=15)
    for measure in (s.gulp_0, s.pwcca, s.reverse_pwcca, s.eigenspace_overlap, s.reverse_regression):
        with pytest.raises(ValueError, match="needs more rows than channels"):
            measure(x, y)
    assert s.gulp_1e_2(x, y) > 0.1


def test_eigenspaces_of_a_narrow_side_in_a_wide_one():
    x, _ = pair(6)
    mixing = np.random.default_rng(3).normal(size=(6, 2))
    assert s.eigenspace_overlap(x, x @ mixing) == pytest.approx(2 / 6)
    assert s.eigenspace_overlap(x - x.mean(axis=0), np.ones((N, 1)) + 1e-3 * x[:, :1]) < 0.01


@pytest.mark.parametrize("measure", [s.pwcca, s.eigenspace_overlap, s.gulp_0, s.gulp_1e_2])
def test_dead_channels_span_nothing(measure):
    x, y = pair()
    dead = np.column_stack([x, np.zeros((N, 3))])
    assert measure(dead, y) == pytest.approx(measure(x, y), abs=1e-9)
    assert measure(y, dead) == pytest.approx(measure(y, x), abs=1e-9)


# Shapes


def test_shapes_of_what_is_rotated():
    x, y = pair(5, 5)
    moved = 3 * x @ turn(5) + 2
    size = np.linalg.norm(x - x.mean(axis=0))
    assert s.size_and_shape(x, moved) == pytest.approx(2 * size)
    assert s.root_procrustes(x, moved) == pytest.approx(0, abs=1e-6)
    assert s.angular_shape(x, moved) == pytest.approx(0, abs=1e-6)
    assert s.aligned_cosine(x, 3 * x @ turn(5)) == pytest.approx(1)
    assert s.aligned_cosine(x, moved) < 0.999  # it is not centred
    assert s.root_procrustes(x, y) ** 2 == pytest.approx(s.procrustes(x, y))
    assert math.cos(s.angular_shape(x, y)) == pytest.approx(1 - s.procrustes(x, y) / 2)
    assert s.permutation_procrustes(x, y) > s.root_procrustes(x, y)
    halves = basis(6)[:, :3], basis(6)[:, 3:]
    assert s.angular_shape(*halves) == pytest.approx(math.pi / 2)


@pytest.mark.parametrize("measure", [s.root_procrustes, s.angular_shape, s.permutation_procrustes])
def test_shape_distances_are_metrics(measure):
    for seed in range(10):
        x, y = pair(seed=seed)
        z = pair(5, 3, seed=seed + 100)[1]
        assert measure(x, z) <= measure(x, y) + measure(y, z) + 1e-9


def test_permutation_procrustes_of_what_is_reordered():
    x, _ = pair()
    assert s.permutation_procrustes(x, 4 * x[:, ::-1] - 1) == pytest.approx(0, abs=1e-6)
    assert s.permutation_procrustes(x[:, :1], -x[:, :1]) == pytest.approx(2)
    narrow = x[:, [4, 1]]
    norms = [np.linalg.norm(side - side.mean(axis=0)) for side in (narrow, x)]
    best = math.sqrt(2 - 2 * norms[0] / norms[1])  # the best partner of a channel is its copy
    assert s.permutation_procrustes(x, narrow) == pytest.approx(best)


def test_aligned_cosine_of_dead_images():
    x, y = pair(4, 4)
    x[:20] = 0
    assert s.aligned_cosine(x, x) == pytest.approx(1)
    rest = s.aligned_cosine(x[20:], y[20:])
    assert s.aligned_cosine(x, y) == pytest.approx(rest * 40 / 60)
    assert s.aligned_cosine(x, np.where(x == 0, 0, y)) == pytest.approx((rest * 40 + 20) / 60)


# Units


def test_matches_of_known_units():
    e = basis(3)
    x = e[:, :2]
    copies = np.column_stack([5 * e[:, 0], 2 * e[:, 0] + 3])
    assert s.hard_correlation_match(x, copies) == pytest.approx(0.5)
    assert s.soft_correlation_match(x, copies) == pytest.approx((0.5 + 1) / 2)
    assert s.hard_correlation_match(e[:, :1], -e[:, :1]) == pytest.approx(-1)
    assert s.soft_correlation_match(e[:, :1], -e[:, :1]) == pytest.approx(-1)
    assert s.hard_correlation_match(e, 7 * e[:, [2, 0]]) == pytest.approx(1)


def test_dead_units_match_nothing():
    x, _ = pair()
    dead = x.copy()
    dead[:, 2] = 0.1
    assert s.hard_correlation_match(dead, dead) == pytest.approx(5 / 6)
    assert s.soft_correlation_match(dead, dead) == pytest.approx((5 + 0) / 6)
    assert s.hard_correlation_match(np.column_stack([x, dead[:, 2]]), x) == pytest.approx(1)


def test_soft_matching_does_not_count_copies():
    x, y = pair(3, 2)
    assert s.soft_matching(x, np.repeat(x, 2, axis=1)) == pytest.approx(0, abs=1e-6)
    assert s.soft_matching(x, x[:, ::-1] + 5) == pytest.approx(0, abs=1e-6)
    single, two = x[:, :1] - x[:, :1].mean(), y - y.mean(axis=0)
    expected = math.sqrt(((single - two) ** 2).sum(axis=0).mean())  # there is but one way
    assert s.soft_matching(x[:, :1], y) == pytest.approx(expected)
    far, near = s.soft_matching(np.repeat(x, 3, axis=1), y), s.soft_matching(x, y)
    assert far == pytest.approx(near)


@pytest.mark.parametrize(("p", "q"), [(6, 6), (5, 7), (7, 5), (4, 8), (1, 3)])
def test_transport_costs(p, q):
    """The linear program, and the assignment of as many copies as make the masses equal."""
    costs = 1e3 * np.random.default_rng(p + q).random((p, q))
    found = transport_cost(torch.from_numpy(costs))
    copies = np.repeat(np.repeat(costs, q, axis=0), p, axis=1)
    assert found == pytest.approx(copies[linear_sum_assignment(copies)].mean(), rel=1e-7)
    sums = np.vstack([np.kron(np.eye(p), np.ones(q)), np.kron(np.ones(p), np.eye(q))])
    masses = np.repeat([1 / p, 1 / q], [p, q])
    assert found == pytest.approx(linprog(costs.ravel(), A_eq=sums, b_eq=masses).fun, rel=1e-6)


# Single representations


def test_statistics_of_known_points():
    x, y = np.array([[3.0, 4], [3, 4], [0, 0]]), np.array([[1.0, 0], [0, 1], [0, 0]])
    assert s.magnitude(x, y) == pytest.approx(10 / 3 - math.sqrt(2) / 3)
    assert s.concentricity(x, y) == pytest.approx(2 / 3 - math.sqrt(2) / 3)
    near, far = np.array([[0.0], [0.5]]), np.array([[0.0], [2]])
    own, other = (math.log((1 + math.exp(-2 * d**2)) / 2) for d in (0.5, 2))
    assert s.uniformity(near, far) == pytest.approx(own - other)
    line, corner = np.array([[1.0, 0], [3, 0], [-1, 0]]), np.array([[1.0, 0], [0, 4], [0, 2]])
    own = math.log((3 + 2 + 4 * math.exp(-2 * 4)) / 9)
    other = math.log((3 + 2 + 4 * math.exp(-2 * 2)) / 9)
    assert s.sphere_uniformity(line, corner) == pytest.approx(other - own)


def test_the_heat_trace_of_cliques():
    """Six rows far from all others are joined all with all: eigenvalues 0 and five times 6/5."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(18, 3)) + 100 * np.repeat(np.eye(3), 6, axis=0)
    form = HeatTrace.prepared(Channels(torch.from_numpy(rows)), Settings())
    torch.testing.assert_close(form.trace, 3 + 15 * (-1.2 * TIMES).exp())
    pairs = np.repeat(rows[::2], 2, axis=0)  # copies are joined, too
    assert s.imd(rows, pairs) < s.imd(rows, rng.normal(size=(18, 3)))
    assert s.imd(rows, rows[rng.permutation(18)]) == pytest.approx(0, abs=1e-12)
