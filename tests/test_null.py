"""What similarities would be by chance, and how sure they are: against the measures themselves on
arrays that are permuted, or lack images, by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import robust_stitching as rs
from left_behind import only
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.layout import Layout
from robust_stitching.plans.settings import PERMUTATIONS
from robust_stitching.similarity import MEASURES, debiased_cka
from robust_stitching.similarity.arrays import between
from robust_stitching.similarity.doubts import Doubts
from robust_stitching.similarity.forms import Settings
from robust_stitching.similarity.jackknife import COVERAGE, QUANTILES, blocks_of, interval
from robust_stitching.similarity.measure import PAIRING
from robust_stitching.similarity.null import FEWEST, null_of, null_of_best, orders
from robust_stitching.similarity.stream import ArrayStream
from robust_stitching.similarity.values import values_of

N = 60
SETTINGS = {"batch_size": 25, "k": 5}


def sides(n=N, seed=0):
    """Two related representations of the same n images, with dead units and copies of an image."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=(n, 6)), 0)
    y = x @ rng.normal(size=(6, 6)) + 2 * rng.normal(size=(n, 6))
    x[:, 2] = 0
    x[5], y[5] = x[4], y[4]
    return x, y


def doubted(name, x, y, **doubts):
    settings, measure = Settings(**SETTINGS), MEASURES[name]
    layouts = tuple([Layout.of(side.shape[1:])] for side in (x, y))
    stream = ArrayStream([torch.from_numpy(side) for side in (x, y)], SETTINGS["batch_size"])
    return values_of([measure], stream, layouts, settings, doubts=Doubts(**doubts))


def value(name, x, y):
    used = {key: SETTINGS[key] for key in SETTINGS if MEASURES[name].uses(key)}
    return between(MEASURES[name], x, y, **used)


PAIRED = [name for name, measure in MEASURES.items() if PAIRING not in measure.ignores]


@pytest.mark.parametrize("name", PAIRED)
def test_a_permutation_is_the_measure_of_permuted_images(name):
    x, y = sides()
    found = doubted(name, x, y, permutations=FEWEST)
    again = [value(name, x, y[order.numpy()]) for order in orders(N, FEWEST, seed=0)]
    own, null = value(name, x, y), found.nulls[name]
    sign = 1 if MEASURES[name].larger_is_more_similar else -1
    assert null.p.item() == (1 + sum(sign * s >= sign * own - 1e-6 for s in again)) / (FEWEST + 1)
    threshold = sign * sorted(sign * s for s in [*again, own])[math.ceil(0.95 * 20) - 1]
    assert null.threshold.item() == pytest.approx(threshold, abs=2e-5, rel=2e-5)
    calibrated = max((own - threshold) / (MEASURES[name].same - threshold), 0)
    assert null.calibrated.item() == pytest.approx(calibrated, abs=1e-3)


@pytest.mark.parametrize("scale", [1e12, 1e-12])
@pytest.mark.parametrize(
    "name",
    ["cka", "debiased-cka", "minibatch-cka", "distance-correlation", "rsa-correlation-pearson"],
)
def test_permutations_do_not_depend_on_the_scale(name, scale):
    x, y = sides()
    once, far = (doubted(name, s * x, s * y, permutations=FEWEST).nulls[name] for s in (1.0, scale))
    for one, other in zip(vars(once).values(), vars(far).values(), strict=True):
        assert other.item() == pytest.approx(one.item(), abs=1e-4)


@pytest.mark.parametrize("name", ["debiased-cka", "unbiased-distance-correlation"])
def test_an_image_far_out_does_not_blur_permutations(name):
    x, y = sides(300)
    x[0], y[0] = 300 * x[0], 300 * y[0]
    found = doubted(name, x, y, permutations=FEWEST).nulls[name]
    values = [value(name, x, y[order.numpy()]) for order in orders(300, FEWEST, seed=0)]
    values.append(value(name, x, y))
    assert found.threshold.item() == pytest.approx(sorted(values)[18], abs=2e-5)


def test_measures_that_are_permuted_together_keep_apart():
    """Four of the same kind of matrix in one comparison; with rows that differ from pair to pair,
    none is kept for all layers."""
    names = [n for n in MEASURES if n.startswith("rsa-") or n.endswith("distance-correlation")]
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 5, 4, 4)), rng.normal(size=(40, 6, 2, 2))
    stream = ArrayStream([torch.from_numpy(side) for side in (x, y)], 20)
    layouts = tuple([Layout.of(side.shape[1:])] for side in (x, y))
    for positions in ("pooled", "all"):
        settings = Settings(**SETTINGS, positions=positions)
        asked = [MEASURES[name] for name in names]
        how = {"doubts": Doubts(permutations=FEWEST)}
        found = values_of(asked, stream, layouts, settings, **how)
        for name in names:
            alone = values_of([MEASURES[name]], stream, layouts, settings, **how)
            assert found.nulls[name].threshold.item() == alone.nulls[name].threshold.item()
            by_hand = [
                between(MEASURES[name], x, y[order.numpy()], positions=positions)
                for order in orders(40, FEWEST, seed=0)
            ]
            own = between(MEASURES[name], x, y, positions=positions)
            threshold = sorted([*by_hand, own])[18]
            assert found.nulls[name].threshold.item() == pytest.approx(threshold, abs=2e-5), name


@pytest.mark.parametrize("name", MEASURES)
def test_an_interval_is_the_jackknife_of_the_measure(name):
    x, y = sides()
    low, high = doubted(name, x, y, interval=True).intervals[name]
    left = []
    for block in blocks_of(N, seed=0):
        kept = np.setdiff1d(np.arange(N), block.numpy())
        left.append(value(name, x[kept], y[kept]))
    assert len(left) == 10
    error = math.sqrt(9 / 10 * sum((v - np.mean(left)) ** 2 for v in left))
    half, own = stats.t.ppf(0.975, 9) * error, value(name, x, y)
    bounds = MEASURES[name].bounds
    assert low.item() == pytest.approx(np.clip(own - half, *bounds), abs=2e-4, rel=2e-4)
    assert high.item() == pytest.approx(np.clip(own + half, *bounds), abs=2e-4, rel=2e-4)


@pytest.mark.parametrize("name", ["cka", "debiased-cka", "svcca", "mutual-knn", "procrustes"])
def test_two_copies_are_as_far_from_chance_as_can_be(name):
    x = np.random.default_rng(0).normal(size=(200, 6))
    found = doubted(name, x, x.copy(), permutations=99).nulls[name]
    assert found.p.item() == pytest.approx(0.01)
    assert found.calibrated.item() == pytest.approx(1, abs=1e-5)


def test_by_chance_neighbours_are_shared_as_often_as_anyone():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 8)), rng.normal(size=(N, 8))
    shares = [value("mutual-knn", x, y[order.numpy()]) for order in orders(N, 200, seed=1)]
    error = np.std(shares) / math.sqrt(len(shares))
    assert np.mean(shares) == pytest.approx(SETTINGS["k"] / (N - 1), abs=4 * error)


def test_p_and_threshold_by_hand():
    permuted = torch.tensor([[0.1], [0.5], [0.3], [0.5 - 1e-9]]).repeat(5, 1).double()[:19]
    found = null_of(torch.tensor([0.5]).double(), permuted, same=1.0)
    assert found.p.item() == pytest.approx((1 + 9) / 20), "ties count, those of rounding too"
    assert found.threshold.item() == pytest.approx(0.5) and found.calibrated.item() == 0
    closer = null_of(-torch.tensor([0.2]).double(), -permuted, same=0.0, larger=False)
    assert closer.p.item() == pytest.approx((1 + 14) / 20), "of a distance smaller is more similar"


def test_what_is_not_defined_has_no_null_and_a_permutation_without_value_counts():
    values, permuted = torch.tensor([math.nan, 0.5]), torch.full((19, 2), 0.1)
    permuted[:3, 1] = math.nan
    found = null_of(values, permuted, same=1.0)
    assert found.p[0].isnan() and found.threshold[0].isnan() and found.calibrated[0].isnan()
    assert found.p[1].item() == pytest.approx(4 / 20)


def test_the_most_similar_is_held_to_the_most_similar_of_each_permutation():
    values = torch.tensor([[0.2, 0.6], [math.nan, 0.1]]).double()
    permuted = torch.full((19, 2, 2), 0.05).double()
    permuted[:5, 0, 0] = 0.7
    permuted[:, 1, 0] = math.nan
    at, found = null_of_best(values, permuted, same=1.0)
    assert at == (0, 1) and found.p.item() == pytest.approx(6 / 20)
    at, found = null_of_best(values, permuted, same=0.0, larger=False)
    assert at == (1, 1) and found.p.item() == 1
    assert null_of_best(values * math.nan, permuted, same=1.0) is None


def test_what_does_not_depend_on_the_pairing_has_no_null():
    x, y = sides()
    unpaired = [name for name in MEASURES if name not in PAIRED]
    assert unpaired
    for name in unpaired:
        assert doubted(name, x, y, permutations=FEWEST).nulls == {}


def test_blocks_hold_every_image_once_and_follow_the_seed():
    for n, count in ((39, 0), (40, 10), (199, 10), (200, 20), (1003, 20)):
        blocks = blocks_of(n, seed=3)
        assert len(blocks) == count
        if count:
            assert torch.equal(torch.cat(blocks).sort().values, torch.arange(n))
            assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    assert not torch.equal(blocks_of(50, 0)[0], blocks_of(50, 1)[0])


def test_ends_stay_within_the_range():
    left = torch.tensor([0.9, 1.0, 0.8] * 4).double()
    low, high = interval(torch.tensor(0.99).double(), left, 0, 1)
    assert 0 < low < 0.99 and high == 1


@pytest.mark.parametrize("name", ["debiased-cka", "minibatch-cka"])
def test_an_interval_of_what_is_0_holds_values_below_it(name):
    rng, below = np.random.default_rng(0), 0
    for _ in range(10):
        x, y = rng.normal(size=(N, 4)), rng.normal(size=(N, 4))
        own = value(name, x, y)
        low, high = doubted(name, x, y, interval=True).intervals[name]
        assert low.item() < own < high.item()
        below += own < 0
    assert below > 0


def test_what_chance_explains_is_calibrated_to_0_whatever_is_rounded():
    permuted = torch.full((19,), 1.0, dtype=torch.float64)
    own = torch.tensor(1.0 + 2e-13, dtype=torch.float64)
    found = null_of(own, permuted, same=1.0 + 4e-13)
    assert found.p.item() == 1 and found.calibrated.item() == 0


def test_a_layer_that_varies_and_has_no_unbiased_estimate_is_not_called_constant():
    x = np.zeros((40, 5))
    x[:5] = np.eye(5)
    settings = Settings(batch_size=40)
    layouts = tuple([Layout.of((5,))] for _ in range(2))
    stream = ArrayStream([torch.from_numpy(x)] * 2, 40)
    found = values_of([MEASURES["debiased-cka"], MEASURES["cka"]], stream, layouts, settings)
    assert not found.constant and math.isclose(found.layerwise["cka"].item(), 1, rel_tol=1e-6)
    lacking = debiased_cka(x, x)
    assert (found.unestimated == {"debiased-cka": [0, 1]}) == math.isnan(lacking)
    assert math.isnan(lacking)


def test_plans_and_library_agree_on_the_fewest_permutations(tiny10s):
    assert PERMUTATIONS.hold(0) and PERMUTATIONS.hold(FEWEST) and not PERMUTATIONS.hold(FEWEST - 1)
    with pytest.raises(UserError, match="5 permutations are too few"):
        rs.compare(*map(rs.load, tiny10s), "digits", layers1=["relu2"], layers2=["relu2"], null=5)


def test_few_images_have_no_interval_and_it_is_said(tiny10s):
    _, test = rs.load_data("digits")
    how = {"layers1": ["relu7"], "layers2": ["relu7"], "measures": ["cka", "magnitude"]}
    found = rs.compare(
        *map(rs.load, tiny10s), test.between(0, 30), null=FEWEST, interval=True, **how
    )
    assert not found.intervals and any("No intervals: 30 images" in note for note in found.notes)
    assert any(note.startswith("magnitude: no null") for note in found.notes)


def test_the_command(tiny10s, call_script, tmp_path):
    call_script(
        *("compare_nets.py", *tiny10s, "digits", "--layers1", "relu2", "relu7", "--layers2"),
        *("relu7", "--measures", "debiased-cka", "procrustes", "agreement", "--n-images", "80"),
        *("--null", "19", "--interval", "-o", tmp_path, "--run-name", "doubted"),
    )
    record = json.loads(only(tmp_path / "doubted/json").read_text())
    for measure in record["measures"].values():
        values = np.array(measure.get("values", measure.get("value")), dtype=float)
        for key in ("p", "threshold", "calibrated", "low", "high"):
            assert np.shape(measure[key]) == values.shape
        assert (np.array(measure["low"]) <= values).all() and (values <= measure["high"]).all()
    assert record["measures"]["debiased-cka"]["best"]["p"] >= 0.05 - 1e-9
    table = pd.read_csv(only(tmp_path / "doubted/csv"))
    assert {"p", "threshold", "calibrated", "low", "high"} <= set(table)
    assert table["p"].between(0.05 - 1e-9, 1).all()


@pytest.mark.slow
def test_p_is_uniform_for_what_has_nothing_in_common():
    found, rng = [], np.random.default_rng(0)
    for seed in range(500):
        x, y = rng.normal(size=(50, 5)), rng.normal(size=(50, 7))
        own = debiased_cka(x, y)
        again = [debiased_cka(x, y[order.numpy()]) for order in orders(50, 99, seed)]
        found.append(null_of(torch.tensor(own), torch.tensor(again), 1.0).p.item())
    spread = np.random.default_rng(1).random(500) / 100  # p has steps of 1/100
    assert stats.kstest(np.array(found) - spread, "uniform").pvalue > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["debiased-cka", "regression", "procrustes"])
def test_intervals_hold_what_they_should_about_95_times_in_100(name):
    rng, held = np.random.default_rng(0), []
    mix = rng.normal(size=(5, 5))

    def draw(n):
        x = rng.normal(size=(n, 5))
        return x, x @ mix + 3 * rng.normal(size=(n, 5))

    truth = value(name, *draw(20_000)) if name != "debiased-cka" else debiased_cka(*draw(5000))
    for _ in range(500):
        low, high = doubted(name, *draw(400), interval=True).intervals[name]
        held.append(low.item() <= truth <= high.item())
    assert 0.91 < np.mean(held) < 0.99


def test_the_quantiles_are_those_of_student():
    from scipy.stats import t

    for blocks, quantile in QUANTILES.items():
        assert quantile == pytest.approx(t.ppf((1 + COVERAGE) / 2, blocks - 1), rel=1e-12)
    assert {len(blocks_of(n, 0)) for n in range(40, 400)} == set(QUANTILES)
