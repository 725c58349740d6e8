"""A front that knows the classes and nothing else: noise around their means."""

from dataclasses import replace

import pytest
import torch

from conftest import REPOSITORY
from robust_stitching import checkpoints
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.progress import silent
from robust_stitching.graphs import graph
from robust_stitching.plans import Measurement, StitchPlan, identity, stitching
from robust_stitching.plans.parts import DataRef, NetworkRef
from robust_stitching.plans.written import from_flat
from robust_stitching.similarity import Moments
from robust_stitching.stitching import noise_front
from robust_stitching.stitching.fit import begun, form_of
from robust_stitching.stitching.keeping import Keeping
from robust_stitching.stitching.noise_front import (
    Clusters,
    Fed,
    Noisy,
    clusters_at,
    noise_scores,
)
from robust_stitching.stitching.record import as_record
from robust_stitching.stitching.run import stitch
from robust_stitching.training import Diverged

OPTIONS = {"epochs": 8, "controls": True, "random_fronts": 1, "no_robustness": True, "lr": 1e-2}


@pytest.fixture(scope="module")
def pair(tiny10s):
    return [checkpoints.load(path) for path in tiny10s]


def scores(pair, digits, layer="bn3", keeping=None, **settings):
    front, end = ((donor.network, layer) for donor in pair)
    train, test = digits
    plan = stitching(layer, layer, **OPTIONS | settings)
    clusters = clusters_at(front, train)
    given = clusters, front, end, train, (test, None), plan, silent
    (found, nothing), notes = noise_scores(*given, *filter(None, [keeping]))
    assert nothing == []
    return found, notes


def test_class_means_and_deviations_are_those_of_the_front(pair, digits):
    network, train = pair[0].network, digits[0].between(0, 300)
    found = clusters_at((network, "bn3"), train)
    (values,) = graph.features(network, ["bn3"])(train.images / 255)
    values = values.detach().double()
    means = torch.stack([values[train.labels == c].mean(dim=0) for c in range(10)])
    assert torch.allclose(found.means.double(), means, atol=1e-4)
    within = (values - means[train.labels]).square().mean(dim=0).sqrt()
    assert torch.allclose(found.deviation.double(), within, atol=1e-3)


def test_a_class_without_images_is_in_the_middle(pair, digits):
    train = digits[0].between(0, 300)
    some = train.take(train.labels != 4)
    found = clusters_at((pair[0].network, "fc"), some)
    (values,) = graph.features(pair[0].network, ["fc"])(some.images / 255)
    assert torch.allclose(found.means[4], values.mean(dim=0), atol=1e-4)


def noisy(digits, sigma, n=100):
    split = digits[0].between(0, n)
    clusters = Clusters(torch.arange(10.0)[:, None].expand(10, 6), torch.full((6,), 0.5))
    return Noisy(split, clusters, split.labels, sigma, (0, "train"))


def test_noise_belongs_to_an_image(digits):
    """Whatever batch, order, epoch or sigma it is drawn in."""
    units, data = 6, noisy(digits, 2.0)
    whole = torch.cat([fed for fed, _ in data.batches(100)])
    parts = torch.cat([fed for fed, _ in data.batches(7)])
    assert torch.equal(whole, parts)
    label = data.labels.float()[:, None]
    wide = whole[:, -units:] - label
    narrow = torch.cat([fed for fed, _ in noisy(digits, 1.0).batches(50)])[:, -units:] - label
    assert torch.allclose(wide, 2 * narrow, atol=1e-5)
    assert wide.std() == pytest.approx(1, rel=0.1)
    assert not torch.equal(wide[0], wide[1])
    for epoch in (0, 1):
        for fed, labels in data.epoch(16, seed=3, epoch=epoch):
            drawn = {tuple(row) for row in (fed[:, -units:] - labels[:, None]).tolist()}
            assert drawn <= {tuple(row) for row in wide.tolist()}
    still = torch.cat([fed for fed, _ in noisy(digits, 0.0).batches(50)])
    assert torch.equal(still[:, -units:], label.expand(-1, units))


def test_a_network_that_is_fed_what_its_front_makes_answers_as_it_is(pair, digits):
    front, end = ((donor.network, "bn3") for donor in pair)
    plan = stitching("bn3", "bn3", init="random")
    network, _, _ = begun(front, end, plan, digits[0].device, None, main=False)
    images = digits[1].images[:20] / 255
    (given,) = graph.features(front[0], ["bn3"])(images)
    fed = Fed(network).eval()
    assert torch.equal(
        fed(torch.cat([images.flatten(1), given.flatten(1)], dim=1)), network(images)
    )
    assert fed.train().stitched.training and not fed.eval().stitched.training


@pytest.mark.parametrize(
    "settings",
    [{}, {"init": "ps_inv"}, {"recipe": "fast", "epochs": 4}, {"mask": "semi-match"}],
    ids=["random", "least squares", "fast", "mask"],
)
def test_truths(settings, pair, digits):
    """Class means without noise are told apart by any map; what says nothing of the labels leaves
    it at chance, a class at a time."""
    found, notes = scores(pair, digits, noise_sigmas=(0, 2), **settings)
    assert notes == []
    told = {(score.sigma, score.shuffled_labels): score.accuracy for score in found}
    assert list(told) == [(0, False), (0, True), (2, False), (2, True)]
    if "mask" not in settings:
        assert told[0, False] == 1
        assert told[2, False] > 0.6
    assert told[0, True] <= 0.4 and told[2, True] <= 0.4
    assert (told[0, True] + told[2, True]) / 2 < 0.3
    assert told[0, False] >= told[2, False]
    assert all(score.chance == pytest.approx(37 / 360, abs=0.01) for score in found)


@pytest.mark.parametrize("layer", ["normalize", "relu8", "mean", "fc"])
def test_it_works_at_any_cut(layer, pair, digits):
    few = digits[0].between(0, 300), digits[1].between(0, 50)
    found, notes = scores(pair, few, layer, noise_sigmas=(1,), epochs=1)
    assert len(found) == 2 and notes == []


def test_a_cut_that_leaks_shows(digits):
    """An end that sees the image by a skip connection is right whatever it is told."""
    folder = REPOSITORY / "archive" / "resnet_w1" / "Digits"
    resnets = [checkpoints.load(folder / f"in{i}-gn{i}" / "model.pt") for i in (0, 1)]
    found, _ = scores(resnets, digits, "layer1.0.conv1", noise_sigmas=(1,), epochs=2)
    assert all(score.accuracy > 0.5 for score in found if score.shuffled_labels)


def test_moments_are_those_of_the_noise_and_the_end(pair, digits):
    train = digits[0].between(0, 120)
    front, end = ((donor.network, "bn3") for donor in pair)
    clusters = clusters_at(front, train)
    data = Noisy(train, clusters, train.labels, 1.0, (0, "train"))
    plan = stitching("bn3", "bn3")
    found = noise_front._moments(front, end, data, plan)
    (theirs,) = graph.features(end[0], ["bn3"])(train.images / 255)
    expected = Moments(32, 32)
    given = data.activations(torch.arange(120))
    expected.update(*(v.detach().movedim(1, -1).flatten(0, -2) for v in (given, theirs)))
    assert form_of(plan.transform).shape(*(graph.layout_of(*c) for c in (front, end))) == (32, 32)
    assert torch.allclose(found.xy, expected.xy, rtol=1e-4, atol=1e-2)
    assert torch.allclose(found.mean_x, expected.mean_x, atol=1e-5)


def test_what_it_costs_is_bounded(pair, digits, monkeypatch):
    monkeypatch.setattr(noise_front, "IMAGES", 64)
    seen = []

    def progress(total, what, unit=""):
        seen.append((what, total))
        return silent(total, what, unit)

    front, end = ((donor.network, "bn3") for donor in pair)
    plan = stitching("bn3", "bn3", **OPTIONS | {"epochs": 2, "noise_sigmas": (1.0,)})
    clusters = clusters_at(front, digits[0], progress)
    noise_scores(clusters, front, end, digits[0], [], plan, progress)
    assert seen == [("class means", 64), ("training", 128), ("training", 128)]


def test_attributes_and_many_large_classes_have_none(pair, digits, monkeypatch):
    train = digits[0].between(0, 50)
    attributes = replace(train, labels=torch.zeros(50, 10, dtype=torch.int64))
    front, end = ((donor.network, "bn3") for donor in pair)
    clusters = clusters_at(front, attributes)
    assert "attributes" in clusters
    plan = stitching("bn3", "bn3", **OPTIONS)
    assert noise_scores(clusters, front, end, attributes, [train], plan) == (
        [[]],
        [f"There is no noise front: {clusters}."],
    )
    monkeypatch.setattr(noise_front, "MOST_BYTES", 1000)
    assert "the means of 10 classes take" in clusters_at(front, train)


def test_one_that_diverges_is_left_out(pair, digits, monkeypatch):
    trained, calls = noise_front._trained, []

    def diverging(*given):
        calls.append(given)
        if len(calls) == 1:
            raise Diverged("the loss became NaN or infinite in epoch 1.")
        return trained(*given)

    monkeypatch.setattr(noise_front, "_trained", diverging)
    few = digits[0].between(0, 100), digits[1].between(0, 30)
    found, notes = scores(pair, few, noise_sigmas=(0.5,), epochs=1)
    assert [score.shuffled_labels for score in found] == [True]
    assert notes == [
        "A control (noise front, sigma 0.5, true labels) was left out: the loss became NaN or "
        "infinite in epoch 1."
    ]


def test_trainings_are_gone_on_with(pair, digits, tmp_path, monkeypatch):
    few = digits[0].between(0, 200), digits[1].between(0, 60)
    how = {"noise_sigmas": (1.0,), "epochs": 3}
    whole, _ = scores(pair, few, **how)
    keeping = Keeping(tmp_path)
    assert scores(pair, few, keeping=keeping, **how)[0] == whole
    assert {path.name for path in tmp_path.glob("*.pt")} == {
        "noise_front-0-true.pt",
        "noise_front-0-shuffled.pt",
    }
    (tmp_path / "noise_front-0-shuffled.pt").unlink()
    assert scores(pair, few, keeping=keeping, **how)[0] == whole  # the first is trained already


def test_the_record_has_it_with_controls_alone(pair, digits):
    few = digits[0].between(0, 200), digits[1].between(0, 40)
    options = {**OPTIONS, "epochs": 1, "noise_sigmas": (0.0, 1.0)}
    result = stitch(*pair, *few, stitching("bn3", "bn3", **options), elsewhere=few[1])
    record = as_record(result, "")
    found = record["noise_front"]
    assert [(score["sigma"], score["shuffled_labels"]) for score in found] == [
        *((0.0, False), (0.0, True), (1.0, False), (1.0, True))
    ]
    for score in found:
        low, high = score["accuracy_interval"]
        assert low <= score["accuracy"] <= high
        assert score["n_classes"] == 10
    assert record["elsewhere"]["noise_front"] == found
    assert "class means" in record["estimators"]["noise_front"]
    for left_out in ({"controls": False}, {"noise_sigmas": ()}):
        plan = stitching("bn3", "bn3", **options | left_out)
        assert as_record(stitch(*pair, *few, plan), "")["noise_front"] is None


def test_plans_that_do_not_say_it_are_what_they_were():
    refs = {"front": NetworkRef("a.pt"), "end": NetworkRef("b.pt"), "dataset": DataRef("digits")}
    plan = from_flat(StitchPlan, refs | {"front_layer": "a", "end_layer": "b", "controls": True})
    assert identity(plan) == identity(
        replace(plan, measured=Measurement(controls=True, noise_sigmas=(0, 1, 4)))
    )
    other = replace(plan, measured=Measurement(controls=True, noise_sigmas=()))
    assert identity(plan) != identity(other)
    with pytest.raises(UserError, match="is not a list of numbers of at least 0"):
        Measurement(noise_sigmas=(1.0, -1.0))
