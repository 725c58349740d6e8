"""Weights that do not fit, are not there, or are no numbers: refused, with what is amiss."""

import pytest
import torch

import robust_stitching as rs
from left_behind import only
from robust_stitching import checkpoints, models
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import DataRef, Optimisation, TrainPlan, as_values
from robust_stitching.runs.train import run as train_network
from robust_stitching.training import Trainer, standard


def net(model="tiny10", classes=10, channels=3, **options):
    return models.build(model, num_classes=classes, in_channels=channels, **options).eval()


def bare(network):
    return {k: v for k, v in network.state_dict().items() if not k.startswith("normalize")}


def under(prefix):
    return lambda state: {prefix + name: value for name, value in state.items()}


def put(tmp_path, value, model="tiny10"):
    path = tmp_path / model / "CIFAR10" / "x.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def without(*names):
    return lambda state: {k: v for k, v in state.items() if k not in names}


COUNTERS = [f"bn{i}.num_batches_tracked" for i in range(1, 9)]
MISFITS = {
    "a bias": (without("bn3.bias"), "1 missing (bn3.bias)."),
    "a bias, and counters": (without("bn3.bias", *COUNTERS), "1 missing (bn3.bias)."),
    "no head": (without("fc.weight", "fc.bias"), "2 missing (fc.weight, fc.bias)."),
    "a layer more": (
        lambda state: {**state, "fc2.weight": torch.ones(3, 3)},
        "1 not known (fc2.weight).",
    ),
    "a layer behind": (
        lambda state: {**under("0.")(state), "1.weight": torch.eye(10)},
        "1 not known (1.weight).",
    ),
    "a temperature": (
        lambda state: {**under("net.")(state), "temperature": torch.ones(1)},
        "1 not known (temperature).",
    ),
    "a mean image": (
        lambda state: {**state, "mean": torch.zeros(3, 32, 32)},
        "1 not known (mean).",
    ),
    "a larger kernel": (
        lambda state: {**state, "conv2.weight": torch.ones(16, 16, 5, 5)},
        "1 misshapen (conv2.weight).",
    ),
    "another bias": (
        lambda state: {**state, "fc.bias": torch.ones(11)},
        "1 misshapen (fc.bias).",
    ),
    "other names": (
        lambda state: {f"x{k}": v for k, v in state.items()},
        "42 missing (conv1.weight, bn1.weight, bn1.bias, …); 58 not known (xconv1.weight",
    ),
    "nothing alike": (lambda state: {"w": torch.ones(3)}, "1 not known (w)."),
}


@pytest.mark.parametrize("wrapped", [False, True], ids=["on top", "in a state_dict"])
@pytest.mark.parametrize("case", MISFITS)
def test_what_is_amiss_is_told(case, wrapped, tmp_path):
    spoil, told = MISFITS[case]
    state = spoil(bare(net()))
    path = put(tmp_path, {"state_dict": state, "epoch": 3} if wrapped else state)
    with pytest.raises(UserError) as error:
        checkpoints.load(path)
    said = str(error.value).replace("state_dict.", "")
    assert f"the weights in {path} do not fit tiny10: " in said and told in said
    assert "num_batches_tracked" not in said and "\n" not in said


@pytest.mark.parametrize("kept", ["exp_avg", "momentum_buffer"])
def test_what_an_optimiser_keeps_under_the_names_of_weights_is_none(kept, tmp_path):
    state = bare(net("lenet"))
    for value in (
        {"optimizer": {kept: state}},
        {"optim_state": [state]},
        {kept: state},
        {"epoch": torch.tensor(3), "optimizer": state},
        under(f"{kept}.")(state),
    ):
        with pytest.raises(UserError, match=r"no state dict|do not fit lenet"):
            checkpoints.load(put(tmp_path, value, "lenet"))


# Tensors that are not there


HUGE = 10**9
CLAIMS = {
    "classes": ("fc3.weight", lambda: torch.zeros(1).expand(HUGE, 84)),
    "channels": ("conv1.weight", lambda: torch.zeros(1).expand(6, HUGE, 5, 5)),
    "rows of strides": ("fc1.weight", lambda: torch.zeros(400).as_strided((HUGE, 400), (0, 1))),
    "a bias": ("fc3.bias", lambda: torch.zeros(1).expand(HUGE)),
    "a strange one": ("more.weight", lambda: torch.zeros(1).expand(HUGE, HUGE)),
    "sparse": (
        "fc3.weight",
        lambda: torch.sparse_coo_tensor(size=(HUGE, 84), check_invariants=False),
    ),
    "on no device": ("fc3.weight", lambda: torch.empty(HUGE, 84, device="meta")),
    "complex": ("fc3.weight", lambda: torch.zeros(10, 84, dtype=torch.complex64)),
}


@pytest.mark.parametrize("ours", [False, True], ids=["a bare state dict", "one of ours"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_shape_is_not_believed_without_numbers(claim, ours, tmp_path):
    name, make = CLAIMS[claim]
    network = net("lenet", channels=1)
    path = put(tmp_path, {**bare(network), name: make()}, "lenet")
    if ours:
        checkpoints.save(path, network, "digits", {})
        kept = torch.load(path, weights_only=True)
        kept["state_dict"][name] = make()
        torch.save(kept, path)
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match=name):
        checkpoints.load(path)


def test_weights_and_bias_that_agree_on_a_shape_are_not_believed_either(tmp_path):
    zero = torch.zeros(1)
    huge = {"fc3.weight": zero.expand(HUGE, 84), "fc3.bias": zero.expand(HUGE)}
    path = put(tmp_path, {**bare(net("lenet", channels=1)), **huge}, "lenet")
    with pytest.raises(UserError, match="84,000,000,000 numbers, of which the file has 1"):
        checkpoints.load(path)


def test_a_checkpoint_cannot_ask_for_any_number_of_classes(tmp_path):
    network = net("lenet", channels=1)
    network.architecture = {**network.architecture, "num_classes": HUGE}
    checkpoints.save(tmp_path / "x.pt", network, "digits", {})
    with pytest.raises(UserError, match="1,000,000,000 classes"):
        checkpoints.load(tmp_path / "x.pt")


@pytest.mark.parametrize("device", ["sparse", "meta"])
def test_constants_without_numbers(device, tmp_path):
    mean = torch.empty(3, device="meta") if device == "meta" else torch.zeros(3).to_sparse()
    path = put(tmp_path, {"normalize.mean": mean, **bare(net())})
    with pytest.raises(UserError, match=r"normalize\.mean in "):
        checkpoints.load(path)


def test_small_tensors_may_be_spread(tmp_path):
    spread = {"mean": torch.tensor(0.5).expand(3, 1, 1), "std": torch.tensor(0.5).expand(3, 1, 1)}
    state = {**bare(net()), "bn1.weight": torch.ones(1).expand(16), **spread}
    assert checkpoints.load(put(tmp_path, state)).network.normalize.mean.mean() == 0.5


# Numbers that are none


BROKEN = [
    ("fc.weight", float("nan")), ("conv1.weight", float("inf")), ("bn3.running_mean", float("nan")),
    ("bn5.running_var", float("-inf")), ("fc.bias", float("nan")), ("fc.weight", 1e300),
]  # fmt: skip


def spoiled(state, name, number):
    value = state[name].double().clone()
    value.view(-1)[-1] = number
    return {**state, name: value}


@pytest.mark.parametrize(("name", "number"), BROKEN)
@pytest.mark.parametrize("ours", [False, True], ids=["a bare state dict", "one of ours"])
def test_a_number_that_is_none_is_refused(ours, name, number, tmp_path):
    network = net()
    path = put(tmp_path, spoiled(bare(network), name, number))
    if ours:
        checkpoints.save(path, network, "digits", {})
        kept = torch.load(path, weights_only=True)
        torch.save({**kept, "state_dict": spoiled(kept["state_dict"], name, number)}, path)
    with pytest.raises(UserError, match=f"{name} in .* has 1 of .* that are NaN or infinite"):
        checkpoints.load(path)


@pytest.mark.parametrize("name", ["front.conv1.weight", "transform.weight", "end.bn4.running_var"])
def test_a_stitched_network_with_such_a_number(name, tmp_path):
    stitched = StitchedNetwork(net(), "bn3", net(seed=1), "bn3")
    with torch.no_grad():
        stitched.state_dict()[name].view(-1)[0] = float("nan")
    checkpoints.save(tmp_path / "x.pt", stitched, "digits", {})
    with pytest.raises(UserError, match=name):
        checkpoints.load(tmp_path / "x.pt")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool])
def test_whole_numbers_are_no_weights(dtype, tmp_path):
    """Quantised weights without their scale would answer, and wrongly."""
    state = net("lenet", channels=1).state_dict()
    torch.save(
        {n: v if "num" in n else (10 * v).to(dtype) for n, v in state.items()}, tmp_path / "x"
    )
    with pytest.raises(UserError, match="has whole numbers"):
        checkpoints.load(tmp_path / "x", model="lenet", dataset="digits")


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan")])
def test_a_deviation_that_images_cannot_be_divided_by(value, tmp_path):
    network = net()
    network.normalize.std[1] = value
    checkpoints.save(tmp_path / "x.pt", network, "digits", {})
    with pytest.raises(UserError, match=r"normalize\.std"):
        checkpoints.load(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "command",
    [
        "eval_net.py BROKEN",
        "eval_net_robustness.py BROKEN",
        "layer_info.py BROKEN",
        "compare_nets.py BROKEN GOOD digits",
        "compare_nets.py GOOD BROKEN digits",
        "find_transform.py BROKEN GOOD bn3 bn3 digits",
        "find_transform.py GOOD BROKEN bn3 bn3 digits",
        "find_cross_dataset_transform.py GOOD BROKEN bn3 bn3 digits digits",
    ],
)
def test_every_command_refuses_it(command, call_script, tiny10s, tmp_path):
    kept = torch.load(tiny10s[0], weights_only=True)
    broken = {**kept, "state_dict": spoiled(kept["state_dict"], "bn3.running_var", float("nan"))}
    torch.save(broken, tmp_path / "broken.pt")
    words = {"BROKEN": tmp_path / "broken.pt", "GOOD": tiny10s[1]}
    done = call_script(*(words.get(word, word) for word in command.split()))
    assert done.status == 2 and done.out == "" and done.err.count("\n") == 1
    assert "bn3.running_var in" in done.err and only(tmp_path) == tmp_path / "broken.pt"


@pytest.mark.parametrize("where", ["network", "optimizer"])
def test_a_training_is_not_gone_on_with_from_such_a_number(where, digits, tmp_path):
    config = Optimisation(epochs=1, lr=0.05, batch_size=512)
    plan = TrainPlan(model="lenet", dataset=DataRef("digits"), training=config)
    trainer = Trainer(net("lenet", channels=1), standard, digits[0], config)
    trainer.run()
    state = trainer.state_dict()
    tensors = state["network"], state["optimizer"]["state"][0]
    broken, name = (
        (tensors[0], "fc1.bias") if where == "network" else (tensors[1], "momentum_buffer")
    )
    broken[name].view(-1)[0] = float("nan")
    unfinished = tmp_path / "lenet" / "Digits" / plan.label / "resume.pt"
    kept = {"plan": as_values(plan), "precision": "float32", "trainer": state}
    checkpoints.write(unfinished, kept)
    with pytest.raises(UserError, match=rf"trainer\.{where}.*{name} in .*resume\.pt has 1 of"):
        train_network(plan, tmp_path, torch.device("cpu"), resume=True)


MASKED = """
import torch
from torch import nn

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 10)
        self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))

    def forward(self, x):
        rows = x[:, 0]
        return self.fc(((rows @ rows.mT + self.mask).softmax(-1) @ rows).mean(1))
"""


def test_a_mask_may_be_infinite_in_files_and_in_a_training_that_is_gone_on_with(digits, tmp_path):
    code = tmp_path / "nets.py"
    code.write_text(MASKED)
    config = Optimisation(epochs=1, lr=0.05, batch_size=512)
    plan = TrainPlan(
        model=f"{code}:Masked", dataset=DataRef("digits"), training=config, image_size=8
    )
    done = train_network(plan, tmp_path, torch.device("cpu"))
    path = done.path
    loaded = checkpoints.load(path, model=plan.model).network
    assert bool(loaded.mask.isinf().any())
    train, _ = rs.load_data("digits", image_size=8)
    trainer = Trainer(loaded, standard, train, config)
    trainer.run()
    kept = checkpoints.load(path, model=plan.model).training["plan"]
    state = {"plan": kept, "precision": "float32", "trainer": trainer.state_dict()}
    path.unlink()
    checkpoints.write(path.with_name("resume.pt"), state)
    again = train_network(plan, tmp_path, torch.device("cpu"), resume=True)
    assert again.path == path
