"""Images that only the front takes for the real ones, and maps that are trained on them."""

import copy
import json
import signal
from dataclasses import replace

import pytest
import torch

import robust_stitching as rs
from conftest import REPOSITORY
from in_float64 import InFloat64
from left_behind import names, only
from robust_stitching import checkpoints, models
from robust_stitching import data as datasets
from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints.state import StateFile
from robust_stitching.data import Split
from robust_stitching.graphs import graph
from robust_stitching.plans import DataRef, GridPlan, NetworkRef, StitchPlan, from_flat, identity
from robust_stitching.plans import stitching as stitching_plan
from robust_stitching.report.making import making
from robust_stitching.report.stitch.text import called_images
from robust_stitching.stitching import check, invariant, run
from robust_stitching.stitching.grid.cells import cuts_of
from robust_stitching.stitching.grid.memory import memory_of
from robust_stitching.stitching.grid.run import stitch_grid
from robust_stitching.stitching.invariant import InvariantImages, invariant_to, noise_at
from robust_stitching.stitching.record import as_record, numbers
from robust_stitching.stitching.run import stitch
from streamed_files import write_celeba

LAYER = "relu2"
OPTIONS = {"epochs": 2, "batch_size": 32, "init": "ps_inv", "no_robustness": True}


@pytest.fixture(scope="module")
def pair(lenets):
    return [checkpoints.load(path) for path in lenets]


@pytest.fixture(scope="module")
def data(digits):
    return digits[0].between(0, 60), digits[1].between(0, 60)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(invariant, "STEPS", 3)


@pytest.fixture
def in_float64(pair, monkeypatch):
    """The front in float64, where rounding turns no sign: the network, and its activations."""
    network, features = copy.deepcopy(pair[0].network).double(), graph.features
    piece = copy.deepcopy(features(pair[0].network, [LAYER])).double()
    monkeypatch.setattr(invariant.graph, "features", lambda network, layers: piece)
    return network


def activations(network, images):
    """Of a LeNet at its second ReLU, by hand."""
    values = network.pool1(network.conv1(network.normalize(images)).clamp(min=0))
    return network.conv2(values).clamp(min=0)


# How they are made


def plainly(network, x, start, steps):
    """The definition: iterates down the gradient of the whole batch's quotient."""
    wanted = activations(network, x).detach()
    iterates = [start]
    for _ in range(steps):
        now = (iterates[-1].float() / 255).double().requires_grad_()
        apart = torch.linalg.vector_norm(activations(network, now) - wanted)
        (apart / torch.linalg.vector_norm(wanted)).backward()
        moved = iterates[-1].long() - now.grad.sign().long()
        iterates.append(moved.clamp(0, 255).byte())
    residuals = []
    for iterate in iterates:
        apart = activations(network, (iterate.float() / 255).double()).detach() - wanted
        residuals.append(apart.flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1))
    return iterates, torch.stack(residuals), wanted.flatten(1).norm(dim=1)


def test_they_are_what_the_definition_gives_in_float64(in_float64, data, monkeypatch):
    """Also where a later iterate is worse than one before; nothing but the images comes in."""
    monkeypatch.setattr(invariant, "STEPS", 12)
    network, split = in_float64, data[0].between(0, 9)
    x = (split.images.float() / 255).double()
    iterates, residuals, norms = plainly(network, x, noise_at(torch.arange(9), (1, 32, 32), 4), 12)
    best = residuals.argmin(dim=0)
    found = invariant_to((network, LAYER), InFloat64(split), seed=4)
    assert torch.equal(found.split.images, torch.stack(iterates)[best, torch.arange(9)])
    assert torch.allclose(found.residuals, residuals.min(dim=0).values, rtol=1e-10)
    assert torch.allclose(found.residuals_of_noise, residuals[0], rtol=1e-10)
    told = found.as_dict()
    assert told["residual"] == pytest.approx(residuals.min(dim=0).values.mean().item())
    assert told["residual_of_noise"] == pytest.approx(residuals[0].mean().item())
    together = (residuals.min(dim=0).values * norms).norm() / norms.norm()
    assert told["batch_residual"] == pytest.approx(together.item())
    together = (residuals[0] * norms).norm() / norms.norm()
    assert told["batch_residual_of_noise"] == pytest.approx(together.item())
    assert told["steps"] == 12 and told["step_size"] == 1 / 255


def test_of_all_iterates_the_best_is_kept(pair, data, monkeypatch):
    """Steps that lead away from the image leave the noise."""
    away = invariant.stepped
    monkeypatch.setattr(invariant, "STEPS", 4)
    monkeypatch.setattr(invariant, "stepped", lambda now, gradient: away(now, -gradient))
    found = invariant_to((pair[0].network, LAYER), data[0].between(0, 20))
    places = torch.arange(20)
    assert torch.equal(found.split.images, noise_at(places, (1, 32, 32), 0))
    assert torch.equal(found.residuals, found.residuals_of_noise)


def test_batches_change_nothing(in_float64, data, monkeypatch):
    """Neither how many images are made together, nor which others."""
    monkeypatch.setattr(invariant, "STEPS", 5)
    cut, split = (in_float64, LAYER), InFloat64(data[0])
    whole = invariant_to(cut, split)
    for size in (1, 7, 59):
        parts = invariant_to(cut, split, batch_size=size)
        assert torch.equal(parts.split.images, whole.split.images)
        assert torch.allclose(parts.residuals, whole.residuals, rtol=1e-12)
    some = invariant_to(cut, split.between(0, 11))
    assert torch.equal(some.split.images, whole.split.images[:11])


def test_rounding_turns_few_signs(pair, data, few_steps):
    """In float32 the images of other batches differ in some pixels of a thousand at most."""
    cut = pair[0].network, LAYER
    one, other = (invariant_to(cut, data[0], batch_size=size).split.images for size in (250, 13))
    assert (one == other).double().mean() > 0.999


def test_noise_is_uniform_on_the_grid_and_belongs_to_an_image():
    noise = noise_at(torch.arange(600), (1, 32, 32), 3)
    assert noise.dtype == torch.uint8 and noise.shape == (600, 1, 32, 32)
    counts = noise.flatten().long().bincount(minlength=256).double()
    assert len(counts) == 256
    chi = ((counts - counts.mean()).square() / counts.mean()).sum()
    assert 150 < chi < 380  # 255 ± 5.5 deviations
    some = torch.tensor([2, 249, 250, 599])
    assert torch.equal(noise_at(some, (1, 32, 32), 3), noise[some])
    assert not torch.equal(noise[0], noise[250])
    assert not torch.equal(noise_at(some, (1, 32, 32), 4), noise[some])


def test_a_front_that_changes_nothing_is_solved(pair, digits):
    """Each pixel goes to that of the image, 200 levels at most, and stays there."""
    train = digits[0].sample(30)
    found = invariant_to((pair[0].network, "normalize"), train, seed=1)
    noise = noise_at(torch.arange(30), (1, 32, 32), 1).long()
    wanted = noise + (train.images.long() - noise).clamp(-200, 200)
    assert torch.equal(found.split.images.long(), wanted)
    assert (wanted == train.images).double().mean() > 0.8
    # As exact as pixels are: what is left is what 200 steps do not reach.
    mean, std = (getattr(pair[0].network.normalize, name).item() for name in ("mean", "std"))
    x, z = ((v / 255 - mean) / std for v in (train.images.double(), wanted.double()))
    residual = (z - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert torch.allclose(found.residuals, residual, atol=1e-6)


def test_they_stand_in_place_of_the_real_ones(pair, data, few_steps):
    train = data[0]
    found = invariant_to((pair[0].network, LAYER), train).split
    assert torch.equal(found.labels, train.labels) and found.classes == train.classes
    assert found.images.shape == train.images.shape and found.images.dtype == torch.uint8
    assert train.augmentation is not None and found.augmentation is None
    for images, labels in found.epoch(60, seed=0, epoch=0):
        order = [int((found.labels == label).nonzero()[0]) for label in labels]  # of that class
        assert {tuple(i.flatten().tolist()) for i in images} == {
            tuple(i.flatten().tolist()) for i in found.images / 255
        }
        assert len(order) == 60


def test_a_network_is_left_as_it_was(tiny10s, data, few_steps):
    """In training mode, with moving statistics and weights that want gradients."""
    network = checkpoints.load(tiny10s[0]).network.train()
    network.requires_grad_(True)
    before = copy.deepcopy(network.state_dict())
    one = invariant_to((network, "bn3"), data[0])
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert network.training and all(
        p.requires_grad and p.grad is None for p in network.parameters()
    )
    other = invariant_to((network.eval(), "bn3"), data[0])
    assert torch.equal(one.split.images, other.split.images)


def test_what_has_no_norm_has_no_residual():
    split = Split("none", torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2).long(), ("a",))
    some = InvariantImages(
        split, torch.tensor([3.0, 0.5]), torch.tensor([9.0, 1.0]), torch.tensor([0.0, 2.0])
    )
    told = some.as_dict()
    assert (told["residual"], told["residual_of_noise"]) == (0.5, 1)
    assert told["batch_residual"] == pytest.approx(((3**2 + 1**2) ** 0.5) / 2)
    none = replace(some, norms=torch.zeros(2)).as_dict()
    assert none["residual"] is None and none["batch_residual"] is None


# Interruptions


def test_an_interrupted_making_goes_on_bit_for_bit(pair, data, tmp_path, monkeypatch):
    monkeypatch.setattr(invariant, "STEPS", 6)
    cut, train, step = (pair[0].network, LAYER), data[0], invariant.stepped
    whole, steps = invariant_to(cut, train, batch_size=25), []

    def interrupted(now, gradient):
        steps.append(len(now))
        if len(steps) == 9:  # the third of the second batch
            signal.raise_signal(signal.SIGINT)
        return step(now, gradient)

    monkeypatch.setattr(invariant, "stepped", interrupted)
    given = {"state": StateFile(tmp_path / "state.pt"), "batch_size": 25}
    with pytest.raises(KeyboardInterrupt):
        invariant_to(cut, train, **given)
    assert len(steps) == 9
    again = invariant_to(cut, train, **given)
    assert len(steps) == 3 * 6
    for name in ("residuals", "residuals_of_noise", "norms"):
        assert torch.equal(getattr(again, name), getattr(whole, name))
    assert torch.equal(again.split.images, whole.split.images)
    invariant_to(cut, train, **given)
    assert len(steps) == 3 * 6
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    (tmp_path / "state.pt").unlink()
    checkpoints.write(tmp_path / "state.pt", {**kept, "images": kept["images"][:5]})
    with pytest.raises(UserError, match="holds no state that can be gone on with"):
        invariant_to(cut, train, **given)


def test_an_interrupted_run_goes_on(call_script, lenets, tmp_path, monkeypatch):
    monkeypatch.setattr(invariant, "STEPS", 4)
    command = ["find_transform.py", *lenets, LAYER, LAYER, "digits", "--debug", "-e", "1"]
    command += [
        "-b",
        "32",
        "--images",
        "invariant",
        "--no-robustness",
        "-o",
        tmp_path,
        "--run-name",
    ]
    assert call_script(*command, "whole").status == 0
    step, steps = invariant.stepped, []

    def interrupted(now, gradient):
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGTERM)
        return step(now, gradient)

    monkeypatch.setattr(invariant, "stepped", interrupted)
    done = call_script(*command, "again")
    assert done.status == 130 and "goes on from where it was" in done.err
    assert names(tmp_path / ".again.unfinished") == ["plan.json", "state"]
    assert call_script(*command, "again").status == 0 and len(steps) == 4
    one, other = (matrix(tmp_path / name) for name in ("whole", "again"))
    assert torch.equal(one["weight"], other["weight"])


def matrix(folder):
    return torch.load(only(folder / "matrix"), weights_only=True)


# What is trained and measured


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_type": "soft_2", "init": "random"},
        {"objective": "fula", "init": "random"},
        {"recipe": "fast", "epochs": 1, "fit_images": 40},
        {"mask": "semi-match"},
    ],
    ids=["least squares", "soft targets", "alignment", "fast", "mask"],
)
def test_a_map_is_trained_on_them_and_nothing_else(settings, tiny10s, data, few_steps):
    """It is that of a split of these images; what is measured is so on the real test images."""
    donors = [checkpoints.load(path) for path in tiny10s]
    train, test = data
    plan = stitching_plan("relu3", "bn4", **OPTIONS | settings, seed=2, images="invariant")
    found = stitch(*donors, train, test, plan)
    images = invariant_to((donors[0].network, "relu3"), train, seed=2)
    assert torch.equal(found.invariant.split.images, images.split.images)
    alone = stitch(*donors, images.split, test, replace(plan, images="real"))
    ours, theirs = found.network.state_dict(), alone.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert torch.equal(found.initial.weight, alone.initial.weight)
    assert torch.equal(found.direct.weight, alone.direct.weight)
    own, other = (numbers(result.measured) for result in (found, alone))
    assert own.pop("ood") != other.pop("ood")  # told by real training images
    assert own == other
    assert alone.invariant is None
    real = stitch(*donors, train, test, replace(plan, images="real"))
    assert not torch.equal(real.direct.weight, found.direct.weight)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "The map was trained for labels, so what the end makes"),
        ({"target_type": "soft_1"}, "The map was trained for the front's own answers, so"),
        ({"target_type": "soft_12"}, None),
        ({"objective": "direct"}, None),
        ({"terms": ("direct=0.1",)}, None),
        ({"cka_reg": -0.1}, None),
        ({"images": "real"}, None),
    ],
)
def test_a_note_says_where_the_end_is_not_asked(settings, told, pair, data, monkeypatch):
    monkeypatch.setattr(invariant, "STEPS", 1)
    options = OPTIONS | {"epochs": 1, "no_pinv": True, "images": "invariant"} | settings
    notes = stitch(*pair, *data, stitching_plan(LAYER, LAYER, **options)).notes
    assert [told in note for note in notes if "The map was trained for" in note] == [True][
        : bool(told)
    ]


def test_statistics_of_batch_norms_stay(tiny10s, data, few_steps):
    donors = [checkpoints.load(path) for path in tiny10s]
    found = stitch(*donors, *data, stitching_plan("relu3", "relu3", **OPTIONS, images="invariant"))
    own = donors[0].network.state_dict()
    moving = [name for name in own if name.endswith("running_mean")]
    ours = found.network.state_dict()
    kept = [name for name in moving if f"front.{name}" in ours]
    assert kept and all(torch.equal(ours[f"front.{name}"], own[name]) for name in kept)
    assert "direct_matching_recalibrated" not in found.scores


def test_each_control_has_images_of_its_front(pair, data, few_steps, monkeypatch):
    """Random fronts get statistics, noise fronts and what the end makes, of the real images."""
    made, seen, make = [], {}, invariant.invariant_to

    def counted(front, split, *rest):
        made.append((front, split))
        return make(front, split, *rest)

    def watched(name, place):
        work = getattr(run, name) if hasattr(run, name) else getattr(run.controls, name)

        def look(*args, **kwargs):
            seen[name] = args[place]
            return work(*args, **kwargs)

        monkeypatch.setattr(run if hasattr(run, name) else run.controls, name, look)

    monkeypatch.setattr(invariant, "invariant_to", counted)
    watched("typical_at", 2)
    watched("clusters_at", 1)
    watched("noise_scores", 3)
    watched("with_random_weights", 1)
    asked = {"controls": True, "random_fronts": 2, "noise_sigmas": (1.0,), "images": "invariant"}
    plan = stitching_plan(LAYER, "relu3", **OPTIONS | {"init": "random"} | asked)
    result = stitch(*pair, *data, plan)
    front, end = (donor.network for donor in pair)
    assert [layer for (_, layer), _ in made] == [LAYER, "relu3", LAYER, LAYER]
    assert made[0][0][0] is front and made[1][0][0] is end
    twins = [network for (network, _), _ in made[2:]]
    assert twins[0] is not twins[1] and front not in twins
    assert all(split.images is data[0].images for _, split in made)
    assert len(seen) == 4 and all(split.images is data[0].images for split in seen.values())
    assert {"self_stitch", "random_front"} <= result.scores.keys()


def test_a_network_stitched_to_itself_stays_itself(digits, monkeypatch):
    """From random first values, for the labels and for what the end makes of these images."""
    network = checkpoints.load(REPOSITORY / "archive/lenet/Digits/in0-gn0/model.pt")
    train = digits[0].sample(250)
    made = invariant_to((network.network, "relu3"), train)
    told = made.as_dict()
    assert told["residual"] < 0.2 < 0.5 < told["residual_of_noise"]
    monkeypatch.setattr(invariant, "invariant_to", lambda *args: made)
    how = {"epochs": 8, "lr": 1e-2, "batch_size": 16, "no_robustness": True, "no_pinv": True}
    for objective in ("task", "fula"):
        plan = stitching_plan("relu3", "relu3", images="invariant", objective=objective, **how)
        scores = stitch(network, network, train, digits[1], plan).scores
        assert scores["stitched"].accuracy > 0.95 * scores["end"].accuracy


@pytest.mark.parametrize(
    "settings",
    [
        {"controls": True, "random_fronts": 1, "noise_sigmas": (1.0,)},
        {"recipe": "fast", "epochs": 1, "seeds": 2, "seed": 5},
        {"cells": "pairs", "front_layers": ["relu7", "relu3", "relu7"]},
    ],
    ids=["controls", "seeds", "pairs"],
)
def test_every_cell_is_its_single_stitch(settings, tiny10s, data, few_steps, monkeypatch):
    made, make = [], invariant.invariant_to

    def counted(front, *rest):
        made.append(front)
        return make(front, *rest)

    monkeypatch.setattr(invariant, "invariant_to", counted)
    donors = [checkpoints.load(path) for path in tiny10s]
    plan = grid_plan(**settings)
    grid = stitch_grid(*donors, *data, plan)
    rows, controls = len({cell.plan.cut.front_layer for cell in grid.cells}), plan.measured.controls
    assert len(made) == rows * plan.seeds + (2 + rows if controls else 0)
    for cell in grid.cells[::3]:
        alone = stitch(*donors, *data, cell.plan)
        ours, theirs = cell.trained.network.state_dict(), alone.network.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        assert torch.equal(cell.invariant.split.images, alone.invariant.split.images)
        one, other = numbers(cell.measured), numbers(alone.measured)
        for name in ("stitched", "direct_matching", "self_stitch", "random_front"):
            assert (one[name] or {}).get("accuracy") == (other[name] or {}).get("accuracy")
            assert (one[name] or {}).get("loss") == (other[name] or {}).get("loss")
        assert one["noise_front"] == other["noise_front"] and one["gaps"] == other["gaps"]


def grid_plan(**settings):
    refs = {side: NetworkRef(f"{side}.pt") for side in ("front", "end")}
    layers = {"front_layers": ["relu3", "relu7"], "end_layers": ["relu2", "bn7", "relu2"]}
    own = {"recipe": "paper", "images": "invariant", "dataset": DataRef("digits")}
    return from_flat(GridPlan, refs | OPTIONS | layers | own | settings)


def test_a_grid_counts_their_memory(tiny10s, data):
    networks = [checkpoints.load(path).network for path in tiny10s]

    def needed(**settings):
        plan = grid_plan(**settings)
        return memory_of(plan, cuts_of(plan, *networks), *networks, 60, data[0])

    real = {"images": "real", "no_bn": True, "no_robustness": False}  # whose gradients it counts
    assert needed(seeds=3) - needed(seeds=3, **real) == 2 * 3 * data[0].images.nbytes
    assert needed() > needed(images="real", no_bn=True) + 2 * data[0].images.nbytes


def test_attributes_and_streamed_files(tmp_path, monkeypatch, few_steps):
    """CelebA: forty attributes, files that are decoded anew each time."""
    write_celeba(tmp_path, monkeypatch)
    train, test = datasets.load("celeba")
    networks = [
        models.build("lenet", num_classes=40, in_channels=3, mean=[0.5] * 3, std=[0.3] * 3, seed=i)
        for i in (0, 1)
    ]
    result = rs.stitch(
        *networks, LAYER, LAYER, (train, test), train_on="invariant", epochs=1, no_robustness=True
    )
    images = result.invariant.split
    assert images.images.shape == (24, 3, 32, 32) and torch.equal(images.labels, train.labels)
    assert result.plan.images == "invariant" and result.plan.no_bn


# Plans and commands


def test_the_plan_of_real_images_is_what_it_was():
    refs = {"front": NetworkRef("a"), "end": NetworkRef("b"), "dataset": DataRef("digits")}
    plans = [
        from_flat(StitchPlan, refs | {"front_layer": "x", "end_layer": "y"} | more)
        for more in ({}, {"images": "real"}, {"images": "invariant"}, {"no_bn": True})
    ]
    assert identity(plans[0]) == identity(plans[1])
    assert len({identity(plan) for plan in plans}) == 3
    assert plans[2].no_bn and not plans[0].no_bn
    said = replace(plans[2], no_bn=False)
    assert said == plans[2]


def test_more_images_than_memory_holds_are_refused(data):
    images = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(90_000, 3, 64, 64)
    many = Split("Many", images, torch.zeros(90_000).long(), ("a",))
    real, made = (stitching_plan(LAYER, LAYER, images=images) for images in ("real", "invariant"))
    check.check_images(real, many)
    with pytest.raises(UserError, match=r"the 90,000 training images of Many would take 1\.0 GiB"):
        check.check_images(made, many)
    check.check_images(made, many.between(0, 80_000))


def test_before_any_work_they_are_refused(pair, data, monkeypatch):
    monkeypatch.setattr("robust_stitching.stitching.check.MOST_IN_MEMORY", 1000)
    monkeypatch.setattr(run, "find_map", lambda *args, **kwargs: pytest.fail("work was done"))
    monkeypatch.setattr(invariant, "invariant_to", lambda *args: pytest.fail("work was done"))
    with pytest.raises(UserError, match="leave `images` out"):
        stitch(*pair, *data, stitching_plan(LAYER, LAYER, images="invariant"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--madry"], "which no attack would leave them; leave --madry and --robust out"),
        (["--robust"], "which no attack would leave them; leave --madry and --robust out"),
        (["--no-bn"], "--no-bn says nothing beside invariant images"),
        (["--images", "made-up"], "invalid choice: 'made-up'"),
    ],
)
@pytest.mark.parametrize("command", ["find_transform.py", "stitch_map.py"])
def test_commands_refuse_what_makes_no_sense(options, told, command, call_script, lenets, tmp_path):
    layers = [LAYER, LAYER] if command == "find_transform.py" else []
    given = [*lenets, *layers, "digits", "--images", "invariant", *options, "-o", tmp_path / "out"]
    done = call_script(command, *given)
    assert done.status == 2 and told in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_cross_dataset_stitch_leaves_them(call_script, lenets, tmp_path, few_steps):
    command = ["find_cross_dataset_transform.py", *lenets, LAYER, LAYER, "digits", "digits"]
    command += ["--debug", "-e", "1", "-b", "16", "--no-robustness", "--images", "invariant"]
    done = call_script(*command, "-o", tmp_path, "--run-name", "run")
    assert done.status == 0, done.err
    assert "images invariant, 3 steps from noise to where the front tells them from" in done.out
    record = json.loads(only(tmp_path / "run" / "json").read_text())
    assert record["params"]["images"] == "invariant" and record["params"]["no_bn"] is True
    rows = dict(making(record, []))
    assert rows["training images"].startswith("invariant, 3 steps from noise")
    told = record["invariant_images"]
    assert set(told) == {
        *("steps", "step_size", "residual", "residual_of_noise"),
        *("batch_residual", "batch_residual_of_noise"),
    }
    assert "invariant_images" in record["estimators"]
    assert "the noise that invariant images begin as" in record["seed_varies"]
    kept = torch.load(tmp_path / "run" / "invariant_images" / f"{LAYER}.pt", weights_only=True)
    assert kept["images"].shape == (48, 1, 32, 32) and kept["labels"].shape == (48,)
    assert kept["residuals"].mean().item() == pytest.approx(told["residual"])
    assert kept["front_layer"] == LAYER and kept["dataset"] == "digits"
    assert kept["plan"]["front"]["hash"] == record["plan"]["front"]["hash"]
    done = call_script(
        "find_cross_dataset_transform.py",
        "--plan",
        only(tmp_path / "run" / "json"),
        "-o",
        tmp_path,
        "--reuse",
    )
    assert done.status == 0 and "images invariant" in done.out


def test_a_map_leaves_them(call_script, lenets, tmp_path, few_steps):
    command = ["stitch_map.py", *lenets, "digits", "--debug", "-e", "1", "-b", "16", "--seeds", "2"]
    command += ["--no-robustness", "--images", "invariant", "-o", tmp_path, "--run-name", "run"]
    done = call_script(*command, "--front-layers", "relu1", LAYER, "--end-layers", "relu3")
    assert done.status == 0, done.err
    assert "images invariant, 3 steps" in done.out
    record = json.loads(only(tmp_path / "run" / "json").read_text())
    residuals = {}
    for cell in record["cells"]:
        residuals[cell["front_layer"], cell["seed"]] = cell["invariant_images"]["residual"]
    assert len(set(residuals.values())) == 4
    folder = tmp_path / "run" / "invariant_images"
    assert names(folder) == [f"{layer}-seed{s}.pt" for layer in ("relu1", LAYER) for s in (0, 1)]
    for (layer, seed), residual in residuals.items():
        kept = torch.load(folder / f"{layer}-seed{seed}.pt", weights_only=True)
        assert kept["residuals"].mean().item() == pytest.approx(residual)


def test_real_images_are_not_told_of(pair, data):

    record = as_record(stitch(*pair, *data, stitching_plan(LAYER, LAYER, **OPTIONS)), "none")
    assert "invariant_images" not in record and "invariant_images" not in record["estimators"]
    assert called_images(record) == ""
    undefined = {"steps": 1, "residual": None, "residual_of_noise": 0.5}
    assert "residual of – (noise: 0.5)" in called_images({"invariant_images": undefined})
