"""A scale and a bias a channel, linear maps, two layers: the ladder of what a map can do."""

import json
import os
import shlex
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import robust_stitching as rs
from left_behind import only
from robust_stitching import checkpoints, models
from robust_stitching.basics.errors import UserError
from robust_stitching.evaluation import evaluate
from robust_stitching.graphs import graph
from robust_stitching.graphs.kinds import KINDS, as_two_layers, layer_between
from robust_stitching.graphs.layout import Layout, resize
from robust_stitching.graphs.stitched import StitchedNetwork, rebuild
from robust_stitching.graphs.transform import Form, LinearMap
from robust_stitching.plans import (
    Cut,
    DataRef,
    GridPlan,
    NetworkRef,
    Objective,
    StitchPlan,
    Transform,
    from_flat,
    identity,
    stitching,
)
from robust_stitching.plans.parts import MAPS
from robust_stitching.plans.sweep import read
from robust_stitching.report.drawing import as_png
from robust_stitching.report.stitch.maps import map_figure
from robust_stitching.similarity import Moments
from robust_stitching.stitching import matching
from robust_stitching.stitching.check import check_map
from robust_stitching.stitching.fit import find_map
from robust_stitching.stitching.grid.record import as_record
from robust_stitching.stitching.grid.run import stitch_grid
from robust_stitching.stitching.initial import first_values
from robust_stitching.stitching.keeping import State
from robust_stitching.stitching.record import as_record as record_of
from robust_stitching.stitching.run import stitch
from robust_stitching.stitching.terms import terms_of
from robust_stitching.training import Trainer

OTHERS = ("affine-channels", "mlp")
QUICK = {"epochs": 2, "batch_size": 64, "lr": 1e-2, "no_robustness": True}
SMALL = "-e 1 -b 512 -lr 1e-2 -o results --no-robustness --run-name run"


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lenet(seed: int) -> torch.nn.Module:
    return models.build("lenet", num_classes=10, in_channels=1, seed=seed).eval()


def images(n: int = 6) -> Tensor:
    return torch.rand(n, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def donors(lenets):
    return [checkpoints.load(path) for path in lenets]


@pytest.fixture(scope="module")
def data(digits):
    return digits[0].between(0, 128), digits[1].between(0, 40)


# What each kind computes


MAP, VECTOR, TOKENS = Layout(6, (5, 4)), Layout(6), Layout(6, (3, 2), prefix=1)


@pytest.mark.parametrize(
    ("own", "target"),
    [
        (MAP, MAP),
        (MAP, Layout(6, (3, 2))),
        (VECTOR, VECTOR),
        (MAP, VECTOR),
        (TOKENS, TOKENS),
        (TOKENS, MAP),
        (VECTOR, TOKENS),
    ],
)
def test_each_kind_is_its_formula_at_every_position(own, target):
    x = randn(3, *own.shape).float()
    rows = resize(x, own, target).double()
    rows = rows.movedim(1, -1) if rows.ndim == 4 else rows
    scale, bias = randn(6, seed=1), randn(6, seed=2)
    v, u, c = randn(6, 12, seed=3), randn(12, 6, seed=4), randn(12, seed=5)
    hidden = np.maximum(rows.numpy() @ u.numpy().T + c.numpy(), 0)
    expected = {
        "affine-channels": rows.numpy() * scale.numpy() + bias.numpy(),
        "mlp": hidden @ v.numpy().T + bias.numpy(),
    }
    for kind, values in (("affine-channels", (scale, bias)), ("mlp", (v, bias, u, c))):
        layer = layer_between(own, target, Form(kind=kind))
        layer.set(*values)
        found = layer(x)
        assert found.shape[1:] == target.shape
        found = found.movedim(1, -1) if found.ndim == 4 else found
        np.testing.assert_allclose(found.detach(), expected[kind], atol=1e-4, rtol=1e-4)
        assert all(torch.equal(a, b.float()) for a, b in zip(layer.values(), values, strict=True))
        assert layer.resizes == (not own.places_like(target))


def test_two_layers_of_all_units():
    layer = layer_between(Layout.of((2, 3, 3)), Layout.of((4, 2, 1)), Form(True, kind="mlp"))
    values = [randn(*part.shape, seed=n).float() for n, part in enumerate(layer.parts())]
    layer.set(*values)
    v, b, u, c = (value.double() for value in values)
    x = randn(5, 2, 3, 3).float()
    expected = (x.double().flatten(1) @ u.T + c).clamp(min=0) @ v.T + b
    torch.testing.assert_close(layer(x).double().flatten(1), expected, atol=1e-4, rtol=1e-4)
    assert layer(x).shape == (5, 4, 2, 1) and not layer.resizes


@pytest.mark.parametrize(
    ("kind", "front", "end", "expected"),
    [
        ("affine-channels", 7, 7, 2 * 7),
        ("linear", 5, 7, 5 * 7 + 7),
        ("mlp", 5, 7, (5 * 14 + 14) + (14 * 7 + 7)),
    ],
)
def test_how_many_parameters_there_are(kind, front, end, expected):
    layouts, form = (Layout(front, (4, 4)), Layout(end, (4, 4))), Form(kind=kind)
    layer = layer_between(*layouts, form)
    assert layer.size == expected
    assert form.weights(*layouts) == layer.multipliers.numel()


# The ladder: each can be any map of the kind before it


@pytest.mark.parametrize(
    ("model", "layer"),
    [("lenet", "relu2"), ("lenet", "relu3"), ("rvit", "transformers.0.tokens")],
    ids=["maps", "vectors", "tokens"],
)
def test_a_map_of_one_kind_is_one_of_the_next(model, layer):
    """The same answers, whether scales, a diagonal matrix or two layers make them."""
    network = models.build(model, num_classes=10, in_channels=1, seed=0).eval()
    networks = {
        kind: StitchedNetwork(network, layer, network, layer, form=Form(kind=kind)).eval()
        for kind in MAPS
    }
    channels = networks["linear"].transform.rows
    scale, bias = randn(channels, seed=1).float(), randn(channels, seed=2).float()
    full = randn(channels, channels, seed=3).float() / channels**0.5
    x = images(2)
    with torch.no_grad():
        networks["affine-channels"].transform.set(scale, bias)
        networks["linear"].transform.set(scale.diag(), bias)
        networks["mlp"].transform.set(scale.diag(), bias)
        expected = networks["linear"](x)
        for kind in OTHERS:
            torch.testing.assert_close(networks[kind](x), expected, atol=1e-4, rtol=1e-4)
        networks["linear"].transform.set(full, bias)
        networks["mlp"].transform.set(full, bias)
        other = networks["linear"](x)
        torch.testing.assert_close(networks["mlp"](x), other, atol=1e-4, rtol=1e-4)
    assert (other - expected).abs().max() > 1e-3


def test_two_layers_that_are_a_linear_map_are_it_to_the_last_bit_of_float64():
    matrix, bias, x = randn(4, 7), randn(4, seed=1), randn(50, 7, seed=2)
    v, b, u, c = as_two_layers(matrix, bias)
    found = (x @ u.T + c).clamp(min=0) @ v.T + b
    torch.testing.assert_close(found, x @ matrix.T + bias, atol=1e-14, rtol=1e-14)


def related(n: int = 400) -> tuple[Tensor, Tensor]:
    """x and a y that follows it channel by channel, across channels, and not linearly."""
    x = randn(n, 5) * torch.linspace(0.3, 3, 5) + 1
    return x, 2 * x + x @ randn(5, 5, seed=1) + (x @ randn(5, 5, seed=2)).abs() - 2


def moments(x: Tensor, y: Tensor) -> Moments:
    found = Moments(x.shape[1], y.shape[1])
    for a, b in zip(x.split(70), y.split(70), strict=True):
        found.update(a, b)
    return found


def test_direct_matching_channel_by_channel_is_the_line_through_each():
    x, y = related()
    x[:, 3] = 0.1  # a dead channel
    scale, bias = matching.channelwise(moments(x, y))
    for channel in (0, 1, 2, 4):
        slope, offset = np.polyfit(x[:, channel], y[:, channel], 1)
        assert scale[channel].item() == pytest.approx(slope, rel=1e-5)
        assert bias[channel].item() == pytest.approx(offset, rel=1e-4, abs=1e-5)
    assert scale[3] == 0 and bias[3].item() == pytest.approx(y[:, 3].mean().item(), rel=1e-5)


def test_least_squares_error_falls_along_the_ladder():
    x, y = related()
    seen = moments(x, y)

    def error(predicted: Tensor) -> float:
        return float((predicted.detach() - y).square().sum())

    scale, bias = matching.channelwise(seen)
    by_channel = error(x * scale + bias)
    by_rank = [
        error(x @ matrix.double().T + offset)
        for matrix, offset in (matching.direct(seen, rank=rank) for rank in (1, 2, 3, 4, 5))
    ]
    matrix, offset = (value.double() for value in matching.direct(seen))
    linear = error(x @ matrix.T + offset)
    assert by_rank == sorted(by_rank, reverse=True)
    assert by_rank[-1] == pytest.approx(linear, rel=1e-6)
    assert by_channel > 1.1 * linear and by_rank[0] > 1.1 * linear
    layer = layer_between(Layout(5), Layout(5), Form(kind="mlp")).double()
    layer.set(matrix, offset)
    assert error(layer(x)) == pytest.approx(linear, rel=1e-9)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (layer(x) - y).square().sum().backward()
        optimizer.step()
    assert error(layer(x)) < 0.8 * linear


@pytest.fixture(scope="module")
def ladder(donors, data):
    """A stitch by each kind, trained to be near the end's own activations on these very images."""
    how = QUICK | {"objective": "direct", "weight_decay": 0.0, "init": "ps_inv"}
    how |= {"epochs": 15, "lr": 2e-3}
    train = data[0]
    return {
        kind: stitch(*donors, train, train, stitching("relu2", "relu2", map=kind, **how))
        for kind in MAPS
    }


def test_the_ladder_between_two_networks(ladder):
    gaps = {kind: result.scores["stitched"].l2_to_end for kind, result in ladder.items()}
    matched = {kind: result.scores["direct_matching"].l2_to_end for kind, result in ladder.items()}
    assert matched["affine-channels"] > matched["linear"]
    assert matched["mlp"] == pytest.approx(matched["linear"], rel=1e-5)
    assert gaps["mlp"] < 0.97 * matched["linear"] < gaps["affine-channels"]


# First values


def values(kind: str, init: str, inputs: int = 6, outputs: int = 6, seed: int = 0):
    """What a map begins with."""
    layer = layer_between(Layout(inputs), Layout(outputs), Form(kind=kind))
    layer.set(*first_values(Transform(init, map=kind), inputs, outputs, seed))
    return layer.values()


@pytest.mark.parametrize(("init", "scale"), [("eye", 1), ("ones-zeros", 1), ("zeros", 0)])
def test_scales_begin_with(init, scale):
    found, bias = values("affine-channels", init)
    assert torch.equal(found, torch.full((6,), float(scale))) and not bias.any()


@pytest.mark.parametrize("init", ["eye", "perm", "ones-zeros"])
def test_two_layers_begin_as_the_linear_map(init):
    matrix, bias = values("linear", init)
    x = randn(20, 6).float()
    v, b, u, c = values("mlp", init)
    torch.testing.assert_close((x @ u.T + c).relu() @ v.T + b, F.linear(x, matrix, bias))
    assert u.shape == (12, 6) and v.shape == (6, 12)


def test_random_values_are_those_of_torchs_layers():
    for kind, inputs in (("affine-channels", [1, 1]), ("mlp", [200, 200, 900, 900])):
        for part, n in zip(values(kind, "random", 900, 100 if kind == "mlp" else 900), inputs,
                           strict=True):  # fmt: skip
            bound = n**-0.5
            assert part.abs().max() <= bound
            assert part.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
        once, again, other = (values(kind, "random", seed=seed) for seed in (0, 0, 1))
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(once, other, strict=True))


@pytest.mark.parametrize("kind", OTHERS)
def test_direct_matching_is_where_ps_inv_begins(kind, digits):
    plan = stitching("relu2", "relu2", map=kind, init="ps_inv", epochs=1, batch_size=64, lr=1e-2)
    cuts = [(lenet(seed), "relu2") for seed in (0, 1)]
    train = digits[0].between(0, 128)
    found = find_map(*cuts, train, digits[1].between(0, 20), plan)
    seen = matching.moments_of(*cuts[0], *cuts[1], train)
    by_channel = kind == "affine-channels"
    weight, bias = matching.channelwise(seen) if by_channel else matching.direct(seen)
    assert torch.equal(found.direct.weight, weight) and torch.equal(found.direct.bias, bias)
    expected = (weight, bias) if by_channel else as_two_layers(weight, bias)
    first = found.maps[0].tensors().values()
    assert all(torch.equal(a, b) for a, b in zip(first, expected, strict=True))
    assert not torch.equal(found.maps[-1].weight, found.maps[0].weight)


# Training


@pytest.mark.parametrize("kind", OTHERS)
def test_it_is_trained_as_a_plain_loop_trains_it(kind, donors, data):
    """L1 is the mean over all weights, weight decay of all numbers."""
    train, test = data
    settings = {"l1": 0.3, "weight_decay": 0.1, "init": "random", "optimizer": "sgd"}
    plan = stitching("relu4", "relu4", map=kind, **QUICK | settings)
    result = stitch(*donors, train, test, plan)
    parts = [v.requires_grad_() for v in first_values(plan.transform, 84, 84, 0)]
    optimizer = torch.optim.SGD(parts, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=0.1)
    front, end = (donor.network for donor in donors)
    head, rates = graph.features(front, ["relu4"]), iter((1e-2, 1e-2, 1e-3, 1e-4))
    for epoch in (0, 1):
        for x, labels in train.epoch(64, seed=0, epoch=epoch):
            optimizer.param_groups[0]["lr"] = next(rates)
            x = head(x)[0].detach()
            if kind == "mlp":
                v, b, u, c = parts
                y, weights = F.linear(F.linear(x, u, c).relu(), v, b), [u, v]
            else:
                y, weights = x * parts[0] + parts[1], parts[:1]
            l1 = sum(w.abs().sum() for w in weights) / sum(w.numel() for w in weights)
            optimizer.zero_grad()
            (F.cross_entropy(end.fc3(y), labels) + 0.3 * l1).backward()
            optimizer.step()
    for found, expected in zip(result.final.tensors().values(), parts, strict=True):
        torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", OTHERS)
def test_an_interrupted_training_goes_on_bit_for_bit(kind, digits, tmp_path, monkeypatch):
    plan = stitching("relu2", "relu2", map=kind, save_frequency=1, **QUICK)
    cuts, train = [(lenet(seed), "relu2") for seed in (0, 1)], digits[0].between(0, 256)
    test = digits[1].between(0, 20)
    whole = find_map(*cuts, train, test, plan)
    step, steps = Trainer.step, []

    def interrupting(trainer, x, labels):
        step(trainer, x, labels)
        steps.append(trainer)
        if len(steps) == 6:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", interrupting)
    with pytest.raises(KeyboardInterrupt):
        find_map(*cuts, train, test, plan, state=State(tmp_path / "state.pt"))
    again = find_map(*cuts, train, test, plan, state=State(tmp_path / "state.pt"))
    assert len(steps) == 8 and len(again.maps) == len(whole.maps) == 5
    for one, other in zip(whole.maps, again.maps, strict=True):
        ours, theirs = one.tensors(), other.tensors()
        assert ours.keys() == theirs.keys() and one.iteration == other.iteration
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "settings",
    [
        {"map": "affine-channels", "controls": True, "random_fronts": 1, "recipe": "fast"},
        {"map": "mlp", "recipe": "fast", "l1": 0.01, "target_type": "soft_2"},
        {"map": "mlp", "init": "random", "objective": "fula"},
        {"map": "affine-channels", "adversary": {
            "kind": "madry", "epsilon": 0.02, "perturb_steps": 2}},
    ],
)  # fmt: skip
def test_every_cell_is_its_single_stitch(settings, donors, data):
    refs = {"front": NetworkRef("a"), "end": NetworkRef("b"), "dataset": DataRef("digits")}
    layers = {"front_layers": ["relu2", "pool2"], "end_layers": ["pool2"]}
    common = {"recipe": "paper", **QUICK, "epochs": 1}
    plan = from_flat(GridPlan, refs | layers | common | settings)
    result = stitch_grid(*donors, *data, plan)
    for cell in result.cells:
        alone = stitch(*donors, *data, cell.plan)
        ours, theirs = cell.trained.network.state_dict(), alone.network.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        for name, scores in alone.scores.items():
            assert cell.measured.scores[name].accuracy == scores.accuracy
            assert cell.measured.scores[name].loss == scores.loss
        assert set(cell.notes) <= set(alone.notes)
    record = as_record(result, "command")
    assert {cell["transformation"]["kind"] for cell in record["cells"]} == {settings["map"]}
    size = {"affine-channels": 32, "mlp": (16 * 32 + 32) + (32 * 16 + 16)}[settings["map"]]
    assert record["cells"][0]["transformation"]["parameters"] == size


# Files and commands


@pytest.mark.parametrize(
    ("script", "after", "flags"),
    [
        ("find_transform.py", "digits", "--map affine-channels --init ps_inv"),
        ("find_transform.py", "digits", "--map mlp --madry --epsilon 2/255 --perturb-steps 1"),
        ("find_cross_dataset_transform.py", "digits digits", "--map mlp --recipe fast"),
    ],
)
def test_the_commands(script, after, flags, call_script, lenets, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [*lenets, "relu2", "relu2", *after.split(), *shlex.split(f"{SMALL} {flags}")]
    done = call_script(script, *command)
    assert (done.status, done.err) == (0, ""), done.err
    kind = shlex.split(flags)[1]
    folder = tmp_path / "results" / "run"
    record = json.loads(only(folder / "json").read_text())
    size = {"affine-channels": 32, "mlp": (16 * 32 + 32) + (32 * 16 + 16)}[kind]
    assert record["params"]["map"] == record["transformation"]["kind"] == kind
    assert record["transformation"]["parameters"] == size
    assert f"map    {kind}, {size:,} parameters" in done.out
    assert only(folder / "pdf").read_bytes().startswith(b"%PDF")
    matrix = checkpoints.read(only(folder / "matrix"))
    frank = checkpoints.load(only(folder / "frank_model")).network
    names = [name for name, _ in frank.transform.named_parameters()]
    assert all(torch.equal(getattr(frank.transform, name), matrix[name]) for name in names)
    assert evaluate(frank, digits[1]).accuracy == record["stitched"]["accuracy"]
    assert matrix["history"]["weight"].shape[1:] == matrix["initial"]["weight"].shape
    anew = StitchedNetwork(frank, "end.pool2", frank, "end.pool2")  # stitched again
    assert torch.equal(rebuild(anew.architecture)(images()).isfinite().all(), torch.tensor(True))


def test_the_plan_of_a_result_makes_it_again(call_script, lenets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = shlex.split(SMALL.replace("--run-name run", "--debug --no-pinv --map mlp"))
    done = call_script("find_transform.py", *lenets, "relu4", "relu4", "digits", *small)
    found = only(only(tmp_path / "results") / "json")
    how = ["--plan", found, "-o", "again", "--run-name", "run"]
    again = call_script("find_transform.py", *how)
    assert (done.status, again.status) == (0, 0), again.err
    one, other = (
        checkpoints.read(only(folder / "matrix"))
        for folder in (found.parents[1], tmp_path / "again" / "run")
    )
    names = ("weight", "bias", "hidden_weight", "hidden_bias")
    assert all(torch.equal(one[name], other[name]) for name in names)


def test_a_map_of_maps(call_script, lenets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layers = ["--front-layers", "pool2", "--end-layers", "relu2"]
    command = [*lenets, "digits", *layers, *shlex.split(f"{SMALL} --map mlp --frank-models")]
    done = call_script("stitch_map.py", *command)
    assert done.status == 0, done.err
    assert "map    mlp, 1,072 parameters" in done.out
    folder = tmp_path / "results" / "run"
    kept = checkpoints.read(folder / "maps" / "pool2-relu2.pt")
    frank = checkpoints.load(folder / "frank_models" / "pool2-relu2.pt").network.transform
    for name, value in frank.named_parameters():
        assert torch.equal(kept[name], value)
    assert kept["initial"]["hidden_weight"].shape == (32, 16)
    assert kept["direct_matching"]["weight"].shape == (16, 16)
    page = only(folder / "html").read_text()
    assert "maps (mlp, 1,072 parameters)" in page


def test_a_sweep_climbs_the_ladder(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'dataset = "digits"\npairs = [["A", "A"]]\n'
        'map = ["affine-channels", "linear", "mlp"]\n[networks]\nA = "model.pt"\n'
    )
    asked = read(path).asked
    assert [one.options for one in asked] == [{"map": kind} for kind in KINDS]
    assert [one.plan.transform.whiten for one in asked] == [False, True, False]
    assert len({identity(one.plan) for one in asked}) == 3


def test_the_library_takes_a_kind(donors, data):
    short = QUICK | {"epochs": 1}
    result = rs.stitch(*donors, "relu4", "relu4", data, map="mlp", recipe="fast", **short)
    assert set(result.final.tensors()) == {"weight", "bias", "hidden_weight", "hidden_bias"}
    assert any("best linear map" in note for note in result.notes)
    plain = rs.stitch(*donors, "relu4", "relu4", data, **short)
    said = rs.stitch(*donors, "relu4", "relu4", data, map="linear", **short)
    assert set(plain.final.tensors()) == {"weight", "bias"}
    assert torch.equal(plain.final.weight, said.final.weight)


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("pinv", [True, False])
def test_a_map_is_drawn(kind, pinv, ladder):
    result = ladder[kind]
    maps = {"before training": result.initial, "trained": result.final}
    maps |= {"direct matching": result.direct} if pinv else {}
    maps = {name: {k: v.numpy() for k, v in m.tensors().items()} for name, m in maps.items()}
    figure, caption = map_figure(record_of(result, "command"), maps)
    assert as_png(figure) and caption.endswith(".")
    titles = [axes.get_title() for axes in figure.axes]
    assert ("trained, first layer" in titles) == (kind == "mlp")
    assert ("scale" in titles) == (kind == "affine-channels")
    assert ("direct matching, own range" in titles) == (kind == "linear" and pinv)


# What there was before stays as it was


def test_a_linear_map_is_written_as_ever():
    assert Form(rank=3).as_dict() == {"flatten": False, "rank": 3, "masked": False}
    assert Form(kind="mlp").as_dict()["kind"] == "mlp"
    refs = {"front": NetworkRef("a"), "end": NetworkRef("b"), "dataset": DataRef("digits")}
    plan = StitchPlan(**refs, cut=Cut("x", "y"))
    assert identity(replace(plan, transform=Transform(map="linear"))) == identity(plan)
    assert identity(replace(plan, transform=Transform(map="mlp"))) != identity(plan)
    front = StitchedNetwork(lenet(0), "relu2", lenet(1), "relu2")
    assert list(front.transform.state_dict()) == ["weight", "bias"]
    assert isinstance(rebuild(front.architecture | {"transform": {}}).transform, LinearMap)


# What excludes each other


@pytest.mark.parametrize(
    ("plan", "rows", "columns", "told"),
    [
        (
            {"map": "affine-channels"},
            16,
            32,
            "needs equally many channels .* has 32 and .* 16; use",
        ),
        ({"map": "affine-channels", "low_rank": 2}, 8, 8, "low_rank=2 is of one matrix"),
        ({"map": "affine-channels", "mask": "hungarian"}, 8, 8, "mask='hungarian' is of one"),
        ({"map": "affine-channels", "flatten": True}, 8, 8, "flatten=True maps units to units"),
        ({"map": "affine-channels", "init": "perm"}, 8, 8, "init='perm' mixes channels"),
        ({"map": "affine-channels", "init": "procrustes"}, 8, 8, "init='procrustes' mixes"),
        ({"map": "mlp", "low_rank": 2}, 8, 8, "map='mlp' has two matrices; leave one"),
        ({"map": "mlp", "mask": "semi-match"}, 8, 8, "map='mlp' has two matrices"),
        ({"map": "mlp", "init": "zeros"}, 8, 8, "init='zeros' has nothing to learn from"),
        ({"map": "mlp", "init": "eye"}, 8, 4, "init='eye' needs equally many channels"),
        ({"map": "mlp", "whiten": True}, 8, 8, "whiten=True is for full matrices"),
        ({"map": "affine-channels", "whiten": True}, 8, 8, "whiten=True is for full matrices"),
        ({"map": "mlp", "flatten": True}, 6000, 6000, "has 144,000,000 weights"),
    ],
)
def test_what_excludes_each_other(plan, rows, columns, told):
    with pytest.raises(UserError, match=told) as refused:
        check_map(Transform(**plan), rows, columns)
    assert str(refused.value).count(". ") == 0


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("init", ["random", "eye", "ones-zeros", "ps_inv"])
def test_what_goes_together(kind, init):
    check_map(Transform(init, map=kind), 8, 8)


def test_an_unknown_kind():
    with pytest.raises(UserError, match="unknown map 'affine'; did you mean affine-channels"):
        stitching("a", "b", map="affine")


@pytest.mark.parametrize(
    ("script", "layers"),
    [("find_transform.py", "pool1 relu2 digits"), ("stitch_map.py", "digits")],
)
def test_unequal_channels_are_refused_before_anything_starts(
    script, layers, call_script, lenets, tmp_path
):
    command = [*lenets, *layers.split(), "--map", "affine-channels", "-o", tmp_path / "results"]
    if script == "stitch_map.py":
        command += ["--front-layers", "pool1", "--end-layers", "pool2"]
    done = call_script(script, *command)
    *_, told = done.err.splitlines()
    where = "from pool1 to pool2: " if script == "stitch_map.py" else ""
    assert told.startswith(f"{script}: {where}--map affine-channels needs equally")
    assert done.status == 2
    assert "has 6 and the end layer 16; use --map linear" in told
    assert not (tmp_path / "results").exists()


def test_terms_know_both_layers():
    (term,) = terms_of(Objective(l1=0.1))
    layer = layer_between(Layout(2), Layout(1), Form(kind="mlp"))
    v, b = torch.tensor([[1.0, -2.0]]), torch.tensor([100.0])
    layer.set(v, b, torch.tensor([[3.0, 0.0], [0.0, -6.0]]), torch.tensor([100.0, 100.0]))
    seen = type("Seen", (), {"transform": layer})
    assert term.value(seen).item() == pytest.approx((1 + 2 + 3 + 6) / 6)
