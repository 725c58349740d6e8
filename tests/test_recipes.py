"""Recipes: what they stand for, what wins over them, and what plans without one still are."""

import json
import shlex
from dataclasses import replace

import pytest
import torch

import robust_stitching as rs
from left_behind import only
from robust_stitching import checkpoints, data
from robust_stitching.basics.errors import UserError
from robust_stitching.plans import (
    Adversary,
    Cut,
    DataRef,
    GridPlan,
    NetworkRef,
    Optimisation,
    StitchPlan,
    TrainPlan,
    Transform,
    as_values,
    flat,
    from_values,
    identity,
    stitching,
)
from robust_stitching.plans.options import ATTACKS, plan_of
from robust_stitching.plans.recipes import RECIPES

REFS = {
    "front": NetworkRef("a.pt", "aa"),
    "end": NetworkRef("b.pt", "bb"),
    "dataset": DataRef("digits", "cc"),
}
FAST = {
    "recipe": "fast", "init": "ps_inv", "whiten": True, "optimizer": "adam", "lr": 1e-2,
    "schedule": "cosine", "epochs": 2,
}  # fmt: skip
PAPER = {
    "recipe": "paper", "init": "random", "whiten": False, "optimizer": "adam", "lr": 1e-3,
    "schedule": "steps", "epochs": 30,
}  # fmt: skip


def told(plan):
    values = flat(plan)
    return {name: values[name] for name in FAST}


# Plans


def test_what_recipes_stand_for():
    assert told(stitching("a", "b")) == told(stitching("a", "b", recipe="paper")) == PAPER
    assert told(stitching("a", "b", recipe="fast")) == FAST
    assert stitching("a", "b", recipe="paper") == stitching("a", "b")
    assert FAST["epochs"] <= 2


def test_the_recipe_of_a_grid_is_the_fast_one():
    grid = GridPlan(**REFS)
    assert told(grid) == FAST
    assert from_values(GridPlan, {**as_values(grid)}) == grid
    short = {name: as_values(ref) for name, ref in REFS.items()}
    assert from_values(GridPlan, short) == grid
    assert told(from_values(GridPlan, short | {"recipe": "paper"})) == PAPER
    assert grid.cell("bn3", "bn4", 0).training == stitching("a", "b", recipe="fast").training


@pytest.mark.parametrize(
    "said",
    [
        {"init": "random"}, {"whiten": False}, {"lr": 0.5}, {"optimizer": "sgd"}, {"epochs": 7},
        {"schedule": "steps"}, {"init": "zeros", "lr": 1e-3, "epochs": 30},
    ],
)  # fmt: skip
def test_what_is_said_wins(said):
    assert told(stitching("a", "b", recipe="fast", **said)) == FAST | said
    assert told(stitching("a", "b", recipe="paper", **said)) == PAPER | said


@pytest.mark.parametrize("said", [{"mask": "hungarian"}, {"low_rank": 3}, {"flatten": True}])
def test_what_cannot_be_white_is_not(said):
    plan = stitching("a", "b", recipe="fast", **said)
    assert told(plan) == FAST | {"whiten": False}
    assert stitching("a", "b", recipe="fast", init="random", **said).transform.init == "random"


@pytest.mark.parametrize("kind", ["madry", "trades"])
def test_two_epochs_under_attack_go_faster(kind):
    attacked = {"adversary": Adversary(kind)}
    assert told(stitching("a", "b", recipe="fast", **attacked)) == FAST | {"lr": 3e-2}
    assert told(stitching("a", "b", recipe="fast", lr=0.5, **attacked)) == FAST | {"lr": 0.5}
    assert told(stitching("a", "b", **attacked)) == PAPER
    for share, batch in ((0.0, 128), (0.003, 128), (0.03, 16)):
        unseen = {"adversary": Adversary(kind, attack_ratio=share), "batch_size": batch}
        assert told(stitching("a", "b", recipe="fast", **unseen)) == FAST
    seen = {"adversary": Adversary(kind, attack_ratio=0.03), "batch_size": 17}
    assert told(stitching("a", "b", recipe="fast", **seen)) == FAST | {"lr": 3e-2}

    short = {name: as_values(ref) for name, ref in REFS.items()}
    short |= {"objective": {"adversary": as_values(attacked["adversary"])}}
    assert told(from_values(GridPlan, short)) == FAST | {"lr": 3e-2}
    option = next(name for name, own in ATTACKS.items() if own == kind)
    assert told(plan_of(GridPlan, REFS | {option: True})) == FAST | {"lr": 3e-2}
    assert told(plan_of(GridPlan, REFS | {option: True, "attack_ratio": 0})) == FAST


@pytest.mark.parametrize("training", [3, None, "fast", [1]])
def test_a_training_that_is_none_is_told_under_attack_too(training):
    short = {name: as_values(ref) for name, ref in REFS.items()} | {"training": training}
    for objective in ({}, {"objective": {"adversary": {"kind": "madry"}}}):
        with pytest.raises(UserError, match="training="):
            from_values(GridPlan, short | objective)


def test_parts_may_be_given_whole():
    short = {name: as_values(ref) for name, ref in REFS.items()}
    own = Optimisation(epochs=1, lr=0.5, optimizer="adam")
    objective = {"adversary": {"kind": "madry"}}
    plan = from_values(GridPlan, short | {"training": own, "objective": objective})
    assert plan.training == own


def test_a_plan_holds_what_its_recipe_stood_for(monkeypatch):
    plan = StitchPlan(**REFS, **vars(stitching("a", "b", recipe="fast", lr=0.5)))
    text = json.dumps(as_values(plan))
    training = replace(RECIPES["fast"].training, epochs=9)
    monkeypatch.setitem(RECIPES, "fast", RECIPES["fast"]._replace(training=training))
    assert from_values(StitchPlan, json.loads(text)) == plan
    assert stitching("a", "b", recipe="fast").training.epochs == 9


def test_a_short_plan_in_a_file_is_as_its_recipe_has_it():
    short = {name: as_values(ref) for name, ref in REFS.items()}
    short |= {"cut": {"front_layer": "a", "end_layer": "b"}, "recipe": "fast"}
    plan = from_values(StitchPlan, short | {"training": {"epochs": 1}})
    assert told(plan) == FAST | {"epochs": 1}


def test_plans_without_recipes_are_the_same_as_ever():
    """Identities of the version before."""
    plain = StitchPlan(**REFS, cut=Cut("bn3", "bn3"))
    training = Optimisation(epochs=5, lr=1e-3, optimizer="adam")
    other = replace(plain, training=training, transform=Transform(init="ps_inv"))
    assert [identity(plan)[:16] for plan in (plain, other, TrainPlan())] == [
        "3433333e874853ae", "b8d2ac3079b0145f", "5b73c805e9bd8ffd"
    ]  # fmt: skip
    old = as_values(other)
    for part, name in (
        (old, "recipe"),
        (old["transform"], "whiten"),
        (old["training"], "schedule"),
    ):
        del part[name]
    assert from_values(StitchPlan, old) == other


@pytest.mark.parametrize("recipe", ["fats", 3, None, ["fast"]])
def test_an_unknown_recipe_is_refused(recipe):
    with pytest.raises(UserError, match="recipe"):
        stitching("a", "b", recipe=recipe)


# Runs


def test_the_library_takes_a_recipe(lenets):
    train, test = data.load("digits")
    pair = [rs.load(path) for path in lenets]
    splits = (train.between(0, 300), test.between(0, 100))
    wanted = {"no_robustness": True, "batch_size": 100}
    found = rs.stitch(*pair, "relu2", "relu2", splits, recipe="fast", **wanted)
    assert told(found.plan) == FAST
    assert torch.equal(found.initial.weight, found.direct.weight)
    assert [record.epoch for record in found.trained.curve] == [1, 2]
    paper = [
        rs.stitch(*pair, "relu2", "relu2", splits, epochs=2, **how, **wanted)
        for how in ({}, {"recipe": "paper"})
    ]
    assert torch.equal(*(result.final.weight for result in paper))


@pytest.mark.parametrize(
    "flags, said",
    [
        ("", {}),
        ("-e 1 -lr 1e-3 --optimizer sgd", {"epochs": 1, "lr": 1e-3, "optimizer": "sgd"}),
        ("--init random -e 30 -lr 1e-3", {"init": "random", "epochs": 30, "lr": 1e-3}),
        ("--low-rank 3", {"whiten": False}),
        ("--mask semi-match --init zeros", {"whiten": False, "init": "zeros"}),
        ("--controls --random-fronts 1 --l1 1e-3", {}),
        ("--controls --madry --epsilon 2/255 --perturb-steps 2", {"lr": 3e-2}),
    ],
)
@pytest.mark.parametrize(
    "script, after",
    [("find_transform.py", "digits"), ("find_cross_dataset_transform.py", "digits digits")],
)
def test_the_commands_take_a_recipe(script, after, flags, said, call_script, lenets, tmp_path):
    command = [*lenets, "relu2", "relu2", *after.split(), "--recipe", "fast", *shlex.split(flags)]
    command += ["-b", "512", "--no-robustness", "-o", tmp_path, "--run-name", "run"]
    done = call_script(script, *command)
    assert (done.status, done.err) == (0, ""), done.err
    record = json.loads(only(tmp_path / "run" / "json").read_text())
    expected = FAST | said
    assert {name: record["params"][name] for name in FAST} == expected
    assert len(record["curve"]) == expected["epochs"]
    start = expected["init"] + (", inputs whitened" if expected["whiten"] else "")
    assert f"recipe fast: first values {start}; {expected['optimizer']} at" in done.out
    frank = checkpoints.load(only(tmp_path / "run" / "frank_model")).network.transform
    matrix = checkpoints.read(only(tmp_path / "run" / "matrix"))
    assert torch.equal(frank.matrix, matrix["weight"])
    assert frank.matrix.isfinite().all()


def test_a_recipe_that_is_none(call_script, lenets):
    done = call_script("find_transform.py", *lenets, "bn1", "bn1", "digits", "--recipe", "fats")
    assert done.status == 2 and "--recipe" in done.err and done.err.count("\n") == 1
