"""Sweeps as people write them: what a list comes to, and what is refused."""

import re

import pytest

from conftest import REPOSITORY
from robust_stitching.basics.errors import UserError
from robust_stitching.plans import GridPlan, NetworkRef, TrainPlan
from robust_stitching.plans.options import options_of
from robust_stitching.plans.sweep import read, said_differently

PLAIN = """
dataset = "digits"
pairs = [["A", "B"]]
{}
[networks]
A = "a/model.pt"
B = {{ model = "lenet", epochs = 3, madry = true, epsilon = "1/10" }}
{}
"""


def sweep(folder, top="", end=""):
    path = folder / "mine.toml"
    path.write_text(PLAIN.format(top, end))
    return read(path)


def test_what_is_not_said_has_the_defaults_of_the_plans(tmp_path):
    found = sweep(tmp_path)
    (asked,) = found.asked
    assert found.name == "mine"
    assert found.files == {"A": NetworkRef(str(tmp_path / "a/model.pt"))}
    assert (asked.front, asked.end, asked.options) == ("A", "B", {})
    given = {"front": found.files["A"], "end": NetworkRef("B"), "dataset": asked.plan.dataset}
    assert asked.plan == GridPlan(**given)


def test_a_network_that_is_to_be_trained(tmp_path):
    training = sweep(tmp_path).trainings["B"]
    assert isinstance(training, TrainPlan)
    assert (training.training.epochs, training.training.lr) == (3, 0.1)
    assert (training.adversary.kind, training.adversary.epsilon) == ("madry", 0.1)
    assert training.dataset.name == "digits"


def test_lists_multiply_in_their_order(tmp_path):
    found = sweep(tmp_path, 'seed = [0, 1]\nlr = [1e-3, "1/100"]\ninit = "ps_inv"')
    assert [(asked.plan.seed, asked.plan.training.lr) for asked in found.asked] == [
        *[(0, 1e-3), (0, 1e-2)],
        *[(1, 1e-3), (1, 1e-2)],
    ]
    assert found.asked[2].options == {"seed": 1, "lr": 1e-3}
    assert {asked.plan.transform.init for asked in found.asked} == {"ps_inv"}


def test_a_list_of_an_option_that_is_one_does_not_multiply(tmp_path):
    (asked,) = sweep(tmp_path, 'terms = ["bias=0.1", "l1=0.2"]').asked
    assert asked.plan.objective.terms == ("bias=0.1", "l1=0.2")
    found = sweep(tmp_path, 'terms = [["bias=0.1"], ["l1=0.2"]]').asked
    assert [asked.plan.objective.terms for asked in found] == [("bias=0.1",), ("l1=0.2",)]


def test_settings_of_an_attack_multiply_only_where_there_is_one(tmp_path):
    found = sweep(tmp_path, "madry = [false, true]\nepsilon = [0.1, 0.2]").asked
    assert [asked.options for asked in found] == [
        {"madry": False},
        {"madry": True, "epsilon": 0.1},
        {"madry": True, "epsilon": 0.2},
    ]
    assert [asked.plan.objective.adversary is None for asked in found] == [True, False, False]


@pytest.mark.parametrize(
    ("top", "units"),
    [
        ("controls = [true, false]\nrandom_fronts = [1, 2]", 3),
        ("no_robustness = [true, false]\nrobust_images = [5, 10]\nattack_all = true", 3),
        ("no_pinv = [false, true]\nsimilarity_images = [100, 200]", 3),
        ('target_type = ["hard", "soft_1"]\ntemperature = [1, 2]', 3),
        ("madry = [true, false]\nrobust = false\nepsilon = [0.1, 0.2]", 3),
    ],
)
def test_what_says_nothing_beside_others_does_not_multiply(top, units, tmp_path):
    found = sweep(tmp_path, top).asked
    assert len(found) == units and len({str(asked.options) for asked in found}) == units


@pytest.mark.parametrize(
    ("said", "cells", "fronts", "ends"),
    [
        ('"diagonal"', "diagonal", None, None),
        ('"all"', "all", None, None),
        ('["x", "y"]', "all", ("x", "y"), ("x", "y")),
        ('[["x", "y"], ["x", "z"]]', "pairs", ("x", "x"), ("y", "z")),
    ],
)
def test_layers(said, cells, fronts, ends, tmp_path):
    (asked,) = sweep(tmp_path, f"layers = {said}").asked
    plan = asked.plan
    assert (plan.cells, plan.front_layers, plan.end_layers) == (cells, fronts, ends)


def test_every_pair_is_compared(tmp_path):
    top = 'pairs = [["A", "B"], ["B", "A"]]\nseed = [0, 1]'
    path = tmp_path / "x.toml"
    text = PLAIN.format("seed = [0, 1]", '[compare]\nmeasures = ["cka", "procrustes"]')
    path.write_text(text.replace('pairs = [["A", "B"]]', top.splitlines()[0]))
    kinds = [(asked.front, asked.end, asked.plan.KIND) for asked in read(path).asked]
    assert kinds == [
        *[("A", "B", "grid")] * 2,
        *[("B", "A", "grid")] * 2,
        *[("A", "B", "compare"), ("B", "A", "compare")],
    ]
    assert read(path).asked[-1].plan.measures == ("cka", "procrustes")


def test_every_option_of_a_grid_is_one_of_a_sweep():
    assert {"init", "epochs", "lr", "target_type", "no_bn", "seeds", "madry", "epsilon"} <= set(
        options_of(GridPlan)
    )
    assert not {"front", "path", "hash", "cells", "kind", "adversary", "code"} & set(
        options_of(GridPlan)
    )


@pytest.mark.parametrize(
    ("top", "told"),
    [
        ("epoch = 3", "unknown key 'epoch'; did you mean epochs"),
        ("epochs = 0", "epochs=0 is not a whole number of at least 1."),
        ("epochs = [1, 0]", "epochs=0 is not"),
        ('lr = "fast"', "lr='fast' is not a finite number"),
        ("seed = []", "seed=[] has no value"),
        ('init = [["random", 3]]', "init=['random', 3] is none of random, perm, eye"),
        ('init = ["random", 3]', "init=3 is none of random, perm, eye, ps_inv"),
        ('init = "eyes"', "unknown init 'eyes'; did you mean eye?"),
        ("epsilon = 0.1", "epsilon says how to attack; it needs madry or robust = true."),
        ("random_fronts = [1, 2]", "random_fronts is of the controls; it needs `controls`."),
        ("no_robustness = true\nrobust_images = 5", "leave out `no_robustness`."),
        ("no_robustness = true\nattack_all = true", "attack_all says what to attack"),
        ("no_pinv = true\nsimilarity_images = 100", "leave out `no_pinv`."),
        ("temperature = [1, 2]", "choose `target_type` soft_1, soft_2"),
        ("madry = true\nbeta = 3", "beta is the weight of the TRADES term"),
        ("controls = 1\nrandom_fronts = 2", "controls=1 is not true or false"),
        ("madry = true\nrobust = true", "madry and robust exclude each other"),
        ("madry = 1", "madry=1 is not true or false."),
        ('layers = "some"', "layers='some' is neither 'all' nor 'diagonal', nor a list"),
        ('layers = ["x"]\nfront_layers = ["y"]', "leave front_layers out."),
        ("seed = [0, 1]\nseeds = 2", "make seed 1 twice; leave `seeds` out"),
        (
            "seed = [4, 2]\nseeds = [1, 3]",
            "and seed=4 with seeds=3 make seed 4 twice",
        ),
        ("seed = 9223372036854775806\nseeds = 3", "with seeds=3 goes beyond 2^63 - 1"),
        ('eval_dataset = "a\\u0000"', "has a NUL in it, which no path can have"),
        ("name = 3", "name=3 is not a text"),
        ("eval_dataset = 3", "eval_dataset=3 is not a text"),
        ("epochs = ", "is no TOML ("),
        ("networks = 3", "is no TOML ("),
    ],
)
def test_what_is_refused(top, told, tmp_path):
    with pytest.raises(UserError) as refused:
        sweep(tmp_path, top)
    assert str(refused.value).startswith(str(tmp_path / "mine.toml"))
    assert told in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ('C = { model = "lenet", epoch = 3 }', "network C: unknown key 'epoch'; did you mean"),
        ('C = { model = "lenet", epsilon = 0.1 }', "network C: epsilon says how to attack"),
        ('C = { path = "x.pt", epochs = 3 }', "network C: unknown key 'epochs'"),
        ('C = { model = "lenet", init_noise = [0, 1] }', "network C: init_noise=[0, 1] is not"),
        ("C = 3", "network C: name its file, or say how to train it"),
        ('"" = "x.pt"', "the network's key '' is no plain folder name"),
        (f'{"C" * 81} = "x.pt"', "… has more than 80 bytes; take a shorter one."),
        (f'"{"ü" * 41}" = "x.pt"', "… has more than 80 bytes; take a shorter one."),
        ('C = "x\\u0000.pt"', r"network C: '"),
        ('C = { path = "x\\u0000.pt" }', r"has a NUL in it, which no path can have"),
        ('C = { model = "x\\u0000.py:f" }', r"has a NUL in it, which no path can have"),
        ('"C/D" = "x.pt"', "the network's key 'C/D' is no plain folder name"),
        ("[compare]\nmeasure = 3", "unknown key in compare: 'measure'; did you mean measures"),
    ],
)
def test_networks_and_comparisons_that_are_refused(network, told, tmp_path):
    with pytest.raises(UserError) as refused:
        sweep(tmp_path, end=network)
    assert told in str(refused.value)


def test_seeds_that_stand_apart(tmp_path):
    found = sweep(tmp_path, "seed = [2, 0]\nseeds = 2\nlr = [0.1, 0.2]").asked
    assert len(found) == 4
    longest = f'{"C" * 80} = "x.pt"'
    assert "C" * 80 in sweep(tmp_path, end=longest).files


def test_a_name_that_is_spelt_out_is_no_difference(tmp_path):
    before = sweep(tmp_path)
    now = sweep(tmp_path, 'name = "mine"\nepochs = 3')
    assert said_differently(before.text, now) == ["`epochs` was None and is 3"]


@pytest.mark.parametrize("pairs", ['["A", "B"]', "[]", '[["A"]]', '"A"', '[["A", 3]]'])
def test_pairs_that_are_none(pairs, tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(f'dataset = "digits"\npairs = {pairs}\n[networks]\nA = "a.pt"\nB = "b.pt"')
    with pytest.raises(UserError, match="is no list of pairs of networks"):
        read(path)


def test_what_has_to_be_there(tmp_path):
    path = tmp_path / "x.toml"
    for text, told in (
        ('pairs = [["A", "B"]]', "it lacks 'dataset'"),
        ('dataset = "digits"', "pairs=None is no list"),
        ('dataset = "digits"\npairs = [["A", "B"]]', "unknown network 'A'"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=told):
            read(path)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "none.toml")


def test_paths_count_from_the_file(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    path = tmp_path / "x.toml"
    path.write_text(
        'dataset = "images"\npairs = [["A", "B"]]\n[networks]\nA = "a.pt"\n'
        'B = { path = "b.pt", model = "nets.py:mine", mean = [0.5], std = [0.2] }'
    )
    monkeypatch.chdir("/")
    found = read(path)
    assert found.asked[0].plan.dataset.name == str(tmp_path / "images")
    assert found.files["A"].path == str(tmp_path / "a.pt")
    assert found.files["B"] == NetworkRef(
        str(tmp_path / "b.pt"), mean=(0.5,), std=(0.2,), model=f"{tmp_path / 'nets.py'}:mine"
    )


def test_the_plan_on_the_page_of_sweeps(tmp_path):
    path = tmp_path / "page.toml"
    text = (REPOSITORY / "docs" / "sweeps.md").read_text()
    path.write_text(re.search(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1])
    found = read(path)
    assert (found.name, list(found.trainings), list(found.files)) == (
        "robust-and-standard",
        ["R"],
        ["S"],
    )
    assert [asked.plan.KIND for asked in found.asked] == ["grid"] * 4 + ["compare"] * 2


def test_a_dataset_is_its_key_whatever_lies_beside_the_plan(tmp_path):
    for name in ("digits", "CIFAR10", "mine"):
        (tmp_path / name / "train").mkdir(parents=True)
    found = sweep(tmp_path, 'eval_dataset = "cifar10"')
    (asked,) = found.asked
    assert (asked.plan.dataset.name, asked.plan.eval_dataset.name) == ("digits", "cifar10")
    assert found.trainings["B"].dataset.name == "digits"
    for said, where in (("mine", "mine"), ("./digits", "digits")):
        (asked,) = sweep(tmp_path, f'eval_dataset = "{said}"').asked
        assert asked.plan.eval_dataset.name == str(tmp_path / where)


def test_a_path_is_a_text(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('dataset = "digits"\npairs = [["A", "A"]]\n[networks]\nA = {path = 3}\n')
    with pytest.raises(UserError, match="path=3 is not a text"):
        read(path)
