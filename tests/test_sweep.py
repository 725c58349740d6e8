"""Sweeps as processes: whole ones, failing ones, killed ones, two at once."""

import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch

import robust_stitching as rs
from left_behind import wait_for

STUB = Path(__file__).parent / "grid_stub"
PLAN = """
name = "mine"
dataset = "digits"
pairs = [["A", "B"]]
layers = [["relu1", "relu2"]]
epochs = 1
batch_size = 512
no_robustness = true
{}
[networks]
A = "{}"
B = {}
"""
TRAINED = '{ model = "lenet", epochs = 1, lr = 0.05, batch_size = 512 }'


@pytest.fixture
def stub(monkeypatch):
    """Units find the stub of the grid."""
    monkeypatch.setenv("PYTHONPATH", str(STUB))


@pytest.fixture
def written(lenets, tmp_path):
    """Write a plan; returns its path."""

    def write(top, end=None):
        path = tmp_path / "plan.toml"
        path.write_text(PLAN.format(top, lenets[0], end or f'"{lenets[1]}"'))
        return path

    return write


def results(folder):
    """Unit to its cells, without what is of one run alone."""
    found = {}
    for path in sorted(folder.glob("units/[!.]*/json/*.json")):
        cells = json.loads(path.read_text())["cells"]
        for cell in cells:
            for key in ("seconds", "command", "donors"):
                del cell[key]
            cell["plan"]["end"].pop("path", None) if "end" in cell["plan"] else None
            cell["curve"] = [
                {k: v for k, v in epoch.items() if "second" not in k} for epoch in cell["curve"]
            ]
        found[path.parents[1].name] = cells
    return found


def begun(folder):
    """How often each unit was begun from nothing."""
    return Counter((folder / "units" / "made").read_text().split())


def test_a_sweep_from_end_to_end(stub, written, call_script, tmp_path):
    """A network is trained first; one value of a list fails, is tried again and named; the rest is
    done, and not again by the same command."""
    out, folder = tmp_path / "out", tmp_path / "out" / "mine"
    plan = written("lr = [1e-3, 1000]\nseed = [0, 1]", TRAINED)
    shown = call_script("sweep.py", plan, "-o", out, "--dry-run")
    assert shown.status == 0 and "4 units and 1 training of" in shown.out and not out.exists()
    done = call_script("sweep.py", plan, "-o", out, "--jobs", "2", "--retries", "1")
    assert done.status == 1
    failed = [line for line in done.err.splitlines() if "failed" in line]
    assert len(failed) == 2 and all("lr=1000 is more than the stub takes." in f for f in failed)
    assert done.out.count("is tried again") == 2 and "3 of 5 done" in done.out
    assert (folder / "networks/B/model.pt").is_file()
    assert (folder / "plan.toml").read_text() == plan.read_text()
    names = list(results(folder))
    assert len(names) == 2 and all(name.startswith("A-B-") for name in names)
    status = call_script("sweep.py", plan, "-o", out, "--status")
    assert status.out.splitlines()[2].split() == ["networks", "1", "0", "0", "0", "–"]
    assert status.out.splitlines()[3].split()[:5] == ["units", "2", "0", "2", "0"]
    assert status.out.count("failed: lr=1000 is more") == 2
    made = begun(folder)
    more = written("lr = 1e-3\nseed = [0, 1, 2]", TRAINED)
    refused = call_script("sweep.py", more, "-o", out)
    assert refused.status == 2 and "lr was [0.001, 1000] and is 0.001" in refused.err
    plan = written("lr = [1e-3, 1000]\nseed = [0, 1, 2]", TRAINED)
    done = call_script("sweep.py", plan, "-o", out, "--retries", "0")
    assert done.status == 1 and "sweep.py: 3 of 7 are done already.\n" in done.err
    assert begun(folder) - made == Counter(list(results(folder).keys() - set(names)))


def test_whatever_is_killed_one_loses_the_unit_under_way_at_most(
    stub, written, process_of, call_script, tmp_path
):
    plan = written("seed = [0, 1, 2]")
    folder = tmp_path / "killed" / "mine"
    process = process_of("sweep.py", plan, "-o", folder.parent)
    deadline = time.monotonic() + 120
    while not results(folder):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    time.sleep(1)  # what it had started ends with it
    before = set(results(folder))
    assert len(before) < 3 and not list(folder.glob("units/.*.unfinished/.lock"))

    process = process_of("sweep.py", plan, "-o", folder.parent)
    lock = next(iter_locks(folder))
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "was ended by SIGKILL" in out
    assert "of 3 are done already" in err and len(results(folder)) == 3
    assert all(begun(folder)[name] == 1 for name in before)

    whole = tmp_path / "whole"
    assert call_script("sweep.py", plan, "-o", whole).status == 0
    assert results(whole / "mine") == results(folder)


def iter_locks(folder):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in folder.glob("units/.*.unfinished/.lock"):
            if path.read_text():
                yield path
        time.sleep(0.01)


def test_two_sweeps_of_one_plan_share_the_units(stub, written, process_of, tmp_path):
    plan = written("seed = [0, 1, 2, 3]", TRAINED)
    both = [process_of("sweep.py", plan, "-o", tmp_path / "out") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert "5 of 5 done" in out
    folder = tmp_path / "out" / "mine"
    assert begun(folder) == Counter(results(folder).keys()) and len(results(folder)) == 4


def test_a_sweep_that_is_interrupted_stops_its_units(stub, written, process_of, tmp_path):
    plan = written("seed = [0, 1]", TRAINED.replace("epochs = 1", "epochs = 9000"))
    process = process_of("sweep.py", plan, "-o", tmp_path / "out")
    network = tmp_path / "out" / "mine" / "networks" / "B"
    wait_for(network / "resume.pt")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "sweep.py: interrupted; the same command goes on from what is there.\n"
    assert (network / "resume.pt").exists() and not (network / ".lock").exists()


# What is refused, with nothing touched


@pytest.mark.parametrize(
    ("top", "network", "told"),
    [
        ("epoch = 1", None, "unknown key 'epoch'"),
        ('front_layers = ["relu9"]', None, "leave front_layers out"),
        ("target_type = 'soft_9'", None, "unknown target type 'soft_9'"),
        ("temperature = 2", None, "is of soft targets"),
        ("", '"none.pt"', "none.pt does not exist"),
        ("", '{ model = "lenett" }', "unknown model 'lenett'"),
        ("", '{ model = "lenet", dataset = "cifar10000" }', "cifar10000"),
        ("name = '../x'", None, "sweep.py: name='../x' is no plain folder name"),
    ],
)
def test_mistakes_in_a_plan(top, network, told, written, call_script, tmp_path, tree):
    plan = written(top, network)
    if top.startswith("name"):
        plan.write_text(plan.read_text().replace('name = "mine"\n', ""))
    before = tree(tmp_path)
    done = call_script("sweep.py", plan, "-o", tmp_path / "out")
    assert (done.status, done.out) == (2, "") and told in done.err
    assert done.err.count("\n") == 1 and tree(tmp_path) == before


@pytest.mark.parametrize("network", [None, TRAINED])
def test_an_unknown_layer(network, written, call_script, tmp_path):
    plan = written("", network)
    plan.write_text(plan.read_text().replace('"relu2"', '"relu22"'))
    done = call_script("sweep.py", plan, "-o", tmp_path / "out")
    assert done.status == 2 and not (tmp_path / "out").exists()
    assert "unknown end layer 'relu22'; did you mean relu2" in done.err


def test_a_folder_of_something_else(written, call_script, tmp_path, tree):
    (tmp_path / "out" / "mine").mkdir(parents=True)
    (tmp_path / "out" / "mine" / "json").touch()
    plan = written("")
    before = tree(tmp_path)
    done = call_script("sweep.py", plan, "-o", tmp_path / "out")
    assert done.status == 2 and "exists already and holds no sweep" in done.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cluster", "slurmy"], "unknown cluster 'slurmy'"),
        (["--cluster", "slurm:host"], "slurm is asked here"),
        (["--cluster", "ray", "--jobs", "2"], "--jobs is of this machine"),
        (["--sbatch", "-p x"], "--sbatch is of slurm"),
        (["--no-wait"], "--no-wait is of slurm"),
        (["--status", "--gather"], "--status and --gather exclude each other"),
        (["--status"], "holds no sweep yet"),
        (["--gather"], "holds no sweep yet"),
        (["--jobs", "0"], "'0' is not a whole number of at least 1"),
    ],
)
def test_options_that_are_refused(options, told, written, call_script, tmp_path):
    done = call_script("sweep.py", written(""), "-o", tmp_path / "out", *options)
    assert (done.status, done.out) == (2, "") and told in done.err
    assert not (tmp_path / "out").exists()


def test_it_is_one_process(written, call_script, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = call_script("sweep.py", written(""), "-o", tmp_path / "out")
    assert done.status == 2 and "leave torchrun out and say --jobs N." in done.err


def test_units_are_maps_of_stitches_and_gathered_as_such(written, call_script, tmp_path):
    """Without the stub: each unit is what the library gives for it, bit for bit."""
    plan, out = written("seed = [0, 1]"), tmp_path / "out"
    done = call_script("sweep.py", plan, "-o", out, "--jobs", "2")
    assert done.status == 0, done.err
    gathered = call_script("sweep.py", plan, "-o", out, "--gather")
    assert gathered.status == 0, gathered.err
    table = pd.read_csv(out / "mine" / "table.csv")
    networks = re.findall(r'^[AB] = "(.*)"$', plan.read_text(), flags=re.M)
    settings = {"cells": "pairs", "front_layers": ("relu1",), "end_layers": ("relu2",)}
    settings |= {"epochs": 1, "batch_size": 512, "no_robustness": True}
    for seed in (0, 1):
        found = rs.stitch_map(*map(rs.load, networks), "digits", seed=seed, **settings)
        (unit,) = (u for u in out.glob("mine/units/A-B-*") if _seed(u) == seed)
        kept = torch.load(unit / "maps" / "relu1-relu2.pt", weights_only=True)
        weight, bias = found.cells[0].trained.network.transform.values()
        assert torch.equal(kept["weight"], weight) and torch.equal(kept["bias"], bias)
        mine = table[(table["seed"] == seed) & (table["network"] == "stitched")]
        (value,) = mine[mine["quantity"] == "accuracy"]["value"]
        assert value == pytest.approx(found.table().iloc[0, 0], abs=1e-12)
    assert (out / "mine" / "index.html").is_file()


def _seed(unit):
    (path,) = (unit / "json").iterdir()
    return json.loads(path.read_text())["plan"]["seed"]
