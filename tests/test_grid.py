"""Grids of stitches: each cell is what a single stitch gives, whatever is shared."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections import OrderedDict
from dataclasses import astuple, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import robust_stitching as rs
from left_behind import only
from robust_stitching import checkpoints, models
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs import graph
from robust_stitching.graphs.behind import alike
from robust_stitching.graphs.stages import depths, stages
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.graphs.transform import Form
from robust_stitching.plans import DataRef, GridPlan, NetworkRef, from_flat
from robust_stitching.report.drawing import as_png, save
from robust_stitching.report.grid.figures import curves
from robust_stitching.report.grid.files import lines
from robust_stitching.report.grid.quantities import diagonal, quantities
from robust_stitching.report.grid.verdict import verdict
from robust_stitching.report.heat_maps import figure_of
from robust_stitching.runs import grid as grids
from robust_stitching.stitching import matching
from robust_stitching.stitching.grid import measure, training
from robust_stitching.stitching.grid.cells import cells_of, cuts_of
from robust_stitching.stitching.grid.diagonal import diagonal as cells_on_diagonal
from robust_stitching.stitching.grid.files import write_files
from robust_stitching.stitching.grid.memory import SOLVING, memory_of
from robust_stitching.stitching.grid.record import as_record
from robust_stitching.stitching.grid.run import stitch_grid
from robust_stitching.stitching.keeping import Keeping
from robust_stitching.stitching.record import numbers
from robust_stitching.stitching.run import stitch
from robust_stitching.training import Trainer
from robust_stitching.training.objectives import LABELS

CPU = torch.device("cpu")
QUICK = {
    "recipe": "paper", "epochs": 2, "batch_size": 32, "init": "ps_inv", "no_robustness": True,
}  # fmt: skip
ATTACKED = {"no_robustness": False, "robust_images": 12, "tier": "quick", "eval_epsilon": 0.02}


@pytest.fixture(scope="module")
def donors(tiny10s):
    return [checkpoints.load(path) for path in tiny10s]


@pytest.fixture(scope="module")
def data(digits):
    return digits[0].between(0, 80), digits[1].between(0, 60)


def plan_of(paths=("a.pt", "b.pt"), **settings):
    front, end = (NetworkRef(str(path)) for path in paths)
    refs = {"front": front, "end": end, "dataset": DataRef("digits")}
    return from_flat(GridPlan, refs | QUICK | settings)


def differences(one, other, where=""):
    """Where two records differ in more than the last digits of a similarity: the sums of Gram
    matrices of several activations are added in another order than those of a few."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            yield from differences(one.get(key), other.get(key), f"{where}/{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{where}/{number}")
    elif "cka" in where and isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, abs_tol=1e-9):
            yield where
    elif one != other:
        yield where


@pytest.mark.parametrize(
    "settings",
    [
        {"controls": True, "random_fronts": 2, "attack_all": True, "fit_images": 50, **ATTACKED},
        {"recipe": "fast", "epochs": 1},
        {"no_bn": True, "init": "random", "target_type": "soft_12", "temperature": 2},
        {"cka_reg": -0.5, "l1": 0.01, "mask": "semi-match", "init": "random"},
        {"low_rank": 3, "no_pinv": True, "seeds": 2, "seed": 5},
        {"epochs": 1, "seeds": 2, "controls": True, "random_fronts": 1, "noise_sigmas": []},
        {"flatten": True, "init": "random", "front_layers": ["bn8"], "end_layers": ["bn7", "mean"]},
        {"adversary": {"kind": "madry", "epsilon": 0.02, "perturb_steps": 2}, "epochs": 1},
        {"objective": "fula", "init": "random", "no_bn": True},
        {"map": "mlp", "recipe": "fast", "epochs": 1},
        {"front_layers": ["conv1", "fc"], "end_layers": ["normalize", "fc"], "controls": True},
    ],
    ids=[
        "controls and attacks",
        "fast",
        "soft targets",
        "terms",
        "seeds",
        "seeds of controls",
        "flatten",
        "under attack",
        "alignment",
        "two layers",
        "images and logits",
    ],
)
def test_every_cell_is_its_single_stitch(settings, donors, data):
    """Weights and statistics to the last bit, and everything that is measured."""
    layers = {"front_layers": ["relu3", "relu7"], "end_layers": ["relu2", "bn7"]}
    plan = plan_of(**(layers | settings))
    result = stitch_grid(*donors, *data, plan)
    assert len(result.cells) == plan.seeds * len(plan.front_layers) * len(plan.end_layers)
    assert [cell.plan.seed for cell in result.cells][-1] == plan.seed + plan.seeds - 1
    for cell in result.cells[:: 3 if plan.measured.controls else 1]:
        alone = stitch(*donors, *data, cell.plan)
        ours, theirs = cell.trained.network.state_dict(), alone.network.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert not list(differences(numbers(cell.measured), numbers(alone.measured)))
        known = [
            {**vars(epoch), "seconds": 0, "images_per_second": 0} for epoch in alone.trained.curve
        ]
        assert known == [
            {**vars(epoch), "seconds": 0, "images_per_second": 0} for epoch in cell.trained.curve
        ]
        assert set(cell.notes) <= set(alone.notes)
        assert set(alone.notes) <= {*cell.notes, *result.notes}


def test_donors_stay_as_they_are(donors, data):
    before = [{k: v.clone() for k, v in d.network.state_dict().items()} for d in donors]
    stitch_grid(*donors, *data, plan_of(front_layers=["bn2"], end_layers=["bn2", "bn5"]))
    for donor, then in zip(donors, before, strict=True):
        now = donor.network.state_dict()
        assert all(torch.equal(now[key], then[key]) for key in then)


def test_another_dataset_is_measured_on_too(donors, data, digits):
    plan = plan_of(front_layers=["bn3"], end_layers=["bn3", "bn5"])
    elsewhere = replace(digits[1].between(60, 110), name="Elsewhere")
    result = stitch_grid(*donors, *data, plan, elsewhere=elsewhere)
    for cell in result.cells:
        alone = stitch(*donors, *data, cell.plan, elsewhere=elsewhere)
        assert not list(differences(numbers(cell.elsewhere), numbers(alone.elsewhere)))


def test_without_attack_all_the_trained_networks_alone_are_attacked(donors, data):
    plan = plan_of(front_layers=["bn3"], end_layers=["bn3"], **ATTACKED)
    (cell,) = stitch_grid(*donors, *data, plan).cells
    told, alone = numbers(cell.measured), numbers(stitch(*donors, *data, cell.plan).measured)
    for name in ("front", "end", "stitched"):
        assert told[name]["robust"] == alone[name]["robust"] is not None
    assert told["direct_matching"]["robust"] is told["untrained"]["robust"] is None
    assert told["transfer"] is None and "transfer attack" not in told["attacks"]


def test_groups_that_fit_give_the_same(donors, data, monkeypatch):
    plan = plan_of(front_layers=["bn2", "bn5"], end_layers=["bn2", "bn5"])
    together = stitch_grid(*donors, *data, plan)
    monkeypatch.setattr(training, "GROUP_BYTES", 2 * 4 * training.COPIES * 16 * 32)
    groups = []
    train_cells = training.train_cells

    def counted(front, end, plans, *rest, **how):
        groups.append(len(plans))
        return train_cells(front, end, plans, *rest, **how)

    monkeypatch.setattr("robust_stitching.stitching.grid.run.train_cells", counted)
    apart = stitch_grid(*donors, *data, plan)
    assert len(groups) > 1 and sum(groups) == 4
    for one, other in zip(together.cells, apart.cells, strict=True):
        ours, theirs = (c.trained.network.state_dict() for c in (one, other))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_the_last_epoch_answered_is_not_asked_again(donors, data, monkeypatch):
    asked, look = [], measure.predict_all

    def noting(networks, split, *how):
        asked.extend(networks)
        return look(networks, split, *how)

    monkeypatch.setattr(measure, "predict_all", noting)
    layers = {"front_layers": ("relu2",), "end_layers": ("relu2", "relu4"), "no_pinv": True}
    plan = plan_of(**layers, controls=True, random_fronts=2)
    with_them = stitch_grid(*donors, *data, plan)
    assert len(asked) == 2, "of each cell the network before training"
    monkeypatch.setattr(training, "LOGITS_BYTES", 0)
    asked.clear()
    without = stitch_grid(*donors, *data, plan)
    assert len(asked) > 2
    assert [numbers(c.measured) for c in with_them.cells] == [
        numbers(c.measured) for c in without.cells
    ]


def test_an_interrupted_grid_goes_on_bit_for_bit(donors, data, tmp_path, monkeypatch):
    plan = plan_of(front_layers=["bn2", "bn5"], end_layers=["bn3"], epochs=3)
    whole = stitch_grid(*donors, *data, plan)
    step, steps = Trainer.step, []

    def interrupting(trainer, images, labels):
        step(trainer, images, labels)
        steps.append(trainer)
        if len(steps) == 9:  # within the second epoch, after the first cell's step
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", interrupting)
    with pytest.raises(KeyboardInterrupt):
        stitch_grid(*donors, *data, plan, keeping=Keeping(tmp_path))
    assert len(steps) == 10  # all cells have made the step
    again = stitch_grid(*donors, *data, plan, keeping=Keeping(tmp_path))
    assert len(steps) == 2 * 3 * 3
    for one, other in zip(whole.cells, again.cells, strict=True):
        ours, theirs = (c.trained.network.state_dict() for c in (one, other))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert one.measured == other.measured


def test_a_cell_that_diverges_ends_alone(donors, data, monkeypatch):
    begun = training.begun

    def broken(front, end, plan, *rest):
        network, *others = begun(front, end, plan, *rest)
        if plan.cut.end_layer == "bn5":
            network.transform.bias.data.fill_(float("inf"))
        return network, *others

    monkeypatch.setattr(training, "begun", broken)
    plan = plan_of(front_layers=["bn2"], end_layers=["bn2", "bn5"], controls=True, **ATTACKED)
    result = stitch_grid(*donors, *data, plan)
    sound, failed = result.cells
    assert sound.error is None and "became NaN or infinite" in failed.error
    record = as_record(result, "command")
    assert record["cells"][0]["stitched"] and record["cells"][1]["stitched"] is None
    assert record["cells"][1]["direct_matching"]["accuracy"] > 0.1
    assert any("bn2 → bn5" in sentence for sentence in verdict(record))
    alone = stitch(*donors, *data, replace(sound.plan, measured=replace(
        sound.plan.measured, controls=False)))  # fmt: skip
    assert sound.measured.scores["stitched"] == alone.scores["stitched"]


def test_what_is_told_of_a_cell_that_diverges_is_the_same_on_a_busy_machine(
    donors, data, monkeypatch
):
    plan = plan_of(front_layers=["relu7"], end_layers=["relu7"], lr=1e30, optimizer="sgd", seeds=2)
    told = []
    for seconds in (0, 1e9):
        monkeypatch.setattr(training, "REFRESH_SECONDS", seconds)
        told.append([cell.error for cell in stitch_grid(*donors, *data, plan).cells])
    assert (
        told[0] == told[1]
        and "in epoch 1 of 2; try a smaller learning rate than 1e+30" in told[0][0]
    )


# Which cells there are


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("lenet", ["pool1", "pool2", "relu3", "relu4"]),
        ("tiny10", [f"relu{n}" for n in range(1, 9)]),
        (
            "resnet_w1",
            ["relu", *(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2))],
        ),
        ("resnet18", ["relu", *(f"layer{n}.{block}" for n in (1, 2, 3, 4) for block in (0, 1))]),
    ],
)
def test_by_default_each_stage_is_cut_where_it_ends(model, expected):
    network = models.build(model, num_classes=10, in_channels=3)
    assert stages(network) == expected


def test_cells_are_all_or_along_the_diagonal_or_pairs(donors):
    front, end = (donor.network for donor in donors)
    eight = [f"relu{n}" for n in range(1, 9)]
    assert cells_of(plan_of(), front, end) == [(i, j) for i in eight for j in eight]
    assert cells_of(plan_of(cells="diagonal"), front, end) == [(name, name) for name in eight]
    some = {"front_layers": ["bn1", "bn2", "bn3"], "end_layers": ["relu1", "relu8"]}
    assert cells_of(plan_of(cells="diagonal", **some), front, end) == [
        ("bn1", "relu1"), ("bn3", "relu8"),
    ]  # fmt: skip
    two = {"front_layers": ["bn1", "bn2"], "end_layers": ["relu8", "bn2"]}
    assert cells_of(plan_of(cells="pairs", **two), front, end) == [("bn1", "relu8"), ("bn2", "bn2")]
    with pytest.raises(UserError, match="3 front layers and 2 end layers"):
        cells_of(plan_of(cells="pairs", **some), front, end)
    with pytest.raises(UserError, match="unknown front layer 'bn9'"):
        cells_of(plan_of(front_layers=["bn9"]), front, end)


# What a grid leaves


@pytest.fixture(scope="module")
def done(tiny10s, tmp_path_factory):
    layers = {"front_layers": ["relu2", "relu4", "relu8"], "end_layers": ["relu2", "relu4"]}
    plan = plan_of(tiny10s, epochs=1, batch_size=256, frank_models=True, **layers)
    return grids.run(plan, tmp_path_factory.mktemp("grid"), CPU, name="map")


def test_a_run_leaves_its_files(done):
    record = json.loads(done.paths["json"].read_text())
    assert record == done.record
    assert len(record["cells"]) == 6 and record["seeds"] == [0]
    assert done.paths["pdf"].read_bytes().startswith(b"%PDF")
    drawn = {path.name for path in done.paths["figures"].iterdir()}
    assert {"accuracy.png", "accuracy.pdf", "cka.png", "diagonal.png"} <= drawn
    table = pd.read_csv(done.paths["csv"])
    row = table[
        (table.front_layer == "relu4") & (table.end_layer == "relu2")
        & (table.network == "stitched") & (table.quantity == "accuracy")
    ]  # fmt: skip
    cell = next(
        c for c in record["cells"] if (c["front_layer"], c["end_layer"]) == ("relu4", "relu2")
    )
    assert row.value.item() == pytest.approx(cell["stitched"]["accuracy"])
    assert row.low.item() == pytest.approx(cell["stitched"]["accuracy_interval"][0])


def test_maps_make_the_stitched_networks_again(done, donors):
    """From the donors, the map and the statistics, as they lie in a cell's file."""
    cell = done.record["cells"][3]
    kept = checkpoints.read(done.paths["maps"] / cell["map"])
    front, end = (donor.network for donor in donors)
    network = StitchedNetwork(front, kept["front_layer"], end, kept["end_layer"]).eval()
    network.transform.set(kept["weight"], kept["bias"])
    network.load_state_dict(network.state_dict() | kept["statistics"])
    frank = checkpoints.load(done.paths["frank_models"] / cell["map"]).network
    images = torch.rand(4, *network.input_shape)
    assert torch.equal(network(images), frank(images))
    assert Path(kept["donors"]["front"]["path"]).is_file() and kept["donors"]["front"]["hash"]


def test_the_same_grid_is_not_made_twice(done, tiny10s):
    plan = done.plan(GridPlan)
    out = done.folder.parent
    assert grids.run(plan, out, CPU, reuse=True).reused
    with pytest.raises(UserError, match="made by the same plan"):
        grids.run(plan, out, CPU, name="map")
    with pytest.raises(UserError, match=r"`training.epochs` was 1 and is 2"):
        grids.run(replace(plan, training=replace(plan.training, epochs=2)), out, CPU, name="map")


def record_of(accuracy, rows, columns, random=None, n=1000):
    """A record that has so many accuracies, seeds × rows × columns."""
    cells = []
    for seed, table in enumerate(accuracy):
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                cell = {"front_layer": row, "end_layer": column, "seed": seed, "error": None}
                cell["stitched"] = {"accuracy": table[i][j]}
                if random is not None:
                    cell["random_fronts"] = random
                    gap = table[i][j] - sum(random) / len(random)
                    cell["gaps"] = {"random_front": gap}
                cells.append(cell)
    return {
        "front_layers": rows, "end_layers": columns, "seeds": list(range(len(accuracy))),
        "cells": cells, "data": {"n_images": n},
    }  # fmt: skip


def test_a_front_layer_that_strays_is_named():
    rows = ["a", "b"]
    told = verdict(record_of([[[0.9, 0.5], [0.95, 0.8]]], rows, rows))
    assert len(told) == 1 and told[0].startswith("1 of 2 front layers are stitched better")
    assert "b (a 95.0%, b 80.0%)" in told[0]
    within_chance = verdict(record_of([[[0.9, 0.5], [0.82, 0.8]]], rows, rows))
    assert "None of 2 front layers" in within_chance[0]


def test_a_stitch_no_better_than_random_fronts_is_named():
    rows = ["a", "b"]
    record = record_of([[[0.9, 0.5], [0.51, 0.8]]], rows, rows, random=[0.5, 0.5])
    assert "2 of 4 stitches are no better" in verdict(record)[-1]
    assert "a → b, b → a" in verdict(record)[-1]


@pytest.mark.parametrize(("errors", "named"), [(1.9, True), (2.0, False)])
def test_no_better_is_within_the_error_of_the_difference(errors, named):
    """Of two shares of 1,000 other images each."""
    random, above = 0.5, 0.0
    for _ in range(20):  # the error depends a little on the share itself
        share = random + above
        above = errors * math.sqrt((share * (1 - share) + random * (1 - random)) / 1000)
    record = record_of([[[random + above, 0.9]]], ["a"], ["a", "b"], random=[random])
    assert ("a → a" in verdict(record)[-1]) == named


def test_quantities_are_means_over_seeds_of_what_is_there():
    record = record_of([[[0.5, 0.7]], [[0.7, None]]], ["a"], ["a", "b"])
    (accuracy,) = quantities(record)
    assert accuracy.mean[0].tolist() == pytest.approx([0.6, 0.7])
    assert np.isnan(accuracy.values[1, 0, 1])


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        ("abc", "abc", [(0, 0), (1, 1), (2, 2)]),
        ("abc", "cab", [(0, 1), (1, 2), (2, 0)]),
        ("abcde", "xyz", [(0, 0), (2, 1), (4, 2)]),
    ],
)
def test_the_diagonal_is_by_name_or_by_depth(rows, columns, expected):
    cells = [{"front_layer": row, "end_layer": column} for row in rows for column in columns]
    record = {"front_layers": list(rows), "end_layers": list(columns), "cells": cells}
    assert diagonal(record) == expected


def test_depth_is_that_of_the_network_not_of_the_list():
    """Of layers that somebody chose, in whatever order."""
    fronts, ends = {"f8": 0.9, "f9": 1.0, "f1": 0.0}, {"e1": 0.0, "e9": 1.0}
    record = record_of([[[0.5, 0.9]] * 3], list(fronts), list(ends))
    record["depths"] = {"front": fronts, "end": ends}
    assert diagonal(record) == [(2, 0), (1, 1)]
    told = verdict(record)[0]
    assert "1 of 2 front layers" in told and "f1 (e9 90.0%, e1 50.0%)" in told
    turned = record_of([[[0.5] * 3, [0.9] * 3]], ["e1", "e9"], ["f8", "f9", "f1"])
    turned["depths"] = {"front": ends, "end": fronts}
    assert diagonal(turned) == [(0, 2), (1, 1)]


def test_what_lies_on_a_diagonal():
    """Ties go to the first in depth, whichever is named first; pairs that were chosen are all."""
    half = {"a": 0.5}
    for ends in ({"x": 0.0, "y": 1.0}, {"y": 1.0, "x": 0.0}):
        cells = [("a", end) for end in ends]
        assert cells_on_diagonal(cells, half, ends) == [("a", "x")]
        assert cells_on_diagonal([(end, "a") for end in ends], ends, half) == [("x", "a")]
    chosen = [("r1", "r1"), ("r2", "r3"), ("r3", "r4")]
    depths = {f"r{number}": number / 4 for number in range(1, 5)}
    fronts, ends = ({cell[side]: depths[cell[side]] for cell in chosen} for side in (0, 1))
    assert cells_on_diagonal(chosen[::-1], fronts, ends) == chosen
    every = [(front, end) for front in fronts for end in ends]
    assert cells_on_diagonal(every, fronts, ends) == [("r1", "r1"), ("r3", "r3")]


def test_cells_of_equal_depth():
    front, end = (
        models.build(name, num_classes=10, in_channels=3) for name in ("tiny10", "resnet_w1")
    )

    def cells(**layers):
        return cells_of(plan_of(cells="diagonal", **layers), front, end)

    chosen = {"front_layers": ["relu8", "relu7"], "end_layers": ["relu", "layer3.2"]}
    assert cells(**chosen) == [("relu8", "layer3.2"), ("relu7", "layer3.2")]
    assert cells(front_layers=["relu8"]) == [("relu8", "layer3.2")]
    assert cells(end_layers=["layer3.2", "relu"]) == [("relu1", "relu"), ("relu8", "layer3.2")]
    every = cells()
    assert every[0] == ("relu1", "relu") and every[-1] == ("relu8", "layer3.2")
    assert len(every) == 8
    places = [stages(end).index(column) for _, column in every]
    assert places == sorted(places)
    for (row, column), place in zip(every, places, strict=True):
        own = stages(front).index(row) / 7
        assert all(abs(place / 9 - own) <= abs(other / 9 - own) + 1e-9 for other in range(10)), (
            column
        )


def test_depths_are_shares_of_the_stages():
    network = models.build("tiny10", num_classes=10, in_channels=3)
    assert depths(network, stages(network)) == pytest.approx([i / 7 for i in range(8)])
    before, conv, bn, relu = depths(network, ["relu2", "conv3", "bn3", "relu3"])
    assert before < conv < bn < relu == pytest.approx(2 / 7)
    first, last = depths(network, ["conv1", list(graph.graph_of(network).layers)[-1]])
    assert -1 / 7 <= first < 0 and 1 < last <= 8 / 7
    shallow = nn.Sequential(OrderedDict(flat=nn.Flatten(), fc=nn.Linear(4, 2)))
    shallow.input_shape = (1, 2, 2)
    assert 0 < depths(shallow, ["flat"])[0] < depths(shallow, ["fc"])[0] <= 1


def test_the_command(tiny10s, call_script, tmp_path):
    how = ("-i", "ps_inv", "-e", 1, "--no-robustness", "--no-pinv", "-o", tmp_path)
    layers = ("--front-layers", "relu2", "relu4", "--end-layers", "relu2,relu4")
    done = call_script(
        "stitch_map.py", *tiny10s, "digits", *layers, *how, "--run-name", "m", "--diagonal"
    )
    assert done.status == 0, done.err
    assert "accuracy of the stitched network" in done.out and "relu4" in done.out
    record = json.loads(next((tmp_path / "m" / "json").iterdir()).read_text())
    assert [(c["front_layer"], c["end_layer"]) for c in record["cells"]] == [
        ("relu2", "relu2"), ("relu4", "relu4"),
    ]  # fmt: skip
    taken = call_script("stitch_map.py", *tiny10s, "digits", *layers, *how, "--run-name", "m")
    assert taken.status == 2 and "was made by another plan" in taken.err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--front-layers", "bn9"), "unknown front layer 'bn9'; did you mean bn"),
        (("--no-robustness", "--attack-all"), "--attack-all says what to attack"),
        (("--seeds", "0"), "'0' is not a whole number of at least 1"),
        (("--seeds", "99999999999"), "is more than 1000, and each makes the whole map"),
        (("--run-name", "a/b"), "is no plain folder name"),
        (("--low-rank", "5", "--front-layers", "normalize"), "--low-rank"),
        (("-i", "eye", "--front-layers", "normalize"), "--init"),
        (("--similarity-images", "some"), "'some' is not a whole number of at least 1"),
        (
            (
                *("--flatten", "--controls", "--end-layers", "relu1", "--front-layers", "fc"),
                *("--recipe", "paper", "--no-pinv"),
            ),
            "--controls stitch the end to itself, but a map of 14,400×14,400 units has",
        ),
        (
            ("--recipe", "paper", "--no-pinv", "--fit-images", "9"),
            "--fit-images says what maps in closed form are computed from",
        ),
        (("-i", "eye"), "from relu1 to relu3: --init eye needs equally many channels"),
    ],
)
def test_mistakes_are_told_in_a_sentence(given, told, tiny10s, call_script, tmp_path):
    done = call_script("stitch_map.py", *tiny10s, "digits", "-o", tmp_path, *given)
    assert done.status == 2 and told in done.err and done.err.count("\n") <= 3
    assert "of memory" not in done.out + done.err
    assert not list(tmp_path.iterdir())


# Memory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="of Linux")
def test_the_memory_that_is_told_is_about_what_is_taken(tiny10s, tmp_path):
    """In a process of its own, which is not asked by `getrusage`: that counts the process by which
    it was started, too. Within a factor of two of the most that it held."""
    code = """
        import sys, torch
        from pathlib import Path
        from robust_stitching.plans import DataRef, GridPlan, NetworkRef, from_flat
        from robust_stitching.runs import grid
        from robust_stitching.runs.listener import Listener

        refs = {side: NetworkRef(path) for side, path in zip(("front", "end"), sys.argv[1:3])}
        plan = from_flat(GridPlan, refs | {
            "dataset": DataRef("digits"), "front_layers": ("relu1", "relu6"),
            "end_layers": ("relu1", "relu2"), "no_robustness": True, "epochs": 1,
        })
        said = []
        grid.run(plan, Path(sys.argv[3]), torch.device("cpu"), Listener(say=said.append))
        print(said[0])
        lines = Path("/proc/self/status").read_text().splitlines()
        print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, tiny10s), str(tmp_path)]
    own = {**os.environ, "PYTHONPATH": str(Path(training.__file__).parents[3])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
    said, taken = done.stdout.splitlines()
    told = float(re.fullmatch(r"4 maps, in about ([\d.]+) GB of memory\.", said)[1]) * 1e9
    assert told / 2 < int(taken) < told * 2


@pytest.mark.parametrize("flatten", [False, True])
def test_what_belongs_to_one_layer_alone_is_kept_once(flatten, donors, data):
    """And each pair has what it has by itself, bit for bit."""
    networks, form = [donor.network for donor in donors], Form(flatten=flatten)
    pairs = [(row, column) for row in ("bn7", "relu8") for column in ("relu7", "bn8", "fc")]
    found = matching.moments_of_all(*networks, pairs, data[0], form)
    for (row, column), own in zip(pairs, found, strict=True):
        (alone,) = matching.moments_of_all(*networks, [(row, column)], data[0], form)
        for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
            assert torch.equal(getattr(own, name), getattr(alone, name))
    first, second, *_, other, _, _ = found
    assert first.xx is second.xx and first.yy is other.yy and first.xx is not other.xx


def test_the_memory_of_direct_matching_is_told(donors):
    """One matrix for each layer, one for each pair, and what solving takes; controls begin anew."""
    networks = [donor.network for donor in donors]
    some = {"flatten": True, "front_layers": ["relu7", "relu8"], "end_layers": ["bn8", "fc"]}

    def told(**settings):
        plan = plan_of(**some, **settings)
        return memory_of(plan, cuts_of(plan, *networks), *networks, images=1)

    units, logits = graph.layout_of(networks[0], "relu7").units, 10
    kept = 2 * units**2 + units**2 + logits**2 + 2 * units * (units + logits)
    solving = SOLVING * units**2
    without = told(init="random", no_pinv=True)
    assert told() - without >= 8 * (kept + solving)
    assert told(init="random") == told()
    seeds = told(controls=True, seeds=2) - told(controls=True, seeds=2, init="random")
    assert seeds == 8 * (kept + solving)


# What careful readers found


class Repeating(nn.Module):
    """A block with a batch norm that is passed three times."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1, stride=2)
        self.block = nn.Sequential(
            nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, momentum=0.5), nn.ReLU()
        )
        self.pool, self.fc = nn.AdaptiveAvgPool2d(4), nn.Linear(96, 10)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = self.block(x)
        return self.fc(self.pool(x).flatten(1))


def test_a_batch_norm_that_is_passed_again_behind_a_layer_moves_as_by_itself(digits):
    torch.manual_seed(0)
    front, end = (rs.network(Repeating(), image_size=32, dataset="digits") for _ in "ab")
    splits = digits[0].between(0, 100), digits[1].between(0, 50)
    settings = {"epochs": 1, "recipe": "fast", "batch_size": 50, "no_robustness": True}
    layers = {"front_layers": ["stem", "block", "pool"], "end_layers": ["block"]}
    assert alike(front.network, layers["front_layers"]) == [["stem", "block"], ["pool"]]
    for cell in rs.stitch_map(front, end, splits, **layers, **settings).cells:
        alone = rs.stitch(front, end, *astuple(cell.plan.cut), splits, **settings)
        ours, theirs = cell.trained.network.state_dict(), alone.network.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        assert not list(differences(numbers(cell.measured), numbers(alone.measured)))


def test_pairs_may_repeat_a_layer(donors):
    front, end = (donor.network for donor in donors)
    some = {"front_layers": ["bn1", "bn1", "bn2"], "end_layers": ["relu1", "relu2", "relu2"]}
    expected = [("bn1", "relu1"), ("bn1", "relu2"), ("bn2", "relu2")]
    assert cells_of(plan_of(cells="pairs", **some), front, end) == expected
    assert len(cells_of(plan_of(**some), front, end)) == 4


def test_the_diagonal_is_of_the_names_that_both_have_be_it_one():
    record = record_of([[[0.5, 0.9], [0.5, 0.9], [0.95, 0.5]]], ["a", "b", "c"], ["c", "x"])
    assert diagonal(record) == [(2, 0)]
    assert "c (" not in verdict(record)[0]


def test_seeds_beyond_the_largest_are_refused_at_once():
    with pytest.raises(UserError, match="seed=9223372036854775807 with seeds=2"):
        plan_of(seed=2**63 - 1, seeds=2)
    assert plan_of(seed=2**63 - 2, seeds=2).seeds == 2


def test_names_of_layers_are_no_formulas_and_stand_where_they_belong(tmp_path):
    rows, columns = ["c$1", "r$_{$"], ["$x$", "y", "z"]
    values = np.arange(6.0).reshape(2, 3)
    figure = figure_of(
        values, rows, columns, 0, 6, colours="viridis", title="t", labels=("front: A", "end: B"),
        caption="$c$",
    )  # fmt: skip
    save(figure, tmp_path / "map")
    assert as_png(figure, whole=True).startswith(b"\x89PNG")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == rows
    assert [text.get_text() for text in axes.get_xticklabels()] == columns
    assert (axes.get_ylabel().split(), axes.get_xlabel().split()) == (
        ["front:", "A"],
        ["end:", "B"],
    )


class Noting(Keeping):
    """Which states are asked for."""

    def of(self, training):
        asked.append(training)
        return super().of(training)


asked = []


@pytest.mark.parametrize(
    "settings",
    [
        {
            "seeds": 2,
            "controls": True,
            "random_fronts": 2,
            "no_pinv": True,
            "noise_sigmas": (1.0,),
        },
        {"seeds": 2, "adversary": {"kind": "madry", "epsilon": 0.02, "perturb_steps": 1}},
    ],
    ids=["with controls", "under attack"],
)
def test_no_training_takes_up_the_state_of_another(settings, donors, data):
    asked.clear()
    layers = {"front_layers": ["relu6", "relu7"], "end_layers": ["relu7"], "epochs": 1}
    small = data[0].between(0, 16), data[1].between(0, 16)
    stitch_grid(*donors, *small, plan_of(**layers, **settings), keeping=Noting())
    noise = 2 * 2  # true and shuffled labels, of both cells
    assert len(asked) == len(set(asked)) == (2 * (4 + noise) if "controls" in settings else 2 * 2)


def test_a_cell_that_has_diverged_stays_so_when_training_goes_on(donors, data):
    pair, other = ("relu6", "relu7"), ("relu7", "relu7")
    plans = {cut: plan_of().cell(*cut, 0) for cut in (pair, other)}
    networks = [donor.network for donor in donors]
    found = matching.moments_of_all(*networks, list(plans), data[0])
    moments = dict(zip(plans, found, strict=True))
    first, second = (
        training._Group(*networks, plans, *data, LABELS, moments, main=False) for _ in "ab"
    )
    first.cells[pair].error = "became NaN"
    kept = first._state()
    second._take_up(SimpleNamespace(read=lambda: kept))
    assert second.cells[pair].error == "became NaN" and list(second.going_on) == [other]


def test_similarities_do_not_depend_on_how_many_cells_are_compared_at_once(
    donors, data, monkeypatch
):
    layers = {"front_layers": ["relu3", "relu7"], "end_layers": ["relu2"], "epochs": 1}
    once = stitch_grid(*donors, *data, plan_of(**layers))
    monkeypatch.setattr(measure, "KEPT_BYTES", 1)
    apart = stitch_grid(*donors, *data, plan_of(**layers))
    for one, other in zip(once.cells, apart.cells, strict=True):
        assert not list(differences(numbers(one.measured), numbers(other.measured)))
        assert other.measured.scores["stitched"].cka_to_end is not None


def test_a_file_of_a_map_holds_the_first_values_and_direct_matching_too(donors, data, tmp_path):
    layers = {"front_layers": ["relu7"], "end_layers": ["relu8"], "init": "random", "epochs": 1}
    result = stitch_grid(*donors, *data, plan_of(**layers))
    (cell,) = result.cells
    paths = write_files(result, as_record(result, "command"), tmp_path)
    kept = checkpoints.read(paths["maps"] / "relu7-relu8.pt")
    maps = {
        "initial": cell.trained.untrained.transform.values(),
        "direct_matching": (cell.trained.direct.weight, cell.trained.direct.bias),
    }
    for name, (weight, bias) in maps.items():
        assert torch.equal(kept[name]["weight"], weight) and torch.equal(kept[name]["bias"], bias)
        assert not torch.equal(weight, kept["weight"])


def test_each_cell_has_a_file_of_its_own_however_layers_are_called(digits, data, tmp_path):
    long = "a" * 130
    layers = {"a": 3, "a-b": 3, "a$": 1, "b-c": 3, "c": 1, long: 3}
    parts = {name: nn.Conv2d(2 if number else 1, 2, size, padding=size // 2)
             for number, (name, size) in enumerate(layers.items())}  # fmt: skip
    torch.manual_seed(0)
    network = nn.Sequential(
        OrderedDict(
            parts | {"mean": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(2, 10)}
        )
    )
    settings = {"front_layers": ["a", "a-b", "a$", long], "end_layers": ["b-c", "c", long]}
    quick = {"epochs": 1, "no_robustness": True, "no_pinv": True}
    result = rs.stitch_map(network, network, data, **settings, **quick, seeds=2)
    record = as_record(result, "command")
    paths = write_files(result, record, tmp_path)
    assert len({cell["map"] for cell in record["cells"]}) == 24
    assert record["cells"][0]["map"] == "a-b-c-seed0.pt"
    for cell in record["cells"]:
        kept = checkpoints.read(paths["maps"] / cell["map"])
        assert {
            key: cell[key] for key in ("front_layer", "end_layer", "seed")
        }.items() <= kept.items()


def test_what_is_measured_elsewhere_is_in_the_table_and_curves_are_means(donors, data):
    layers = {"front_layers": ["relu6", "relu7"], "end_layers": ["relu6", "relu7"], "seeds": 2}
    some = data[1].between(0, 20)
    result = stitch_grid(*donors, *data, plan_of(**layers, epochs=1), elsewhere=some)
    record = as_record(result, "command")
    table = pd.DataFrame(lines(record))
    other = table[
        table.quantity.str.contains("elsewhere") | table.network.str.contains("elsewhere")
    ]
    assert len(other) and set(other.n_images) == {20}
    drawn = {line.get_label(): line.get_ydata() for line in curves(record).axes[0].lines}
    found = [
        np.mean([c.measured.scores["stitched"].accuracy for c in result.cells
                 if c.plan.cut.front_layer == c.plan.cut.end_layer == layer])
        for layer in ("relu6", "relu7")
    ]  # fmt: skip
    assert list(drawn["stitched"]) == pytest.approx(found)
    there = result.table("elsewhere.stitched.accuracy")
    first = result.cells[0].elsewhere.scores["stitched"].accuracy
    again = result.cells[4].elsewhere.scores["stitched"].accuracy
    assert there.loc["relu6", "relu6"] == pytest.approx((first + again) / 2)


def test_where_every_stitch_diverges_the_command_says_so_once_and_ends_with_1(
    tiny10s, call_script, tmp_path
):
    done = call_script(
        "stitch_map.py", *tiny10s, "digits", "--front-layers", "relu6", "relu7", "--end-layers",
        "relu7", "--recipe", "paper", "-e", "2", "--lr", "1e30", "--optimizer", "sgd", "--controls",
        "--random-fronts", "1", "--no-robustness", "-o", tmp_path, "--run-name", "far",
    )  # fmt: skip
    assert done.status == 1, done.err
    assert not (tmp_path / "far" / "maps").exists()
    assert not [line for line in done.out.splitlines() if line.startswith("maps ")]
    notes = json.loads(only(tmp_path / "far" / "json").read_text())["notes"]
    assert sum("the end stitched to itself at relu7" in note for note in notes) == 1
    assert sum("a random front at" in note for note in notes) == 2
