"""How many images activations are compared on, and the intervals of what is found on a sample."""

import json
import shlex

import numpy as np
import pytest
import torch
from scipy.stats import t as student

import robust_stitching as rs
from left_behind import only
from robust_stitching import models
from robust_stitching.basics import memory
from robust_stitching.basics.errors import UserError
from robust_stitching.plans import GridPlan, Measurement, StitchPlan, as_values, from_values
from robust_stitching.plans.actions import stitching
from robust_stitching.plans.options import plan_of
from robust_stitching.report.tidy import images_compared, numbers_of
from robust_stitching.similarity import blocks
from robust_stitching.similarity.jackknife import blocks_of
from robust_stitching.similarity.left_out import LeftOut
from robust_stitching.similarity.stream import ArrayStream
from robust_stitching.stitching import budget
from robust_stitching.stitching.scores import END, compared
from test_recipes import REFS

# The setting


def test_what_may_be_said():
    assert Measurement().similarity_images == "auto"
    assert Measurement(similarity_images="all") == Measurement(similarity_images=None)
    assert Measurement(similarity_images=7).similarity_images == 7
    for wrong in (0, -1, 1.5, True, "7", "al", ""):
        told = r"similarity_images=.* is not a whole number of at least 1, auto or all"
        with pytest.raises(UserError, match=told):
            Measurement(similarity_images=wrong)
    assert plan_of(GridPlan, REFS | {"similarity_images": "all"}).measured.similarity_images is None
    for said in (Measurement(), Measurement(similarity_images="all")):
        assert from_values(Measurement, json.loads(json.dumps(as_values(said)))) == said


# The choice


@pytest.fixture(scope="module")
def pair(lenets):
    return [rs.load(path).network for path in lenets]


LENET = {
    "conv1": 28 * 28 * 6 * 25, "conv2": 10 * 10 * 16 * 6 * 25,
    "fc1": 400 * 120, "fc2": 120 * 84, "fc3": 84 * 10,
}  # fmt: skip
UNITS = 28 * 28 * 6


def images(pair, n, **settings):
    return budget.budget_of(stitching("relu2", "relu2", **settings), *pair, 1000, n).images


def test_multiplications_are_those_of_the_layers(pair):
    shapes = {name: tuple(weight.shape) for name, weight in pair[0].named_parameters()}
    assert shapes["conv1.weight"][0] == 6 and shapes["fc1.weight"][1] == 400
    assert budget.multiplications(pair[0]) == sum(LENET.values())


def test_all_are_compared_where_it_costs_little(pair):
    most = int((budget.ALWAYS * 2 / budget.COMPARED / UNITS) ** 0.5)
    assert images(pair, most, epochs=1) is None
    assert images(pair, most + 1, epochs=1) == 2000
    assert images(pair, 10**6, similarity_images="all") is None
    assert images(pair, 10**6, similarity_images=5) == 5
    assert images(pair, 10**6, no_pinv=True) is None


def test_all_are_compared_where_training_takes_longer(pair, monkeypatch):
    monkeypatch.setattr(budget, "ALWAYS", 0)
    products = 5000**2 / 2 * budget.COMPARED * UNITS
    an_epoch = 3 * 1000 * sum(LENET.values())
    epochs = -(-products // an_epoch)
    assert images(pair, 5000, epochs=int(epochs)) is None
    assert images(pair, 5000, epochs=int(epochs) - 1) == 2000
    assert images(pair, 2000, epochs=1) is None
    monkeypatch.setattr(budget, "BLOCK_BYTES", 5000 * UNITS * 4 * budget.COMPARED // 3)
    assert images(pair, 5000, epochs=int(epochs)) is None, "three blocks, two passes"
    assert images(pair, 5001, epochs=10**6) == 2000


def test_the_cut_makes_no_difference(pair):
    for layer in ("conv1", "relu4"):
        plan = stitching(layer, layer, epochs=1)
        assert budget.budget_of(plan, *pair, 10, 50_000).images == 2000
        assert budget.budget_of(plan, *reversed(pair), 10, 50_000).images == 2000


# The interval


def debiased(x, y):
    """Linear CKA from unbiased HSIC, as Song et al. (2012) write it, in float64."""

    def hsic(k, m):
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        one = np.ones(n)
        sums = one @ k @ one * (one @ m @ one) / (n - 1) / (n - 2)
        return (np.trace(k @ m) + sums - 2 / (n - 2) * one @ k @ m @ one) / n / (n - 3)

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / (hsic(k, k) * hsic(m, m)) ** 0.5


@pytest.mark.parametrize(("n", "count"), [(250, 20), (60, 10)])
def test_the_interval_is_that_of_the_jackknife(n, count, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    end = torch.randn(n, 12, generator=generator)
    front = end[:, :6] + torch.randn(n, 6, generator=generator) + 30
    names = ["front", END]
    for block_bytes in (None, 60 * 4 * 18 * 2):
        found = compared(
            ArrayStream([front, end], 30), names, block_bytes=block_bytes, seed=3
        )["front"]  # fmt: skip
        x, y = front.double().numpy(), end.double().numpy()
        fewer = []
        for block in blocks_of(n, 3):
            rest = np.setdiff1d(np.arange(n), block.numpy())
            fewer.append(debiased(x[rest], y[rest]))
        assert len(fewer) == count
        variance = (count - 1) / count * np.sum((np.array(fewer) - np.mean(fewer)) ** 2)
        half = student.ppf(0.975, count - 1) * variance**0.5
        value = debiased(x, y)
        assert found.debiased_cka == pytest.approx(value, abs=1e-6)
        assert found.interval == pytest.approx((value - half, value + half), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_the_interval_does_not_depend_on_the_scale(scale):
    generator = torch.Generator().manual_seed(0)
    front, end = torch.randn(2, 130, 20, generator=generator)
    front = front + end

    def found(factor):
        stream = ArrayStream([factor * front, factor * end], 50)
        return compared(stream, ["front", END], seed=0)["front"]

    assert found(scale).interval == pytest.approx(found(1).interval, abs=1e-6)


def test_a_constant_leaves_no_interval_be_it_large():
    rows = torch.tensor([[0.1, 0.7, 1 / 3, 12.3]], dtype=torch.float64).expand(47, -1)
    constant, end = rows @ rows.T, torch.randn(47, 3, dtype=torch.float64)
    grams = torch.stack([constant, end @ end.T]).float()
    left_out = LeftOut(blocks_of(47, 0), 1, 47, 2, "cpu")
    left_out.add(slice(0, 47), slice(0, 47), grams)
    assert left_out.values()[:, 0].isnan().all()
    assert left_out.values()[:, 1].tolist() == pytest.approx([1] * 10)


def test_of_two_networks_the_larger_counts(pair, digits):
    mean, std = digits[0].statistics()
    how = {"num_classes": 10, "in_channels": 1, "mean": mean, "std": std}
    wide = models.build("tiny10", **how)
    n = int((budget.ALWAYS * 2 / budget.COMPARED / UNITS) ** 0.5)
    for networks in ((pair[0], wide), (wide, pair[0])):
        plan = stitching("a", "b", epochs=1)
        assert budget.budget_of(plan, *networks, 1, n).images == 2000
        flops = budget.multiplications(wide)
        assert f"{3 * flops:.1e}" in budget.budget_of(plan, *networks, 1, n).why


def test_no_interval_of_few_images_or_of_a_constant():
    def found(n, front=None, **how):
        end = torch.randn(n, 3, generator=torch.Generator().manual_seed(n))
        arrays = [2 * end.exp() if front is None else front, end]
        return compared(ArrayStream(arrays, 100), ["front", END], **how)["front"]

    assert found(39, seed=0).interval is None
    assert found(40, seed=0).interval is not None
    assert found(40).interval is None
    assert found(40, torch.ones(40, 2), seed=0).interval is None


# Runs


def test_a_sample_is_said_before_and_after(lenets, monkeypatch, call_script, tmp_path):
    monkeypatch.setattr(budget, "ALWAYS", 0)
    monkeypatch.setattr(budget, "MOST_PASSES", 0)
    monkeypatch.setattr(budget, "FEW", 60)
    command = [*lenets, "relu2", "relu2", "digits", "--no-robustness", "-o", tmp_path, "-e", "1"]
    command += ["-b", "512", "--map", "affine-channels"]
    records = {}
    for name, flags in (
        ("auto", ""),
        ("exact", "--exact"),
        ("all", "--similarity-images all"),
        ("some", "--similarity-images 60"),
    ):
        done = call_script("find_transform.py", *command, "--run-name", name, *shlex.split(flags))
        assert done.status == 0, done.err
        records[name] = json.loads(only(tmp_path / name / "json").read_text())
        assert ("compared on 60 test images, chosen by the seed: all 360 would" in done.err) == (
            name == "auto"
        ), done.err
        dear = "compare activations on all 360 test images takes up to" in done.err
        assert dear == (name in ("exact", "all")), done.err
        assert ("--similarity-images all takes all" in done.err) == (name == "auto"), done.err
        assert ("on 60 images" in done.out) == (name in ("auto", "some"))
    assert any("compared on 60 test images" in note for note in records["auto"]["notes"])
    said = {name: record["params"]["similarity_images"] for name, record in records.items()}
    assert said == {"auto": 60, "exact": None, "all": None, "some": 60}
    assert records["auto"]["front"] == records["some"]["front"]
    assert records["exact"]["front"] == records["all"]["front"]
    assert records["exact"]["cka"] != records["auto"]["cka"]
    low, high = records["auto"]["front"]["debiased_cka_to_end_interval"]
    assert low < records["auto"]["front"]["debiased_cka_to_end"] < high
    assert images_compared(records["auto"]) == 60 and images_compared(records["exact"]) is None
    lines = numbers_of(records["auto"], compared=images_compared(records["auto"]))
    (line,) = (
        line for line in lines if (line["network"], line["quantity"]) == ("front", "cka_to_end")
    )
    assert line["n_images"] == 60


def test_a_wrong_number_of_images_is_refused(lenets, call_script, tmp_path):
    for said in ("some", "0", "1.5"):
        command = [*lenets, "relu2", "relu2", "digits", "--similarity-images", said]
        done = call_script("find_transform.py", *command, "-o", tmp_path)
        assert done.status == 2
        assert f"'{said}' is not a whole number of at least 1, auto or all" in done.err


# Memory


def test_blocks_take_a_share_of_what_is_free(monkeypatch):
    for free, size in ((0, 2**30), (2**32 + 4, 2**30 + 1), (2**40, 2**38)):
        monkeypatch.setattr(blocks, "available", lambda device, free=free: free)
        assert blocks.largest_block("cpu") == size


def test_what_is_free_is_within_the_limit_of_a_container(monkeypatch, tmp_path):
    free = memory.available()
    assert 2**20 < free < 2**50
    most, now = tmp_path / "max", tmp_path / "now"
    monkeypatch.setattr(memory, "LIMITS", (most, now))
    for told, expected in (("5000000", 3000000), ("1000", 0), ("max", None)):
        most.write_text(f"{told}\n"), now.write_text("2000000\n")
        assert memory.available() == pytest.approx(free if expected is None else expected, rel=0.5)


def test_similarities_do_not_depend_on_memory(lenets, monkeypatch):
    train, test = rs.load_data("digits")
    donors = [rs.load(path) for path in lenets]
    scores = []
    for size in (None, 2_000_000):
        if size:
            monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
            monkeypatch.setattr(blocks, "available", lambda device: 0)
        made = rs.stitch(
            *(*donors, "relu1", "relu1", (train.between(0, 256), test)),
            epochs=1,
            no_robustness=True,
        )
        scores.append(made.scores["stitched"])
    assert scores[0].cka_to_end == pytest.approx(scores[1].cka_to_end, abs=1e-9)
    ends = [own.debiased_cka_to_end_interval for own in scores]
    assert ends[0] == pytest.approx(ends[1], abs=1e-7)


def test_a_plan_of_a_stitch_keeps_what_it_asks():
    plan = StitchPlan(**REFS, **vars(stitching("a", "b", similarity_images="all")))
    assert from_values(StitchPlan, as_values(plan)) == plan
    assert plan.measured.similarity_images is None
