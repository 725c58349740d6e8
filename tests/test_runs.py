"""Stitches as plans: interrupted and killed ones end bit for bit as whole ones, finished ones are
found by their plan."""

import json
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from killed import killed_before
from left_behind import names, only, strict_json
from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints import state
from robust_stitching.plans import DataRef, NetworkRef, StitchPlan, from_flat, from_values, identity
from robust_stitching.report.stitch import pdf
from robust_stitching.runs import stitch
from robust_stitching.runs.listener import Listener
from robust_stitching.training import Trainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def no_pages():
    """Pages take seconds, and nothing here looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pdf, "write_pdf", lambda path, *rest: path.write_bytes(b"%PDF"))
        yield


@pytest.fixture(scope="module")
def plan(tiny10s):
    """Of a small stitch with all that is trained: the map, and the controls."""
    settings = {
        "front_layer": "bn3",
        "end_layer": "bn3",
        "epochs": 3,
        "batch_size": 512,
        "save_frequency": 1,
        "no_robustness": True,
        "controls": True,
        "random_fronts": 2,
        "noise_sigmas": (1.0,),
        "front": NetworkRef(str(tiny10s[0])),
        "end": NetworkRef(str(tiny10s[1])),
        "dataset": DataRef("digits"),
    }
    return from_flat(StitchPlan, settings)


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    return stitch.run(plan, tmp_path_factory.mktemp("whole"), CPU, name="run")


def tensors_in(done):
    """Everything in the files of a run that is a number, but for times."""
    matrix = torch.load(done.paths["matrix"], weights_only=True)
    frank = torch.load(done.paths["frank_model"], weights_only=True)
    history = matrix["history"]
    return [matrix["weight"], matrix["bias"], *history.values(), *frank["state_dict"].values()]


def numbers_in(record):
    """What a record says but for times, commands and versions."""
    left_out = ("seconds", "command", "versions", "images_per_second")
    if isinstance(record, dict):
        return {k: numbers_in(v) for k, v in record.items() if k not in left_out}
    return [numbers_in(v) for v in record] if isinstance(record, list) else record


def same(one, other):
    pairs = zip(tensors_in(one), tensors_in(other), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert numbers_in(one.record) == numbers_in(other.record)


@contextmanager
def interrupted_at(step):
    """SIGTERM in the `step`-th step of all trainings in the block."""
    work, count, before = Trainer.step, 0, signal.getsignal(signal.SIGTERM)

    def interrupted(self, *batch):
        nonlocal count
        count += 1
        if count == step:
            signal.raise_signal(signal.SIGTERM)
        work(self, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("step", [4, 9, 11, 36, 50])  # each training has nine
def test_an_interrupted_stitch_goes_on_bit_for_bit(step, plan, whole, tmp_path):
    with interrupted_at(step), pytest.raises(KeyboardInterrupt, match="goes on from where it was"):
        stitch.run(plan, tmp_path, CPU, name="run")
    assert names(tmp_path) == [".run.unfinished"]
    assert names(tmp_path / ".run.unfinished") == ["plan.json", "state"]
    said = []
    done = stitch.run(plan, tmp_path, CPU, Listener(say=said.append), name="run")
    assert said == ["an earlier run run was broken off; it is gone on with."]
    assert names(tmp_path) == ["results.csv", "run"]
    assert names(tmp_path / "run") == ["frank_model", "json", "matrix", "pdf"]
    same(done, whole)


@pytest.mark.parametrize("change", [23])
def test_a_killed_stitch_goes_on_bit_for_bit(change, plan, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "PATIENCE", 0.0)
    monkeypatch.setattr(state, "SHARE", 1e9)
    assert killed_before(change, tmp_path, lambda: stitch.run(plan, tmp_path, CPU, name="run"))
    assert (tmp_path / ".run.unfinished" / "state").is_dir()
    same(stitch.run(plan, tmp_path, CPU, name="run"), whole)


def test_steps_that_were_done_are_not_done_again(plan, tmp_path, monkeypatch):
    with interrupted_at(20), pytest.raises(KeyboardInterrupt):
        stitch.run(plan, tmp_path, CPU, name="run")
    steps, work = [], Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda *a: steps.append(1) or work(*a))
    stitch.run(plan, tmp_path, CPU, name="run")
    assert len(steps) == 54 - 20


def test_without_a_name_an_unfinished_run_of_the_plan_is_found(plan, tmp_path):
    with interrupted_at(4), pytest.raises(KeyboardInterrupt, match=r"with run_name='20.*goes on"):
        stitch.run(plan, tmp_path, CPU)
    other = replace(plan, seed=5)
    assert not any("gone on" in text for text in said_by(other, tmp_path))
    assert any("gone on" in text for text in said_by(plan, tmp_path))
    assert sorted(len(names(tmp_path / name)) for name in names(tmp_path) if "csv" not in name)


def said_by(plan, out):
    said = []
    stitch.run(plan, out, CPU, Listener(say=said.append), resume=True)
    return said


def test_a_state_of_another_plan_is_not_gone_on_with(plan, tmp_path, tree):
    with interrupted_at(4), pytest.raises(KeyboardInterrupt):
        stitch.run(plan, tmp_path, CPU, name="run")
    left = tree(tmp_path)
    other = replace(plan, training=replace(plan.training, lr=0.5), seed=3)
    with pytest.raises(UserError, match=r"lr` was 0\.001 and is 0\.5; `seed` was 0 and is 3"):
        stitch.run(other, tmp_path, CPU, name="run")
    rounded = replace(plan, training=replace(plan.training, precision="bfloat16"))
    with pytest.raises(UserError, match="precision` was auto and is bfloat16"):
        stitch.run(rounded, tmp_path, CPU, name="run")
    assert tree(tmp_path) == left


# Finished ones


def test_a_result_holds_its_plan(plan, whole):
    known = from_values(StitchPlan, strict_json(whole.paths["json"])["plan"])
    assert known.front.hash and known.end.hash and known.dataset.hash
    bare = replace(known, front=plan.front, end=plan.end, dataset=plan.dataset)
    assert bare == plan


def test_a_run_of_the_same_plan_is_found(plan, whole):
    out = whole.folder.parent
    for name in (None, "run"):
        again = stitch.run(plan, out, CPU, name=name, reuse=True)
        assert again.reused and again.folder == whole.folder
        assert again.record == strict_json(whole.paths["json"])
        assert again.paths == {k: v for k, v in whole.paths.items() if k != "csv"}
    with pytest.raises(UserError, match="was made by the same plan; take it as it is"):
        stitch.run(plan, out, CPU, name="run")
    with pytest.raises(UserError, match=r"another plan \(`seed` was 0 and is 1\)"):
        stitch.run(replace(plan, seed=1), out, CPU, name="run", reuse=True)


def test_a_plan_from_a_result_gives_the_same_again(whole, tmp_path):
    known = from_values(StitchPlan, json.loads(whole.paths["json"].read_text())["plan"])
    same(stitch.run(known, tmp_path, CPU, name="again"), whole)
    assert identity(known) == identity(
        from_values(StitchPlan, strict_json(only(tmp_path / "again" / "json"))["plan"])
    )


def test_a_file_that_changed_is_not_taken_for_the_plan_s(whole, tiny10s, tmp_path):
    known = from_values(StitchPlan, json.loads(whole.paths["json"].read_text())["plan"])
    other = replace(known, front=replace(known.front, path=str(tiny10s[1])))
    with pytest.raises(UserError, match="holds another network than the front of the plan"):
        stitch.run(other, tmp_path, CPU)
    data = replace(known, dataset=replace(known.dataset, hash="0" * 16))
    with pytest.raises(UserError, match="are others than those of the plan"):
        stitch.run(data, tmp_path, CPU)
    assert names(tmp_path) == []
