"""Comparisons that are interrupted or killed end bit for bit as whole ones."""

import signal
from dataclasses import replace

import pytest
import torch

from killed import killed_before
from left_behind import names
from robust_stitching.checkpoints import state
from robust_stitching.plans import ComparePlan, DataRef, NetworkRef
from robust_stitching.report import comparison
from robust_stitching.runs import compare
from robust_stitching.runs.listener import Listener
from robust_stitching.similarity import blocks
from robust_stitching.similarity.stream import NetworkStream

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Three passes over the images, and no pictures, at which nothing here looks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", 3_000_000)
        patch.setattr(comparison, "save", lambda figure, path: None)
        yield


@pytest.fixture(scope="module")
def plan(lenets):
    return ComparePlan(
        model1=NetworkRef(str(lenets[0])),
        model2=NetworkRef(str(lenets[1])),
        dataset=DataRef("digits"),
        layers1=("conv1", "relu2", "fc2"),
        layers2=("pool1", "fc1"),
        measures=("cka", "debiased-cka", "minibatch-cka", "svcca", "mutual-knn", "agreement"),
        batch_size=40,
    )


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    return compare.run(plan, tmp_path_factory.mktemp("whole"), CPU, name="run")


def same(one, other):
    assert one.record["measures"] == other.record["measures"]
    assert one.record["notes"] == other.record["notes"]


def interrupted_at(batch, patch):
    work, count = NetworkStream._seen, 0

    def seen(self, *args):
        nonlocal count
        count += 1
        if count == batch:
            signal.raise_signal(signal.SIGTERM)
        return work(self, *args)

    patch.setattr(NetworkStream, "_seen", seen)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def test_the_images_are_passed_more_than_once(plan, whole, tmp_path, monkeypatch):
    batches, work = [], NetworkStream._seen
    monkeypatch.setattr(
        NetworkStream, "_seen", lambda self, *a: batches.append(1) or work(self, *a)
    )
    same(compare.run(plan, tmp_path, CPU, name="run"), whole)
    assert len(batches) > 15  # of nine batches each


@pytest.mark.parametrize("positions", ["pooled", "all"])
@pytest.mark.parametrize("batch", [1, 4, 9, 10, 14])
def test_an_interrupted_comparison_goes_on_bit_for_bit(batch, positions, plan, whole, tmp_path):
    asked = replace(plan, positions=positions)
    if positions == "all":
        whole = compare.run(asked, tmp_path / "whole", CPU, name="run")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        interrupted_at(batch, patch)
        try:
            with pytest.raises(KeyboardInterrupt, match="goes on from where it was"):
                compare.run(asked, tmp_path / "out", CPU, name="run")
        finally:
            signal.signal(signal.SIGTERM, before)
    assert names(tmp_path / "out") == [".run.unfinished"]
    said = []
    again = compare.run(asked, tmp_path / "out", CPU, Listener(say=said.append), name="run")
    assert said == ["an earlier run run was broken off; it is gone on with."]
    assert names(tmp_path / "out") == ["run"] and "state" not in names(tmp_path / "out" / "run")
    same(again, whole)


@pytest.mark.parametrize("change", [20])
def test_a_killed_comparison_goes_on_bit_for_bit(change, plan, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "PATIENCE", 0.0)
    monkeypatch.setattr(state, "SHARE", 1e9)
    assert killed_before(change, tmp_path, lambda: compare.run(plan, tmp_path, CPU, name="run"))
    assert (tmp_path / ".run.unfinished" / "state").is_dir()
    same(compare.run(plan, tmp_path, CPU, name="run"), whole)


def test_a_comparison_of_the_same_plan_is_found(plan, whole):
    again = compare.run(plan, whole.folder.parent, CPU, reuse=True)
    assert again.reused and again.record == whole.record


def test_the_seed_of_a_plan_orders_the_batches(plan, whole, tmp_path):
    few = replace(plan, measures=("minibatch-cka",), layers1=("relu2",), layers2=("fc1",))
    values = [
        compare.run(replace(few, seed=seed), tmp_path, CPU).record["measures"]["minibatch-cka"]
        for seed in (0, 1, 0)
    ]
    assert values[0] == values[2] != values[1]
