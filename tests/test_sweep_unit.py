"""A unit as a process: any plan, into its folder, and how it ends."""

import json
import os
import subprocess
import sys

import pytest

from conftest import REPOSITORY
from left_behind import names
from robust_stitching.basics.files import write_json
from robust_stitching.plans import (
    Cut,
    DataRef,
    EvaluatePlan,
    Measurement,
    NetworkRef,
    Optimisation,
    StitchPlan,
    TrainPlan,
    as_values,
)
from robust_stitching.runs.units import BUSY


@pytest.fixture
def start(tmp_path):
    def start(plan, folder, *options):
        path = tmp_path / "plan.json"
        write_json(path, {"plan": as_values(plan)})
        return subprocess.Popen(
            [sys.executable, "-m", "robust_stitching.runs.unit", path, folder, *options],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def ended(start):
    """Run a unit; (status, what it told of its mistakes)."""

    def run(plan, folder, *options):
        process = start(plan, folder, *options)
        _, err = process.communicate(timeout=120)
        return process.returncode, err

    return run


def end_of(folder):
    return json.loads(folder.with_name(f".{folder.name}.ended.json").read_text())


def stitch(lenets, **changed):
    front, end = (NetworkRef(str(path)) for path in lenets)
    parts = {
        "cut": Cut("relu2", "relu2"),
        "training": Optimisation(epochs=1, lr=1e-3, batch_size=512, optimizer="adam"),
        "measured": Measurement(no_robustness=True),
    }
    return StitchPlan(front=front, end=end, dataset=DataRef("digits"), **parts | changed)


def test_a_stitch_into_its_folder(ended, lenets, tmp_path):
    folder = tmp_path / "units" / "one"
    assert ended(stitch(lenets), folder) == (0, "")
    assert names(folder) == ["frank_model", "json", "matrix", "pdf"]
    assert end_of(folder)["error"] is None and end_of(folder)["seconds"] > 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert ended(stitch(lenets), folder) == (0, "")  # the same plan: taken as it is
    status, err = ended(stitch(lenets, seed=1), folder)
    assert status == 2 and "was made by another plan (`seed` was 0 and is 1)" in err
    assert "was made by another plan" in end_of(folder)["error"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_plan_of_another_kind(ended, lenets, tmp_path):
    plan = EvaluatePlan(checkpoint=NetworkRef(str(lenets[0])))
    status, err = ended(plan, tmp_path / "x")
    assert status == 2 and "is none of a unit; its kind is 'evaluate'" in err


def test_a_training_that_others_do_and_that_ends_with_its_parent(start, ended, tmp_path):
    plan = TrainPlan(dataset=DataRef("digits"), training=Optimisation(epochs=9000, lr=0.05))
    folder = tmp_path / "R"
    first = start(plan, folder, "--attached")
    while not (folder / "resume.pt").exists():
        assert first.poll() is None
    status, err = ended(plan, folder)
    assert status == BUSY and f"is being trained into by process {first.pid} on" in err
    first.stdin.close()
    assert first.wait(60) == 130
    assert (folder / "resume.pt").exists() and not (folder / ".lock").exists()
