"""The measures of `compare` against SciPy, NumPy and brute force in float64, and their laws."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from scipy.special import expit, softmax
from torch import Tensor

from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.data import Split
from robust_stitching.graphs.layout import Layout
from robust_stitching.similarity import (
    MEASURES,
    cca,
    cka,
    compare,
    debiased_cka,
    disagreement,
    jensen_shannon,
    minibatch_cka,
    mutual_knn,
    procrustes,
    regression,
    rows,
    squared_cca,
    svcca,
)
from robust_stitching.similarity.forms import Channels
from robust_stitching.similarity.measures import neighbours as knn
from robust_stitching.similarity.measures.linear import canonical_correlations
from robust_stitching.similarity.rows import channel_means

N = 400
LAYERS1, LAYERS2 = ["conv1", "pool2", "relu3", "fc3"], ["relu1", "fc2"]
SUBSPACES = [cca, squared_cca, svcca, regression]


def pair(n: int = N, p: int = 12, q: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two float64 representations that share a part."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=g).double() * torch.linspace(0.2, 3, p) + 5
    noise = torch.randn(n, q, generator=g).double()
    return x, x @ torch.randn(p, q, generator=g).double() / p + noise


def rotation(p: int, seed: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(p, p, generator=g).double())[0]


def hsic(x, y) -> float:
    """Song et al. (2012), equation 5, with whole matrices."""
    k, m = (np.asarray(v.flatten(1).double()) @ np.asarray(v.flatten(1).double()).T for v in (x, y))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    n, one = len(k), np.ones(len(k))
    last = 2 / (n - 2) * (one @ k @ m @ one)
    middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - last) / (n * (n - 3))


def dense_debiased(x, y) -> float:
    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


def dense_minibatch(x, y, size: int) -> float:
    """Nguyen, Raghu and Kornblith (2021), equation 3, batches weighted by their images."""
    parts = [
        [len(a) * hsic(s, t) for s, t in ((a, b), (a, a), (b, b))]
        for a, b in zip(x.split(size), y.split(size), strict=True)
        if len(a) >= 4
    ]
    xy, xx, yy = np.sum(parts, axis=0)
    return xy / math.sqrt(xx * yy)


def dense_cka(x, y) -> float:
    k, m = (np.asarray(v.flatten(1).double()) for v in (x, y))
    k, m = ((r - r.mean(0)) @ (r - r.mean(0)).T for r in (k, m))
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def centred(x) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    return x - x.mean(0)


def cosines(x, y) -> np.ndarray:
    """Canonical correlations as cosines of the angles between the spans of the columns."""
    spans = [scipy.linalg.orth(centred(side), rcond=1e-5) for side in (x, y)]
    return np.cos(scipy.linalg.subspace_angles(*spans))


def principal(x) -> np.ndarray:
    """Scores on the fewest principal components with 99% of the variance."""
    u, s, _ = np.linalg.svd(centred(x), full_matrices=False)
    kept = np.searchsorted(np.cumsum(s**2) / np.sum(s**2), 0.99) + 1
    return u[:, :kept] * s[:kept]


def dense_procrustes(x, y) -> float:
    x, y = (centred(side) / np.linalg.norm(centred(side)) for side in (x, y))
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (x, y))
    best, _ = scipy.linalg.orthogonal_procrustes(x, y)
    return np.linalg.norm(x @ best - y) ** 2


def dense_regression(x, y) -> float:
    design = np.column_stack([np.asarray(x), np.ones(len(x))])
    residual = np.asarray(y) - design @ np.linalg.lstsq(design, np.asarray(y), rcond=1e-8)[0]
    return 1 - (residual**2).sum() / (centred(y) ** 2).sum()


def brute_neighbours(x, k: int) -> list[set[int]]:
    x = np.asarray(x, dtype=np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = []
    for i in range(len(x)):
        by_nearness = sorted((-round(float(x[i] @ x[j]), 12), j) for j in range(len(x)) if j != i)
        found.append({j for _, j in by_nearness[:k]})
    return found


def brute_mutual(x, y, k: int) -> float:
    sides = (brute_neighbours(side, k) for side in (x, y))
    return float(np.mean([len(a & b) / k for a, b in zip(*sides, strict=True)]))


DENSE = {
    "cka": dense_cka,
    "debiased-cka": dense_debiased,
    "procrustes": dense_procrustes,
    "cca": lambda x, y: cosines(x, y).mean(),
    "squared-cca": lambda x, y: (cosines(x, y) ** 2).mean(),
    "svcca": lambda x, y: cosines(principal(x), principal(y)).mean(),
    "regression": dense_regression,
}


# CKA without bias


@pytest.mark.parametrize("n", [4, 5, 60, N])
@pytest.mark.parametrize("offset", [0, 300])
def test_debiased_cka_is_the_dense_formula(n, offset):
    x, y = pair(n, 30, 20)
    x = x.float() + offset
    expected = dense_debiased(x.double() - offset, y.float())  # large numbers would cancel
    assert debiased_cka(x, y.float()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [40, 150, 133])
def test_minibatch_cka_is_the_dense_formula(size):
    """Also with a smaller last batch; 400 = 3·133 + 1 leaves one that is left out."""
    x, y = pair()
    assert minibatch_cka(x, y, batch_size=size) == pytest.approx(
        dense_minibatch(x, y, size), abs=1e-6
    )


def test_minibatch_cka_of_one_batch_is_the_debiased_one():
    x, y = pair()
    assert minibatch_cka(x, y, batch_size=N) == pytest.approx(debiased_cka(x, y), abs=1e-7)


def test_neither_is_biased_where_the_biased_estimate_is():
    """Of independent Gaussians the biased CKA is about p/(n + p), here a half."""
    values = {debiased_cka: [], minibatch_cka: [], cka: []}
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        x, y = torch.randn(2, 96, 96, generator=g)
        values[debiased_cka].append(debiased_cka(x, y))
        values[minibatch_cka].append(minibatch_cka(x, y, batch_size=16))
        values[cka].append(cka(x, y))
    for estimate in (debiased_cka, minibatch_cka):
        error = np.std(values[estimate]) / math.sqrt(40)
        assert abs(np.mean(values[estimate])) < 4 * error < 0.05
    assert np.mean(values[cka]) > 0.4


@pytest.mark.parametrize(
    "estimate", [debiased_cka, lambda x, y: minibatch_cka(x, y, batch_size=100)]
)
def test_unbiased_cka_does_not_see_rotation_shift_and_scale(estimate):
    x, y = pair()
    assert estimate(x, x) == pytest.approx(1)
    assert estimate(x, -3 * x @ rotation(12) + 2) == pytest.approx(1, abs=1e-6)
    assert estimate(x, y) == pytest.approx(estimate(y, x), abs=1e-12)
    assert estimate(x @ rotation(12), 1e3 * y) == pytest.approx(estimate(x, y), abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_cka_with_something_constant_is_not_defined(value):
    x, _ = pair()
    constant = torch.full((N, 3), value)
    assert math.isnan(debiased_cka(x, constant)) and math.isnan(cka(constant, x))
    assert math.isnan(minibatch_cka(x, constant, batch_size=100))
    with_x = torch.cat([x, constant], dim=1)
    assert debiased_cka(x, with_x) == pytest.approx(1, abs=1e-6)


# Subspaces


@pytest.mark.parametrize(("p", "q"), [(12, 7), (7, 12), (9, 9), (1, 4)])
@pytest.mark.parametrize("name", ["procrustes", "cca", "squared-cca", "svcca", "regression"])
def test_subspaces_against_scipy(name, p, q):
    x, y = pair(p=p, q=q)
    found = MEASURES[name].value(Channels(x), Channels(y))
    assert found == pytest.approx(DENSE[name](x, y), abs=1e-6)


@pytest.mark.parametrize("name", ["procrustes", "cca", "squared-cca", "svcca", "regression"])
def test_dead_and_repeated_channels_carry_nothing_new(name):
    x, y = pair()
    dead = torch.full((N, 2), 0.1, dtype=torch.float64)
    dead[::3] += 2**-27
    more = torch.cat([x, dead, x[:, :3]], dim=1)
    measure = MEASURES[name].value
    found = measure(Channels(more), Channels(y))
    if name in ("procrustes", "svcca"):  # they weigh directions by their variance
        assert found == pytest.approx(DENSE[name](torch.cat([x, x[:, :3]], 1), y), abs=1e-6)
    else:
        assert found == pytest.approx(measure(Channels(x), Channels(y)), abs=1e-6)


def test_canonical_correlations_are_planted_ones():
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(centred_tensor(torch.randn(N, 6, generator=g).double()))[0]
    planted = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    y = planted * basis[:, :3] + (1 - planted**2).sqrt() * basis[:, 3:]
    mixed = y @ torch.randn(3, 3, generator=g).double()
    found = canonical_correlations(Channels(1e3 * basis[:, :3]), Channels(mixed + 4))
    torch.testing.assert_close(found, planted)


def centred_tensor(x: Tensor) -> Tensor:
    return x - x.mean(dim=0)


def test_procrustes_is_a_distance_up_to_rotation_shift_and_scale():
    x, y = pair()
    moved = 7 * x @ rotation(12) - 3
    assert procrustes(x, moved) == pytest.approx(0, abs=1e-12)
    assert procrustes(x, y) == pytest.approx(procrustes(y, moved), abs=1e-12)
    basis = torch.linalg.qr(centred_tensor(torch.randn(N, 8).double()))[0]
    halves = (basis[:, :4], basis[:, 4:])
    assert procrustes(*halves) == pytest.approx(2)  # nothing in common


@pytest.mark.parametrize("measure", SUBSPACES)
def test_subspaces_of_the_same_thing(measure):
    x, y = pair()
    assert measure(x, x) == pytest.approx(1)
    if measure is not svcca:  # rotations and scales of all channels alike are all that it ignores
        skewed = x * torch.linspace(0.1, 9, 12)
        assert measure(skewed, x) == pytest.approx(1)
    assert measure(3 * x @ rotation(12), y) == pytest.approx(measure(x, y))
    if measure is not regression:
        assert measure(x, y) == pytest.approx(measure(y, x))


@pytest.mark.parametrize("measure", SUBSPACES)
@pytest.mark.parametrize("n", [12, 5])
def test_subspaces_need_more_images_than_channels(measure, n):
    x, y = pair(n)
    with pytest.raises(ValueError, match=rf"needs more rows than channels, but x is \({n}, 12\)"):
        measure(x, y)
    name = measure.__name__.replace("_", "-")
    with pytest.raises(ValueError, match=f"{n} rows are too few for 12 channels"):
        MEASURES[name].value(Channels(x), Channels(y))


@pytest.mark.parametrize("measure", [procrustes, *SUBSPACES])
def test_subspaces_of_something_constant_are_not_defined(measure):
    x, _ = pair()
    for y in (torch.zeros(N, 3), torch.full((N, 3), 0.1)):
        assert math.isnan(measure(x, y))


def test_channel_means():
    maps = torch.rand(5, 3, 4, 6)
    torch.testing.assert_close(channel_means(maps, Layout(3, (4, 6))), maps.flatten(2).mean(2))
    tokens = torch.rand(5, 8, 3)
    found = channel_means(tokens, Layout(3, (2, 3), prefix=2))
    torch.testing.assert_close(found, tokens[:, 2:].transpose(1, 2).mean(2))
    assert torch.equal(channel_means(maps[:, :, 0, 0], Layout(3)), maps[:, :, 0, 0])


# Neighbours


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("block", [1000, 70])
def test_mutual_neighbours_are_those_of_brute_force(monkeypatch, k, block):
    monkeypatch.setattr(knn, "BLOCK", block)
    x, y = pair(150)
    for side in (x, y):
        shares = knn.nearest(side, k)[0].toarray()
        assert [set(row.nonzero()[0]) for row in shares] == brute_neighbours(side, k)
        assert set(np.unique(shares)) == {0, 1}
    assert mutual_knn(x, y, k=k) == pytest.approx(brute_mutual(x, y, k), abs=1e-12)


def drawn_neighbours(x, k: int, seed: int) -> np.ndarray:
    """Which k are nearest to each, ties broken at random, of shape (n, n)."""
    x = x.double().numpy()
    length = np.linalg.norm(x, axis=1)
    cosine = (x / np.where(length > 0, length, 1)[:, None]).round(9)
    alike = (cosine @ cosine.T).round(9)
    np.fill_diagonal(alike, -np.inf)
    chance = np.random.default_rng(seed).random(alike.shape)
    order = np.lexsort((chance, -alike), axis=1)[:, :k]
    found = np.zeros(alike.shape)
    np.put_along_axis(found, order, 1, axis=1)
    return found


def tied(kind: str):
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(2, 120, 6, generator=g)
    if kind == "copies":
        return torch.cat([x[:30]] * 4), y
    if kind == "half dead":
        x[::2], y[1::2] = 0, 0
    elif kind == "dead alike":
        x[:60], y[:60] = 0, 0
    elif kind == "one alive":
        x, y = (F.one_hot(v.argmax(1), 6) * v.abs() for v in (x, y))
    return x, y


@pytest.mark.parametrize("kind", ["copies", "half dead", "dead alike", "one alive"])
def test_ties_among_neighbours_count_as_expected(kind):
    """The mean over many ways to break them."""
    x, y = tied(kind)
    expected = np.mean(
        [
            (drawn_neighbours(x, 8, 2 * s) * drawn_neighbours(y, 8, 2 * s + 1)).sum() / (120 * 8)
            for s in range(150)
        ]
    )
    found = mutual_knn(x.float(), y.float(), k=8)
    assert found == pytest.approx(expected, abs=0.004)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(3))
    again = mutual_knn(x[order].float(), y[order].float(), k=8)
    assert again == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("columns", [1, 5])
def test_rows_along_one_line_have_no_neighbours(columns):
    g = torch.Generator().manual_seed(0)
    direction = torch.randn(columns, generator=g)
    along = torch.randn(50, 1, generator=g) * direction
    assert knn.on_a_line(along) and knn.on_a_line(along * (torch.arange(50) > 20)[:, None])
    assert knn.on_a_line(torch.zeros(50, columns)) and knn.on_a_line(along.abs())
    assert knn.on_a_line(along + (torch.arange(50) == 3)[:, None] * torch.ones(columns)) is (
        columns == 1
    )


def test_laws_of_neighbours():
    x, y = pair(200)
    assert mutual_knn(x, x) == 1
    assert mutual_knn(x, y) == mutual_knn(y, x)
    shares, *_ = knn.nearest(x, 10)
    assert (knn.nearest(5 * x @ rotation(12), 10)[0] != shares).nnz == 0
    assert shares.diagonal().sum() == 0
    g = torch.Generator().manual_seed(1)
    unrelated = torch.randn(2, 1500, 8, generator=g)
    assert mutual_knn(*unrelated, k=30) == pytest.approx(30 / 1499, rel=0.1)
    with pytest.raises(ValueError, match="each of 200 images has 199 neighbours, not 200"):
        knn.nearest(x, 200)


# Positions


def plain_rows(x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """All positions of maps (N, C, H, W) averaged onto a grid, as rows."""
    x = F.adaptive_avg_pool2d(x, grid) if x.ndim == 4 else x[:, :, None, None]
    return x.flatten(2).transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("name", ["procrustes", "cca", "regression", "mutual-knn"])
def test_all_positions_are_rows_on_the_coarser_grid(name):
    networks, split = (lenet(0), lenet(1)), some_images(40)
    layers = (["pool1", "relu3"], ["relu2", "pool2"])
    found = compare(*networks, split, *layers, [name], positions="all").layerwise[name]
    grids = [[(10, 10), (5, 5)], [(1, 1), (1, 1)]]
    for i, first in enumerate(layers[0]):
        for j, second in enumerate(layers[1]):
            if name != "procrustes" and i == 1:
                continue  # 120 channels of 40 rows
            x, y = seen(networks[0], first, split), seen(networks[1], second, split)
            x, y = (plain_rows(side, grids[i][j]) for side in (x, y))
            dense = DENSE.get(name, lambda x, y: brute_mutual(x, y, 10))
            assert found[i, j].item() == pytest.approx(dense(x, y), abs=1e-5)


def test_many_positions_are_a_random_choice_and_the_seed_decides(monkeypatch):
    networks, split = (lenet(0), lenet(1)), some_images(60)
    settings = {"measures": ["procrustes"], "positions": "all"}
    every = compare(*networks, split, ["relu1"], ["relu1"], **settings)
    monkeypatch.setattr(rows, "MOST_ROWS", 600)
    few = [compare(*networks, split, ["relu1"], ["relu1"], seed=s, **settings) for s in (0, 0, 1)]
    value, again, other = (found.layerwise["procrustes"].item() for found in few)
    assert value == again != other
    assert value == pytest.approx(every.layerwise["procrustes"].item(), abs=0.05)
    assert "600 in all, chosen at random" in few[0].estimators["procrustes"]
    with pytest.raises(UserError, match=r"choice of positions 'some'.*pooled, all"):
        compare(*networks, split, positions="some")


# Outputs


def test_jensen_shannon_is_scipys_squared():
    g = torch.Generator().manual_seed(0)
    first, second = 5 * torch.randn(2, 300, 7, generator=g)
    p, q = (softmax(side.double().numpy(), axis=1) for side in (first, second))
    expected = (jensenshannon(p, q, axis=1) ** 2).mean()
    assert jensen_shannon(first, second) == pytest.approx(expected, abs=1e-10)
    assert jensen_shannon(second, first) == pytest.approx(expected, abs=1e-10)
    assert jensen_shannon(first, first + 8) == pytest.approx(0, abs=1e-7)
    assert jensen_shannon(first, first + 1e-6 * second) >= 0  # no rounding below zero
    sure = 1e4 * torch.eye(3)
    assert jensen_shannon(sure, sure.flip(1)) == pytest.approx(2 / 3 * math.log(2), abs=1e-12)
    differ = np.mean(p.argmax(1) != q.argmax(1))
    assert disagreement(first, second) == pytest.approx(differ) and 0 < differ < 1


def test_outputs_of_multi_label_networks():
    g = torch.Generator().manual_seed(0)
    first, second = 3 * torch.randn(2, 100, 4, generator=g)
    p, q = (expit(side.double().numpy()) for side in (first, second))
    pairs = (np.stack([side, 1 - side], axis=-1) for side in (p, q))
    expected = (jensenshannon(*pairs, axis=-1) ** 2).mean()
    assert jensen_shannon(first, second, multi_label=True) == pytest.approx(expected, abs=1e-10)
    differ = np.mean((p > 0.5) != (q > 0.5))
    assert disagreement(first, second, multi_label=True) == pytest.approx(differ)


def test_outputs_on_data_with_attributes():
    split, networks = some_images(30), (lenet(0), lenet(1))
    split = replace(split, labels=torch.ones(30, 10, dtype=torch.int64))
    found = compare(*networks, split, ["fc3"], ["fc3"], ["disagreement", "jensen-shannon"])
    first, second = (seen(network, "fc3", split) for network in networks)
    assert found.outputs == {
        "disagreement": pytest.approx(((first > 0) != (second > 0)).double().mean().item()),
        "jensen-shannon": pytest.approx(jensen_shannon(first, second, multi_label=True), abs=1e-6),
    }
    assert "attributes" in found.estimators["disagreement"]
    assert "sigmoid" in found.estimators["jensen-shannon"]


# All at once


def lenet(seed: int, classes: int = 10):
    return models.build("lenet", num_classes=classes, in_channels=1, seed=seed)


def some_images(n: int) -> Split:
    g = torch.Generator().manual_seed(5)
    images = torch.randint(256, (n, 1, 32, 32), generator=g, dtype=torch.uint8)
    return Split("Some", images, torch.randint(10, (n,), generator=g), tuple("0123456789"))


def seen(network, layer: str, split: Split) -> Tensor:
    """Float64 activations by a forward hook."""
    kept = []
    handle = network.get_submodule(layer).register_forward_hook(lambda m, x, out: kept.append(out))
    with torch.no_grad():
        network(split.images / 255)
    handle.remove()
    return kept[0].double()


@pytest.fixture(scope="module")
def compared():
    split, networks = some_images(190), (lenet(0), lenet(1))
    found = compare(*networks, split, LAYERS1, LAYERS2, ["all"], batch_size=60, k=3)
    return split, networks, found


@pytest.mark.parametrize("name", [*DENSE, "mutual-knn"])
def test_every_pair_of_layers_against_the_dense_formulas(compared, name):
    split, networks, found = compared
    assert found.n_images[name] == 190
    for i, first in enumerate(LAYERS1):
        for j, second in enumerate(LAYERS2):
            x, y = seen(networks[0], first, split), seen(networks[1], second, split)
            if "cka" not in name:
                x, y = (side.flatten(2).mean(2) if side.ndim == 4 else side for side in (x, y))
            dense = DENSE.get(name, lambda x, y: brute_mutual(x, y, 3))
            assert found.layerwise[name][i, j].item() == pytest.approx(dense(x, y), abs=1e-6)


def test_minibatch_cka_of_shuffled_batches(compared):
    split, networks, found = compared
    order = torch.cat([labels for _, labels in numbered(split).epoch(60, seed=0, epoch=0)])
    assert not torch.equal(order, torch.arange(190))
    x, y = seen(networks[0], "pool2", split)[order], seen(networks[1], "relu1", split)[order]
    expected = dense_minibatch(x, y, 60)
    assert found.layerwise["minibatch-cka"][1, 0].item() == pytest.approx(expected, abs=1e-6)
    assert found.n_images["minibatch-cka"] == 190
    assert "random batches of 60" in found.estimators["minibatch-cka"]


def numbered(split: Split) -> Split:
    return Split(split.name, split.images, torch.arange(len(split)), split.classes)


def test_outputs_of_compare(compared):
    split, networks, found = compared
    first, second = (seen(network, "fc3", split) for network in networks)
    assert found.outputs == {
        "disagreement": pytest.approx(disagreement(first, second)),
        "agreement": pytest.approx(1 - disagreement(first, second)),
        "jensen-shannon": pytest.approx(jensen_shannon(first, second), abs=1e-6),
    }
    assert [m.name for m in found.measures] == list(MEASURES) and found.notes == ()


def test_a_network_is_like_itself():
    network, split = lenet(0).train(), some_images(150)
    found = compare(network, network, split, ["relu1", "fc2"], ["relu1", "fc2"], ["all"])
    for name, values in found.layerwise.items():
        error = (values.diagonal() - MEASURES[name].same).abs().max()
        assert error < (1e-5 if name.startswith("gulp") else 1e-7)  # roots of what nearly cancels
    assert found.outputs["disagreement"] == 0 == found.outputs["jensen-shannon"]
    assert network.training and network.conv1.training


def test_layers_are_the_clean_cuts_by_default_each_once():
    network = models.build("resnet_w1", num_classes=10, in_channels=1, seed=0)
    found = compare(network, network, some_images(12), measures=["minibatch-cka"])
    assert found.layers1 == found.layers2
    assert {"conv1", "layer1.0.add", "layer3.2.relu_1", "fc"} <= set(found.layers1)
    assert not {"layer1", "layer1.0", "layer1.0.conv1", "layer1.0.bn2"} & set(found.layers1)


def test_what_is_not_defined_says_why():
    first, second = lenet(0), lenet(1)
    with torch.no_grad():
        second.fc1.bias.fill_(-1e3)  # every ReLU behind it is dead
    found = compare(first, second, some_images(100), ["fc1", "fc2"], ["relu3", "fc2"], ["all"])
    wide, also_wide, constant = found.notes
    names = [
        ", ".join(m.name for m in found.measures if number in m.more_rows_than) for number in (1, 2)
    ]
    assert wide.startswith(f"{names[0]}: no value for layers of model 1")
    assert wide.endswith("than there are images (100): fc1.")
    assert also_wide.startswith(f"{names[1]}: no value for layers of model 2")
    for name in ("cca", "squared-cca", "svcca", "regression", "pwcca", "gulp-0"):
        assert found.layerwise[name].isnan().all(dim=1).tolist() == [True, True]
    assert "relu3 of model 2" in constant and "fc2 of model 2" in constant
    for name in ("cka", "debiased-cka", "minibatch-cka", "procrustes", "mutual-knn"):
        assert found.layerwise[name][:, 0].isnan().all()


def test_neighbours_in_one_channel_are_not_defined():
    networks, layers = (lenet(0), lenet(1)), ["normalize", "conv1"]
    found = compare(*networks, some_images(30), layers, layers, ["mutual-knn", "cca"])
    missing = found.layerwise["mutual-knn"].isnan().tolist()
    assert missing == [[True, True], [True, False]]
    assert not found.layerwise["cca"].isnan().any()
    (note,) = found.notes
    assert note.endswith("single channel: normalize of model 1, normalize of model 2.")


def test_networks_with_other_classes_have_no_outputs_to_compare():
    networks, split = (lenet(0), lenet(1, classes=7)), some_images(60)
    found = compare(*networks, split, ["fc2"], ["fc2"], ["procrustes", "disagreement"])
    assert found.outputs == {} and set(found.layerwise) == {"procrustes"}
    assert found.notes == ("Model 1 has 10 outputs and model 2 7: disagreement is left out.",)
    with pytest.raises(UserError, match="nothing can be compared"):
        compare(*networks, split, measures=["disagreement"])


@pytest.mark.parametrize(
    ("n", "settings", "reason"),
    [
        (50, {"layers1": ["conv9"]}, "unknown layer of model 1 'conv9'; did you mean conv"),
        (50, {"layers2": ["rel1"]}, "unknown layer of model 2 'rel1'; did you mean relu1"),
        (50, {"measures": ["ckaa"]}, "unknown measure 'ckaa'; did you mean cka"),
        (50, {"measures": ["svcca"], "layers1": ["fc1"]}, "svcca needs more images than channels"),
        (50, {"measures": ["minibatch-cka"], "batch_size": 3}, "at least 4 images, not 3"),
        (3, {"measures": ["debiased-cka"]}, "at least 4 images, not 3"),
        (11, {"measures": ["mutual-knn"]}, "mutual-knn needs at least 12 images for 10"),
        (1, {"measures": ["procrustes"]}, "1 image is too few"),
    ],
)
def test_mistakes(n, settings, reason):
    with pytest.raises(UserError, match=reason):
        compare(lenet(0), lenet(1), some_images(n), **settings)


def test_a_broken_network_is_refused():
    broken = lenet(1)
    with torch.no_grad():
        broken.conv2.bias[0] = float("nan")
    for measure in ("minibatch-cka", "cka", "procrustes"):
        with pytest.raises(UserError, match="layer 'conv2' of model 2 has values that are no"):
            compare(lenet(0), broken, some_images(20), measures=[measure])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("measure", [disagreement, jensen_shannon])
def test_answers_that_are_no_numbers_are_not_compared(measure, value):
    logits = torch.randn(5, 3)
    broken = logits.clone()
    broken[2, 1] = value
    for pair in ((logits, broken), (broken, logits)):
        with pytest.raises(ValueError, match="NaN or infinite"):
            measure(*pair)
    network = lenet(0)
    with torch.no_grad():
        network.fc3.bias[1] = value
    with pytest.raises(UserError, match="model 2 answers with values that are no finite numbers"):
        compare(lenet(1), network, some_images(20), ["relu1"], ["relu1"], ["disagreement"])
