"""Plans: to JSON and back, what they refuse, what makes two of them the same."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from conftest import REPOSITORY
from robust_stitching import plans
from robust_stitching.basics.errors import UserError
from robust_stitching.plans import (
    Adversary,
    AttackPlan,
    ComparePlan,
    Cut,
    DataRef,
    EvaluatePlan,
    GridPlan,
    Measurement,
    NetworkRef,
    Objective,
    Optimisation,
    StitchPlan,
    TrainPlan,
    Transform,
    as_values,
    changed,
    differences,
    flat,
    from_values,
    identity,
    stitching,
)
from robust_stitching.plans.written import default_of, from_options, leaves, with_values

A, B, DIGITS = NetworkRef("a.pt"), NetworkRef("b.pt", mean=(0.5,), std=(1.0,)), DataRef("digits")
STITCH = StitchPlan(front=A, end=B, dataset=DIGITS, cut=Cut("bn3", "bn4"))
EVERYTHING = replace(
    STITCH,
    transform=Transform("ps_inv", low_rank=4),
    training=Optimisation(3, 0.1, optimizer="adam", precision="float32"),
    objective=Objective("soft_1", 2.0, 0.1, -1.0, ("l1=0.5",), Adversary("trades", 0.1)),
    measured=Measurement(no_pinv=True, eval_epsilon=0.3, tier="default", controls=True),
    eval_dataset=DataRef("mnist"),
    seed=7,
)
PLANS = [
    TrainPlan(),
    TrainPlan(model="tiny10", adversary=Adversary("madry"), image_size=64),
    STITCH,
    EVERYTHING,
    GridPlan(front=A, end=B, dataset=DIGITS),
    GridPlan(front=A, end=B, dataset=DIGITS, front_layers=("bn1",), cells="pairs", seeds=3),
    ComparePlan(model1=A, model2=B, dataset=DIGITS),
    ComparePlan(model1=A, model2=B, dataset=DIGITS, layers1=("conv1",), measures=("cka", "cca")),
    EvaluatePlan(checkpoint=A),
    AttackPlan(checkpoint=A, dataset=DIGITS, norm="l2", epsilon=2.5, step_size=0.1),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.KIND)
def test_a_plan_comes_back_from_json(plan):
    text = json.dumps(as_values(plan), allow_nan=False)
    again = from_values(type(plan), json.loads(text))
    assert again == plan and identity(again) == identity(plan)
    assert json.dumps(as_values(again)) == text


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.KIND)
def test_only_what_differs_from_defaults_has_to_be_said(plan):
    short = {"kind": plan.KIND, "format": plan.FORMAT, **changed(plan)}
    assert from_values(type(plan), short) == plan


def test_a_part_takes_the_rest_from_the_default_of_its_plan():
    """The learning rate of a training is 0.1, that of a map 0.001, whoever says the epochs."""
    trained = from_values(TrainPlan, {"training": {"epochs": 3}}).training
    assert (trained.epochs, trained.lr, trained.optimizer, trained.clip_norm) == (3, 0.1, "sgd", 1)
    mapped = stitching("a", "b", epochs=3).training
    assert (mapped.epochs, mapped.lr, mapped.optimizer, mapped.clip_norm) == (3, 1e-3, "adam", 0)


@pytest.mark.parametrize(
    "owner, values, told",
    [
        (TrainPlan, {"training": {"epoch": 3}}, "unknown key in the plan, training: 'epoch'; did "),
        (TrainPlan, {"modle": "lenet"}, "'modle'; did you mean model"),
        (TrainPlan, {"kind": "stitch"}, "the kind 'stitch', but 'train' is needed"),
        (TrainPlan, {"format": 2}, "the format 2, but 1 is needed"),
        (TrainPlan, {"training": 3}, "training=3 is not a Optimisation"),
        (TrainPlan, [], r"has to be a table of settings, not \[\]"),
        (TrainPlan, {"training": {"epochs": True}}, "epochs=True is not a whole number"),
        (TrainPlan, {"training": {"epochs": 2.5}}, "epochs=2.5 is not a whole number"),
        (TrainPlan, {"training": {"epochs": 0}}, "epochs=0 is not a whole number of at least 1"),
        (TrainPlan, {"training": {"lr": "0.1"}}, "lr='0.1' is not a finite number"),
        (TrainPlan, {"training": {"lr": float("nan")}}, "lr=nan is not a finite number"),
        (TrainPlan, {"training": {"lr": None}}, "lr=None is not"),
        (
            TrainPlan,
            {"training": {"optimizer": "sdg"}},
            "unknown optimizer 'sdg'; did you mean",
        ),
        (TrainPlan, {"adversary": {}}, "the plan, adversary lacks 'kind'"),
        (TrainPlan, {"no_augmentation": 1}, "no_augmentation=1 is not true or false"),
        (TrainPlan, {"gradient_noise": -1}, "gradient_noise=-1 is not"),
        (TrainPlan, {"dataset": {"name": 3}}, "name=3 is not a text"),
        (StitchPlan, {}, "the plan lacks 'cut'"),
        (EvaluatePlan, {"checkpoint": {}}, "the plan, checkpoint lacks 'path'"),
        (EvaluatePlan, {"checkpoint": {"path": "a", "mean": [0.5, "x"]}}, "mean='x' is not a fin"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(owner, values, told):
    with pytest.raises(UserError, match=told):
        from_values(owner, values)


def test_settings_have_one_name_each():
    for owner in (plans.Stitching, GridPlan, TrainPlan, ComparePlan, AttackPlan):
        settings = [path.rpartition(".")[2] for path, whose, _ in leaves(owner) if not _ref(whose)]
        assert len(set(settings)) == len(settings)


def _ref(owner):
    return hasattr(owner, "hash")


def test_an_unknown_setting_is_named():
    with pytest.raises(UserError, match="unknown setting 'epoch'; did you mean epochs"):
        stitching("a", "b", epoch=3)


def test_flat_settings_make_the_same_plan_again():
    how = stitching("a", "b", epochs=3, low_rank=2, adversary=Adversary("madry"), seed=4)
    values = flat(how)
    assert values["epochs"] == 3 and values["adversary"]["kind"] == "madry"
    assert plans.from_flat(plans.Stitching, values) == how


def test_a_cell_of_a_grid_is_the_stitch_that_has_its_settings():
    how = {"transform": Transform("ps_inv"), "objective": Objective(l1=0.1), "debug": True}
    grid = GridPlan(front=A, end=B, dataset=DIGITS, seeds=3, seed=4, **how)
    cell = grid.cell("bn3", "bn4", 6)
    said = {
        "init": "ps_inv",
        "whiten": False,
        "fit_images": None,
        "l1": 0.1,
        "seed": 6,
        "debug": True,
    }
    expected = stitching("bn3", "bn4", recipe="fast", **said)
    assert cell == replace(expected, measured=Measurement(similarity_images=2000))


# Identity


def test_every_setting_that_counts_makes_another_plan():
    seen = {identity(EVERYTHING)}
    others = [
        with_values(EVERYTHING, {path: _another(path, owner, own)})
        for path, owner, own in leaves(StitchPlan)
    ]
    for other in others:
        seen.add(identity(other))
    assert len(seen) == len(others) + 1  # no hash is known, so that paths count, too


def _another(path, owner, own):
    kind = plans.settings.kind_of(owner, own.name)
    value = EVERYTHING
    for name in path.split("."):
        value = getattr(value, name)
    if own.metadata.get("choices"):
        return next(choice for choice in own.metadata["choices"] if choice != value)
    if kind.items:
        return (0.25,) if kind.items is float else ("cka_reg=1",)
    changes = {bool: lambda v: not v, int: lambda v: (v or 0) + 1, float: lambda v: 0.375}
    return changes.get(kind.type, lambda v: f"{v}x")(value)


def test_files_count_by_what_they_hold():
    here, there = (
        replace(STITCH, front=NetworkRef(path, "1"), end=NetworkRef(path, "2")) for path in "ab"
    )
    assert identity(here) == identity(there) and differences(here, there) == []
    other = replace(STITCH, front=NetworkRef("a", "3"), end=NetworkRef("a", "2"))
    assert identity(here) != identity(other)
    assert differences(here, other) == ["`front.hash` was 1 and is 3"]


def test_numbers_that_are_equal_make_one_plan():
    one, same = (stitching("a", "b", lr=lr) for lr in (1, 1.0))
    assert one == same and identity(one) == identity(same)


def test_what_two_plans_differ_in():
    other = replace(STITCH, training=replace(STITCH.training, epochs=5), seed=2)
    assert differences(STITCH, other) == [
        "`training.epochs` was 30 and is 5",
        "`seed` was 0 and is 2",
    ]
    attacked = replace(STITCH, objective=Objective(adversary=Adversary("madry")))
    told = differences(STITCH, attacked)
    assert "`objective.adversary.kind` was None and is madry" in told


# From files and options


@pytest.mark.parametrize("inside", [False, True])
def test_a_plan_is_read_alone_or_from_a_result(inside, tmp_path):
    values = as_values(EVERYTHING)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"plan": values, "cka": 0.5} if inside else values))
    assert plans.read(path, StitchPlan) == EVERYTHING


@pytest.mark.parametrize(
    "text, told",
    [("{", "is no JSON"), ("3", "has to be a table"), ('{"kind": "train"}', "the kind 'train'")],
)
def test_a_file_without_a_plan_is_named(text, told, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"plan.json.*{told}"):
        plans.read(path, StitchPlan)
    with pytest.raises(UserError, match=r"nowhere\.json cannot be read"):
        plans.read(tmp_path / "nowhere.json", StitchPlan)


def test_files_that_moved_are_named_anew():
    moved = with_values(EVERYTHING, {"front.path": "c.pt", "eval_dataset.name": "else"})
    assert (moved.front.path, moved.eval_dataset) == ("c.pt", DataRef("else"))
    assert replace(moved, front=A, eval_dataset=EVERYTHING.eval_dataset) == EVERYTHING
    with pytest.raises(UserError, match="the plan has no eval_dataset"):
        with_values(STITCH, {"eval_dataset.name": "else"})


def test_a_part_of_which_nothing_is_said_is_not_there():
    said = {"checkpoint.path": "a.pt", "dataset.name": None}
    assert from_options(EvaluatePlan, said) == EvaluatePlan(checkpoint=A)


@pytest.mark.parametrize("owner", [TrainPlan, plans.Stitching, AttackPlan])
def test_defaults_are_those_of_a_plan_of_which_nothing_is_said(owner):
    said = {"cut": Cut("a", "b")} if owner is plans.Stitching else {}
    said |= {"checkpoint": A} if owner is AttackPlan else {}
    plan = owner(**said)
    for path, whose, own in leaves(owner):
        value, inside = plan, True
        for name in path.split("."):
            value = getattr(value, name, None)
            inside &= value is not None or name == own.name
        if path.split(".")[0] not in said and inside and "adversary." not in path:
            assert default_of(owner, path) == value, (path, whose)


def test_plans_need_the_standard_library_alone():
    code = (
        "import sys; before = set(sys.modules); import robust_stitching.plans; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    names = set(loaded.stdout.split())
    assert names - {"robust_stitching"} <= set(sys.stdlib_module_names), loaded.stderr
    assert names


def test_every_field_says_what_it_holds():
    for plan in PLANS:
        for own in fields(plan):
            assert plans.settings.kind_of(type(plan), own.name).type is not type(None)
