"""In or out of distribution: the statistics, their covariance, the area and its interval."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from robust_stitching import checkpoints, models
from robust_stitching.evaluation.auroc import auroc_of
from robust_stitching.graphs import graph
from robust_stitching.graphs.layout import Layout
from robust_stitching.plans import Measurement, stitching
from robust_stitching.stitching import ood
from robust_stitching.stitching.measure import measure_on
from robust_stitching.stitching.ood import (
    Distances,
    ledoit_wolf,
    statistics_of,
    typical_at,
    typical_of,
)
from robust_stitching.stitching.record import as_record
from robust_stitching.stitching.run import stitch


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the area under the curve ---


@pytest.mark.parametrize("shift", [0, 0.5, 2])
def test_the_area_is_that_of_scikit_learn(shift):
    """Also where scores are equal."""
    own = randn(200).mul(4).round() / 4
    far = randn(200, seed=1).mul(4).round() / 4 + shift
    expected = roc_auc_score([0] * 200 + [1] * 200, torch.cat([own, far]).numpy())
    assert auroc_of(far, own).value == pytest.approx(expected, abs=1e-12)
    assert auroc_of(own, far).value == pytest.approx(1 - expected, abs=1e-12)


def test_the_same_scores_are_certainly_alike():
    assert auroc_of(randn(50), randn(50)) == (0.5, (0.5, 0.5))
    assert auroc_of(torch.ones(9), torch.ones(9)) == (0.5, (0.5, 0.5))


def test_what_is_wholly_apart_is_known_as_well_as_there_are_images():
    area, (low, high) = auroc_of(randn(100) + 50, randn(100))
    assert area == high == 1 and 0.9 < low < 0.97
    area, (low, high) = auroc_of(randn(100) - 50, randn(100))
    assert area == low == 0 and 0.03 < high < 0.1
    assert auroc_of(torch.tensor([2.0]), torch.tensor([1.0])) == (1, (0, 1))
    infinite = torch.full((100,), torch.inf, dtype=torch.float64)
    assert auroc_of(infinite, randn(100)).value == 1


@pytest.mark.parametrize("shift", [0, 1.5, 3])
@pytest.mark.parametrize("correlation", [0, 0.8, -0.5])
def test_the_interval_covers_the_truth(shift, correlation):
    """In 95 of 100 cases, whether the two scores of an image depend on each other or not."""
    true = 0.5 * (1 + math.erf(shift / 2))
    hits, runs = 0, 500
    pairs = randn(runs, 2, 120, seed=3)
    for one, other in pairs:
        scores = correlation * one + math.sqrt(1 - correlation**2) * other + shift
        low, high = auroc_of(scores, one).interval
        hits += low <= true <= high
    assert 0.91 < hits / runs < 0.985


# --- what the end makes ---


@pytest.mark.parametrize("n, p", [(50, 80), (500, 20), (30, 30)])
def test_the_covariance_is_shrunk_as_by_scikit_learn(n, p):
    rows = randn(n, p) @ randn(p, p, seed=1)
    rows -= rows.mean(dim=0)
    expected = LedoitWolf(assume_centered=True).fit(rows.numpy())
    covariance, share = ledoit_wolf(rows)
    assert share == pytest.approx(expected.shrinkage_, rel=1e-9)
    shrunk = (1 - share) * covariance.numpy()
    shrunk += share * np.trace(covariance) / p * np.eye(p)
    np.testing.assert_allclose(shrunk, expected.covariance_, rtol=1e-9, atol=1e-12)


def test_statistics_are_means_and_second_moments_of_channels():
    maps = randn(4, 3, 5, 5).float()
    found = statistics_of(maps, Layout(3, (5, 5)))
    expected = torch.cat([maps.double().mean((2, 3)), maps.double().square().mean((2, 3))], dim=1)
    assert torch.allclose(found, expected, atol=1e-6) and found.dtype == torch.float64
    vectors = maps[:, :, 0, 0]
    assert torch.allclose(
        statistics_of(vectors, Layout(3)), torch.cat([vectors, vectors**2], dim=1).double()
    )
    tokens = randn(4, 10, 3).float()
    found = statistics_of(tokens, Layout(3, (3, 3), prefix=1))
    assert found.shape == (4, 12)
    assert torch.allclose(found[:, :3], tokens[:, 1:].double().mean(1), atol=1e-6)
    assert torch.allclose(found[:, 6:9], tokens[:, 0].double(), atol=1e-6)


def test_the_distance_is_that_of_mahalanobis():
    """In whatever units statistics are measured."""
    rows = randn(400, 6) @ randn(6, 6, seed=1) + 3
    deviation = rows.std(dim=0, correction=0)
    expected = LedoitWolf().fit((rows / deviation).numpy())
    seen = randn(50, 6, seed=2)
    units = torch.tensor([1.0, 1000, 1, 0.001, 1, 1], dtype=torch.float64)
    for factor in (1, units):
        found = typical_of(rows * factor, 3).distances(seen * factor)
        np.testing.assert_allclose(
            found, expected.mahalanobis((seen / deviation).numpy()), rtol=1e-8
        )


def far_of(activations, own, train, layout):
    """The area for activations beside those of the end, its training activations given."""
    typical = typical_of(statistics_of(train, layout), layout.channels)
    looking = Distances(typical, layout, ["end", "mapped"], "end", ["mapped"])
    for at in range(0, len(own), 64):
        part = slice(at, at + 64)
        looking.take(type("Batch", (), {"activations": [own[part], activations[part]]}))
    return looking.found()["mapped"]


SHAPES = [
    pytest.param(Layout(8, (4, 4)), id="maps"),
    pytest.param(Layout(8), id="vectors"),
    pytest.param(Layout(8, (4, 4), prefix=1), id="tokens"),
    pytest.param(Layout(1, (4, 4)), id="one channel"),
]


def like(layout, n, seed):
    """Activations whose channels differ, and vary from image to image."""
    noise = randn(n, *layout.shape, seed=seed).relu()
    scale = torch.linspace(0.5, 3, layout.channels, dtype=torch.float64)
    strength = 1 + 0.3 * randn(n, layout.channels, seed=seed + 1)
    factor = scale * strength
    if layout.prefix:
        return (noise * factor[:, None]).float()
    return (noise * factor.view(n, -1, *[1] * (noise.ndim - 2))).float()


@pytest.mark.parametrize("layout", SHAPES)
def test_truths(layout):
    train, own, again = (like(layout, n, seed) for n, seed in ((600, 0), (300, 2), (300, 4)))
    itself = far_of(own, own, train, layout).auroc
    assert itself == (0.5, (0.5, 0.5))
    low, high = far_of(again, own, train, layout).auroc.interval
    assert low - 0.02 < 0.5 < high + 0.02
    vector = layout.grid is None or layout.channels == 1
    assert far_of(2 * own, own, train, layout).auroc.value > (0.75 if vector else 0.95)
    assert far_of(own + 10, own, train, layout).auroc.value == 1
    assert far_of(torch.full_like(own, torch.nan), own, train, layout).auroc.value == 1
    middle = train.mean(dim=0).expand(len(own), *layout.shape)
    if layout.grid is None:
        assert far_of(middle, own, train, layout).auroc.value < 0.5
    if layout.channels > 1:
        permuted = own.flip(-1 if layout.prefix else 1)
        assert far_of(permuted, own, train, layout).auroc.interval[0] > 0.6


def test_a_dead_channel_that_lives_is_far_out():
    layout = Layout(8, (4, 4))
    train, own = like(layout, 600, 0), like(layout, 300, 2)
    train[:, 3] = own[:, 3] = 0
    assert far_of(own, own, train, layout).auroc.value == 0.5
    alive = own.clone()
    alive[:, 3] = 1
    assert far_of(alive, own, train, layout).auroc.value == 1
    barely = own.clone()
    barely[:, 3] = 1e-8
    assert far_of(barely, own, train, layout).auroc.value == pytest.approx(0.5, abs=0.01)


def test_what_cannot_be_told_has_a_reason():
    layout = Layout(4, (2, 2))
    own = like(layout, 20, 0)
    few = far_of(own, own, own[:9], layout)
    assert few.auroc is None and "9 training images are too few" in few.reason
    constant = far_of(own, own, torch.ones(50, *layout.shape), layout)
    assert constant.auroc is None and "do not vary" in constant.reason
    assert constant.as_dict() == {
        "auroc": None,
        "auroc_interval": None,
        "reason": constant.reason,
    }


def test_too_many_channels_are_told(digits, monkeypatch):
    network = models.build("lenet", num_classes=10, in_channels=1)
    monkeypatch.setattr(ood, "MOST_STATISTICS", 1)
    assert "2 statistics are too many" in typical_at(network, "normalize", digits[0])


# --- of networks ---


@pytest.fixture(scope="module")
def pair(tiny10s):
    return [checkpoints.load(path) for path in tiny10s]


def test_the_end_stitched_to_itself_by_the_identity_is_in_distribution(pair, digits):
    options = {"init": "eye", "lr": 1e-12, "no_bn": True, "no_robustness": True, "controls": True}
    plan = stitching("relu5", "relu5", epochs=1, random_fronts=1, noise_sigmas=(), **options)
    train, test = digits[0].between(0, 300), digits[1].between(0, 100)
    result = stitch(pair[1], pair[1], train, test, plan)
    found = as_record(result, "")["ood"]
    assert set(found) == {
        *("untrained", "stitched", "direct_matching", "self_stitch", "random_front")
    }
    assert found["untrained"] == {"auroc": 0.5, "auroc_interval": [0.5, 0.5]}
    for name in ("stitched", "self_stitch"):
        assert found[name]["auroc"] == pytest.approx(0.5, abs=0.01)
    assert found["random_front"]["auroc"] > 0.9


@pytest.mark.parametrize("factor, area", [(1, 0.5), (2, 1)])
def test_doubled_activations_are_far_out(pair, digits, factor, area):
    """Of the networks themselves, from the images on, against a formula in NumPy."""
    train, test = digits[0].between(0, 500), digits[1].between(0, 150)
    network = pair[1].network
    layout = graph.layout_of(network, "bn5")
    (seen,), (own,) = (
        graph.features(network, ["bn5"])(images / 255) for images in (train.images, test.images)
    )
    found = far_of(factor * own.detach(), own.detach(), seen.detach(), layout).auroc.value
    assert found == area if factor == 1 else found > 0.999
    assert typical_at(network, "bn5", train).mean.shape == (2 * layout.channels,)


def test_a_record_says_it_and_how(pair, digits):
    train, test = digits[0].between(0, 300), digits[1].between(0, 60)
    options = {"epochs": 1, "no_robustness": True, "similarity_images": 40}
    result = stitch(*pair, train, test, stitching("bn3", "bn5", **options), elsewhere=test)
    record = as_record(result, "")
    assert record["ood"] == record["elsewhere"]["ood"]
    for values in record["ood"].values():
        low, high = values["auroc_interval"]
        assert 0 <= low <= values["auroc"] <= high <= 1
    assert "Ledoit–Wolf" in record["estimators"]["ood"]
    assert "on 40 images" in record["estimators"]["ood"]
    assert "ood" not in record["stitched"]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    without = stitch(*pair, train, test, stitching("bn3", "bn5", no_pinv=True, **options))
    assert as_record(without, "")["ood"] is None


def test_nobody_has_to_look(pair, digits):
    cuts = {"front": (pair[0].network, "bn3"), "end": (pair[1].network, "bn3")}
    plan = Measurement(no_robustness=True)
    found = measure_on(digits[1].between(0, 30), cuts, plan=plan, seed=0)
    assert all(scores.ood is None for scores in found.scores.values())
