"""State dicts in whatever form others save them: found by what fits the network."""

import random
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robust_stitching import checkpoints, models
from robust_stitching.basics.errors import UserError

MODELS = ["lenet", "resnet_w1"]
MEAN, STD = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([0.25, 0.5, 0.75])


def net(model="tiny10", classes=10, channels=3, **options):
    return models.build(model, num_classes=classes, in_channels=channels, **options).eval()


def bare(network):
    return {k: v for k, v in network.state_dict().items() if not k.startswith("normalize")}


def under(prefix):
    return lambda state: {prefix + name: value for name, value in state.items()}


def in_key(*keys):
    def wrap(state):
        for key in reversed(keys):
            state = {key: state, "epoch": 7, "best": 0.93}
        return state

    return wrap


def shuffled(state):
    names = list(state)
    random.Random(3).shuffle(names)
    return {name: state[name] for name in names}


def nested(state):
    """Modules as dictionaries of their own, a level for each dot."""
    found = {}
    for name, value in state.items():
        *path, last = name.split(".")
        inside = found
        for part in path:
            inside = inside.setdefault(part, {})
        inside[last] = value
    return found


def in_a_circle(state):
    found = {"state_dict": state}
    found["again"] = found
    return found


def adams(state):
    """What an optimiser keeps of the weights, under their names."""
    names = {name: torch.full_like(value, 0.5) for name, value in state.items()}
    return {"exp_avg": names, "exp_avg_sq": names, "step": torch.tensor(7)}


FORMS = {
    "bare": lambda state: state,
    **{
        ".".join(keys): in_key(*keys)
        for keys in (
            *(("state_dict",), ("model", "state_dict"), ("ema",), ("state_dict_ema",), ("params",)),
            *(("weights",), ("net",), ("model_state_dict",), ("a", "b", "c", "d"), ("run", "0")),
        )
    },
    **{
        prefix: under(prefix)
        for prefix in (
            *("module.", "net.", "backbone.", "base_model.", "model.", "_orig_mod.", "1."),
            *("module.model.", "_orig_mod.module.", "encoder.backbone.net."),
        )
    },
    "a list": lambda state: [state, {"lr": 0.1}],
    "a tuple in a dict": lambda state: {"checkpoint": ({"epoch": 3}, state)},
    "an OrderedDict": lambda state: {"state_dict": OrderedDict(state)},
    "parameters": lambda state: {
        k: nn.Parameter(v) for k, v in state.items() if v.is_floating_point()
    },
    "shuffled": shuffled,
    "reversed": lambda state: dict(reversed(state.items())),
    "numbers among them": lambda state: {"epoch": 3, **state, "name": "x", "none": None},
    "counters among them": lambda state: {"n_averaged": torch.tensor(9), **under("module.")(state)},
    "modules as dictionaries": nested,
    "a circle": in_a_circle,
    "a long history": lambda state: {"history": [0.5] * 10**6, "state_dict": state},
    "beside an optimiser": lambda state: {"model": state, "optimizer": {"state": adams(state)}},
    "before an optimiser": lambda state: {"a_optim": adams(state), "z": state},
    "beside its optimiser": lambda state: {**state, "optimizer": {"state": adams(state)}},
    "without counters": lambda state: {
        k: v for k, v in state.items() if not k.endswith("num_batches_tracked")
    },
    "with numbers for counters": lambda state: {
        k: 17 if k.endswith("num_batches_tracked") else v for k, v in state.items()
    },
    "operations counted": lambda state: {**state, "conv1.total_ops": torch.tensor([7.0]).double()},
    "half precision": lambda state: {
        k: v.half() if v.is_floating_point() else v for k, v in state.items()
    },
    "another format": lambda state: {"format": "pt", "state_dict": state},
    "another layout": lambda state: {
        k: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in state.items()
    },
}  # fmt: skip


def put(tmp_path, value, model="tiny10"):
    path = tmp_path / model / "CIFAR10" / "x.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_in_every_form(form, model, tmp_path):
    network = net(model, 12)
    loaded = checkpoints.load(put(tmp_path, FORMS[form](bare(network)), model))
    assert (loaded.model, loaded.classes, loaded.network.input_shape) == (model, 12, (3, 32, 32))
    own = loaded.network.state_dict()
    for name, value in bare(network).items():
        if not name.endswith("num_batches_tracked"):
            value = value.half().float() if form == "half precision" else value
            assert torch.equal(own[name], value), name
    assert "several" not in " ".join(loaded.notes)


SHAPES = {"(3,)": (3,), "(3,1,1)": (3, 1, 1), "(1,3,1,1)": (1, 3, 1, 1), "(1,3)": (1, 3)}
CALLED = {
    "ours": ("normalize.mean", "normalize.std", ""),
    "Sequential": ("0.mean", "0.std", "1."),
    "in the module": ("module.normalize.mean", "module.normalize.std", "module."),
    "beside the model": ("normalizer.new_mean", "normalizer.new_std", "model."),
    "mu and sigma": ("mu", "sigma", ""),
    "behind the prefix": ("mean", "std", "net."),
    "pixel_mean": ("pixel_mean", "pixel_std", "backbone."),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("called", CALLED)
def test_constants_stand_beside_the_weights(called, shape, tmp_path):
    mean, std, prefix = CALLED[called]
    inside = {mean: MEAN.reshape(SHAPES[shape]), std: STD.reshape(SHAPES[shape])}
    for order in (lambda pair: {**inside, **pair}, lambda pair: {**pair, **inside}):
        loaded = checkpoints.load(put(tmp_path, {"net": order(under(prefix)(bare(net())))}))
        normalize = loaded.network.normalize
        assert torch.equal(normalize.mean.flatten(), MEAN)
        assert torch.equal(normalize.std.flatten(), STD)
        assert loaded.notes == ()


def test_one_constant_for_all_channels(tmp_path):
    value = {"mean": torch.tensor(0.5), "std": torch.tensor([0.25]), **bare(net())}
    normalize = checkpoints.load(put(tmp_path, value)).network.normalize
    assert normalize.mean.flatten().tolist() == [0.5] * 3
    assert normalize.std.flatten().tolist() == [0.25] * 3


def test_constants_of_the_copy_that_is_taken(tmp_path):
    state, wrong = bare(net()), {"mean": torch.full((3,), 0.9), "std": torch.full((3,), 0.9)}
    both = {
        **under("ema.normalize.")(wrong), **under("attacker.normalize.")(wrong),
        **under("model.")(state), **under("ema.")(state), **under("attacker.model.")(state),
        "model.normalize.mean": MEAN, "model.normalize.std": STD,
    }  # fmt: skip
    path = put(tmp_path, both)
    assert torch.equal(checkpoints.load(path).network.normalize.mean.flatten(), MEAN)
    averaged = checkpoints.load(path, weights="ema").network.normalize
    assert torch.equal(averaged.std.flatten(), wrong["std"])


# Several


def two(other):
    """A file with plain weights a and others b."""
    return {
        "wrapped": lambda a, b: {other: b, "model": a},
        "prefixed": lambda a, b: {**under(f"{other}.")(b), **under("model.")(a)},
        "in one word": lambda a, b: {f"state_dict_{other}": b, "state_dict": a},
        "deep": lambda a, b: {"x": {f"{other}_net": {"a": under("module.")(b)}}, "y": {"n": a}},
        "on top": lambda a, b: {f"{other}Model": b, **a},
    }  # fmt: skip


@pytest.mark.parametrize("form", two("ema"))
@pytest.mark.parametrize("word", ["ema", "swa", "teacher", "averaged"])
def test_plain_weights_are_taken_and_others_can_be(form, word, tmp_path):
    plain, averaged = net(seed=1), net(seed=2)
    path = put(tmp_path, two(word)[form](bare(plain), bare(averaged)))
    loaded = checkpoints.load(path)
    assert torch.equal(loaded.network.fc.weight, plain.fc.weight)
    (note,) = (note for note in loaded.notes if "several sets of weights" in note)
    assert "`weights`" in note and word in note
    chosen = checkpoints.load(path, weights=word)
    assert torch.equal(chosen.network.fc.weight, averaged.fc.weight)


def test_of_equals_the_choice_does_not_depend_on_their_order(tmp_path):
    one, other = bare(net(seed=1)), bare(net(seed=2))
    for value in ({"net1": one, "net2": other}, {"net2": other, "net1": one}):
        path = put(tmp_path, value)
        assert torch.equal(checkpoints.load(path).network.fc.weight, one["fc.weight"])
        found = checkpoints.load(path, weights="net2").network
        assert torch.equal(found.fc.weight, other["fc.weight"])


def test_a_second_copy_is_not_taken_for_the_network(tmp_path):
    one, other = bare(net(seed=1)), bare(net(seed=2))
    loaded = checkpoints.load(put(tmp_path, {"attacker": other, "classifier": one}))
    assert torch.equal(loaded.network.fc.weight, one["fc.weight"])
    assert "several" not in " ".join(loaded.notes)


def test_the_same_weights_twice_are_one_set(tmp_path):
    state = bare(net())
    assert "several" not in " ".join(checkpoints.load(put(tmp_path, [state, state])).notes)
    copy = {name: value.clone() for name, value in state.items()}
    loaded = checkpoints.load(put(tmp_path, {"model": state, "best": copy}))
    assert "several" not in " ".join(loaded.notes)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("emma", "no weights that fit"),
        ("model", "several sets of weights"),
        ("state", "no weights"),
    ],
)
def test_a_choice_that_is_none_is_told(wanted, told, tmp_path):
    state, other = bare(net(seed=1)), bare(net(seed=2))
    path = put(tmp_path, {"model_a": state, "model_ema": other})
    with pytest.raises(UserError, match=f"{told}.*weights='model_a' or weights='model_ema'"):
        checkpoints.load(path, weights=wanted)


def test_ours_holds_one_set(tmp_path):
    checkpoints.save(tmp_path / "x.pt", net(), "cifar10", {})
    with pytest.raises(UserError, match="leave weights='ema' out"):
        checkpoints.load(tmp_path / "x.pt", weights="ema")


# Wrappers inside, and what stands beside


@pytest.mark.parametrize("part", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_wrappers_around_modules_inside(part, tmp_path):
    network = net("resnet_w1")
    state = {name.replace("layer2.", f"layer2.{part}."): v for name, v in bare(network).items()}
    loaded = checkpoints.load(put(tmp_path, under("model.")(state), "resnet_w1"))
    assert torch.equal(loaded.network.layer2[0].conv1.weight, network.layer2[0].conv1.weight)


def test_a_loss_beside_the_network(tmp_path):
    value = {**under("model.")(bare(net())), "criterion.weight": torch.ones(10)}
    assert checkpoints.load(put(tmp_path, {"state_dict": value})).classes == 10


HARMLESS = {
    "argparse": Namespace(lr=0.1, arch="tiny10", schedule=[30, 60]),
    "numpy's numbers": [np.float64(0.93), np.float32(0.1), np.int64(3), np.bool_(True)],
    "numpy's arrays": {
        "curve": np.linspace(0, 1, 5),
        "state": np.random.RandomState(0).get_state(),
    },
    "paths": Path("runs/3"),
}


@pytest.mark.parametrize("beside", HARMLESS)
@pytest.mark.parametrize("legacy", [False, True], ids=["", "before torch 1.6"])
def test_settings_and_results_beside_the_weights(beside, legacy, tmp_path):
    path = tmp_path / "x.pt"
    value = {"state_dict": bare(net()), "beside": HARMLESS[beside]}
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    assert checkpoints.load(path, model="tiny10", dataset="cifar10").classes == 10


def test_objects_of_numpy_are_refused(tmp_path):
    value = {"state_dict": bare(net()), "beside": np.array([{1: 2}, None], dtype=object)}
    with pytest.raises(UserError, match="could run code"):
        checkpoints.load(put(tmp_path, value))


def test_weights_without_a_prefix_are_named_for_people(tmp_path):
    state = models.build("lenet", num_classes=10, in_channels=1, seed=0).state_dict()
    both = {**state, **{f"ema.{name}": 2 * value for name, value in state.items()}}
    torch.save(both, tmp_path / "x.pth")
    found = checkpoints.load(tmp_path / "x.pth", model="lenet", dataset="digits")
    assert any("the one without a prefix was taken, not 'ema'" in note for note in found.notes)
