"""Controls of a stitch: fronts that never learned anything, statistics that are estimated again."""

import copy
import re
import statistics
from statistics import fmean

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching import checkpoints, models
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.progress import silent
from robust_stitching.data import Split
from robust_stitching.evaluation import evaluate
from robust_stitching.graphs import graph
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import Objective, stitching
from robust_stitching.report.stitch.tables import control_rows
from robust_stitching.report.stitch.text import as_text
from robust_stitching.report.stitch.verdict import meaning
from robust_stitching.stitching import run
from robust_stitching.stitching.controls import wake, with_random_weights
from robust_stitching.stitching.fit import find_map
from robust_stitching.stitching.initial import initial_values
from robust_stitching.stitching.record import as_record
from robust_stitching.stitching.run import stitch
from robust_stitching.stitching.statistics import estimate_statistics
from robust_stitching.stitching.targets import goal_of
from robust_stitching.training import Diverged


def lenet(seed: int, **options) -> nn.Module:
    options = {"num_classes": 10, "in_channels": 1, **options}
    return models.build("lenet", seed=seed, **options).eval()


def joined(front: nn.Module, end: nn.Module, layer: str = "relu2") -> StitchedNetwork:
    network = StitchedNetwork(front, layer, end, layer).eval()
    network.transform.set(*initial_values("random", 16, 16, 0))
    return network


def test_a_front_with_random_weights_learned_nothing(digits):
    """It is apart from the weights that a training with any small seed starts from."""
    trained = lenet(0, mean=(0.3,), std=(0.2,))
    nn.init.ones_(trained.conv1.weight)
    twin, again = (with_random_weights(trained, digits[0], 0, 0) for _ in range(2))
    assert torch.equal(twin.normalize.mean, trained.normalize.mean)
    assert torch.equal(twin.fc2.weight, again.fc2.weight)
    others = [with_random_weights(trained, digits[0], *which) for which in ((1, 0), (0, 1))]
    for seed in range(5):
        for layer in ("conv2.weight", "fc1.weight"):
            own = twin.get_parameter(layer).flatten()
            for apart in (*others, lenet(seed)):
                pair = torch.stack([own, apart.get_parameter(layer).flatten()])
                assert abs(torch.corrcoef(pair)[0, 1].item()) < 0.1
    spread = [network.conv1.weight.std().item() for network in (twin, lenet(0))]
    assert spread[0] == pytest.approx(spread[1], rel=0.3)
    assert (trained.conv1.weight == 1).all()
    with pytest.raises(UserError, match="leave `controls` out"):
        with_random_weights(joined(lenet(0), lenet(1)), digits[0], 0, 0)


def test_a_random_front_has_the_statistics_of_the_data(digits):
    """Behind each batch norm its channels have mean 0 and deviation 1, but for the batches."""
    trained = models.build("tiny10", num_classes=10, in_channels=1)
    twin = with_random_weights(trained, digits[0], 0, 0)
    assert not any(m.training for m in twin.modules())
    assert {m.momentum for m in twin.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    for layer in ("bn1", "bn8"):
        (found,) = graph.features(twin, [layer])(digits[0].images[:1000] / 255)
        assert found.mean(dim=(0, 2, 3)).abs().max() < 0.2
        assert (found.std(dim=(0, 2, 3)) - 1).abs().max() < 0.2


@pytest.mark.parametrize("kind", ["soft_1", "soft_12"])
def test_controls_are_trained_for_the_same_answers(kind, digits, lenets):
    """A random front is asked for what the trained front answers, not for its own answers."""
    front, end = (checkpoints.load(path) for path in lenets)
    train, test = (split.between(0, 256) for split in digits)
    options = {"epochs": 2, "init": "ps_inv", "controls": True, "no_robustness": True}
    config = stitching("relu2", "relu2", target_type=kind, **options)
    result = stitch(front, end, train, test, config)
    twin = with_random_weights(front.network, train, 0, 0)
    goal = goal_of(Objective(kind), front.network, end.network)
    cuts = (twin, "relu2"), (end.network, "relu2")
    expected = find_map(*cuts, train, test, config, goal, main=False)
    found = evaluate(expected.network, test)
    assert result.scores["random_front"].loss == pytest.approx(found.loss, rel=1e-5)


def test_a_control_that_cannot_be_is_told_before_any_training(lenets, digits):
    front, end = (checkpoints.load(path) for path in lenets)
    config = stitching("relu4", "conv1", flatten=True, controls=True, save_frequency=1)
    seen = []

    def progress(total, what, unit=""):
        seen.append(what)
        return silent(total, what, unit)

    with pytest.raises(UserError, match="`controls` stitch the end to itself, but 12 maps of"):
        stitch(front, end, digits[0].between(0, 1536), digits[1], config, progress)
    assert seen == []


def record(stitched, self_stitch, random_front, end=0.99, n=1000):
    accuracy = {"stitched": stitched, "self_stitch": self_stitch, "random_front": random_front}
    accuracy |= {"untrained": 0.1, "direct_matching": 0.8, "end": end}
    gaps = {name: stitched - value for name, value in accuracy.items() if name not in ("end",)}
    made = {name: {"accuracy": value} for name, value in accuracy.items()}
    made |= {"gaps": gaps, "data": {"n_images": n}, "random_fronts": [random_front]}
    if self_stitch is None:
        return made | {"self_stitch": None, "random_front": None}
    return made


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ((0.97, 0.98, 0.20), "at 99% of the way .* nearly all that the end"),
        ((0.56, 0.40, 0.08, 0.41), "at 150% of the way .* more than the end network's own"),
        ((0.60, 0.98, 0.20), "at 51% of the way .* part of what the end"),
        ((0.21, 0.98, 0.20), "at 1% of the way .* nothing that a random front would not"),
        ((0.90, 0.91, 0.77, 0.43), "the map learns the task by itself"),
        ((0.97, 0.98, 0.95), "are too close to tell anything"),
        ((0.80, 0.85, 0.75, 0.99, 50), "are too close to tell anything"),
        ((0.45, 0.50, 0.10), "But even the self-stitch is far from the end's own 99.0%"),
    ],
)
def test_what_the_controls_mean(accuracies, said):
    assert re.search(said, meaning(record(*accuracies)))


def test_without_controls_the_start_and_direct_matching_are_told():
    made = record(0.9, 0.5, 0.1) | {"self_stitch": None}
    told = meaning(made)
    assert "80.0 points better than before training" in told
    assert "10.0 points better than direct matching" in told
    assert "--controls" in told


@pytest.mark.parametrize(
    "lost", [["self_stitch"], ["random_front"], ["self_stitch", "random_front"]]
)
def test_a_control_that_diverges_is_left_out(lost, lenets, digits, monkeypatch):
    """What was stitched before it is not lost."""
    order = iter(["stitched", "self_stitch", *["random_front"] * 2])

    def diverging(*cuts, main=True, **options):
        if next(order) in lost:
            raise Diverged("the loss became NaN or infinite in epoch 1.")
        return find_map(*cuts, main=main, **options)

    monkeypatch.setattr(run, "find_map", diverging)
    front, end = (checkpoints.load(path) for path in lenets)
    options = {"epochs": 1, "init": "ps_inv", "controls": True, "no_robustness": True}
    train, test = (split.between(0, 128) for split in digits)
    config = stitching("relu2", "relu2", random_fronts=2, **options)
    result = stitch(front, end, train, test, config)
    left_out = [note for note in result.notes if "was left out: the loss became NaN" in note]
    expected = [name for name in ("self_stitch", *["random_front"] * 2) if name in lost]
    assert [note.split("(")[1].split(")")[0].replace(" ", "_") for note in left_out] == expected
    assert not set(lost) & result.scores.keys()
    record = as_record(result, "")
    assert all(record[name] is None for name in lost)
    assert "--controls tells" in meaning(record)


# --- every branch of a random front is alive ---


def branches(name: str) -> list[str]:
    """The last layers of residual branches."""
    return {
        "resnet50": ["layer1.0.bn3", "layer3.5.bn3", "layer4.2.bn3"],
        "engstromrn50": ["layer1.2.bn3", "layer4.0.bn3"],
        "torchvision:convnext_tiny": ["features.1.0.mul", "features.7.2.mul"],
        "torchvision:resnet18": ["layer1.0.bn2"],
    }[name]


@pytest.mark.parametrize(
    "name", ["resnet50", "engstromrn50", "torchvision:convnext_tiny", "torchvision:resnet18"]
)
def test_no_branch_of_a_random_front_is_switched_off(name, digits):
    trained = models.build(name, num_classes=10, in_channels=3)
    train = digits[0].sample(24)
    train = Split(train.name, train.images.expand(-1, 3, -1, -1), train.labels, train.classes)
    twin = with_random_weights(trained, train, 0, 0)
    x = train.images.float() / 255
    with torch.no_grad():
        found = graph.features(twin, branches(name))(x)
        skips = graph.features(twin, [layer.rpartition(".")[0] for layer in branches(name)])(x)
    for branch, whole in zip(found, skips, strict=True):
        assert branch.std() > 0.01 * whole.std()
        assert branch.flatten(1).std(dim=0).mean() > 0


class Factors(nn.Module):
    """What may be near 0 in a fresh network, and what of it is no factor of a branch."""

    def __init__(self):
        super().__init__()
        self.norm, self.zeroed = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.scale = nn.Parameter(1e-6 * torch.ones(3, 1, 1))
        self.gain = nn.Parameter(torch.zeros(()))
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 3)), torch.zeros(1, 4, 3)
        self.v_bias, self.table = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4, 2))
        self.drawn = nn.Parameter(0.02 * torch.randn(3))
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.zeroed.weight)


def test_factors_are_told_from_what_is_added():
    network = Factors()
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    wake(network, 0)
    assert torch.equal(torch.get_rng_state(), state)
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"norm.weight", "zeroed.weight", "zeroed.bias", "scale", "gain"}
    assert all((value == 1).all() for value in (network.norm.weight, network.scale, network.gain))
    assert network.zeroed.weight.std() > 0


# --- statistics ---


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(1, momentum=0.3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(x))


@pytest.mark.parametrize("n", [2, 101, 250, 1001])
def test_statistics_are_those_of_equally_large_batches(n):
    """Not those of batches of 100 and a last one of a single image that counts as much."""
    g = torch.Generator().manual_seed(n)
    pixels = torch.randint(0, 256, (n, 1, 1, 1), generator=g, dtype=torch.uint8)
    pixels[-1] = 255
    split = Split("Pixels", pixels, torch.zeros(n, dtype=torch.long), ("a", "b"))
    network = Normed().train()
    estimate_statistics(network, split, 0)
    seen = split.sample(1000, 0).images.flatten().double().numpy() / 255
    parts = np.array_split(seen, max(1, -(-len(seen) // 100)))
    mean, variance = (np.mean([f(part) for part in parts]) for f in (np.mean, statistics.variance))
    assert network.norm.running_mean.item() == pytest.approx(mean, abs=1e-5)
    assert network.norm.running_var.item() == pytest.approx(variance, rel=1e-4)
    assert network.training and network.norm.training and network.norm.momentum == 0.3


class Mixed(nn.Module):
    """Norms of torch, of one's own with the factor of other libraries, counting ones, functions."""

    def __init__(self):
        super().__init__()
        self.theirs, self.own, self.counting = nn.BatchNorm2d(6), Own(0.99), Own(None)
        self.conv = nn.Conv2d(1, 6, 3)
        self.register_buffer("running_mean", torch.full((6,), 5.0))
        self.register_buffer("running_var", torch.full((6,), 7.0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.counting(self.own(self.theirs(self.conv(x))))
        return F.batch_norm(
            x, self.running_mean, self.running_var, training=self.training, momentum=0.7
        )


class Own(nn.Module):
    def __init__(self, keeps: float | None):
        super().__init__()
        self.keeps = keeps
        self.register_buffer("running_mean", torch.full((6,), 3.0))
        self.register_buffer("seen", torch.tensor(4))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x - self.running_mean[:, None, None]
        self.seen += 1
        keeps = self.keeps or 1 - 1 / self.seen
        with torch.no_grad():
            mean = x.mean((0, 2, 3)) + torch.arange(6.0)
            self.running_mean.mul_(keeps).add_((1 - keeps) * mean)
        return x + torch.arange(6.0)[:, None, None]


def test_statistics_of_norms_of_ones_own_are_the_means_over_batches_too():
    """However a norm of somebody's own counts: what its statistics move towards is what matters."""
    torch.manual_seed(0)
    split = Split(
        *("Pixels", torch.randint(0, 256, (201, 1, 8, 8), dtype=torch.uint8)),
        *(torch.zeros(201, dtype=torch.long), ("a", "b")),
    )
    network = Mixed()
    estimate_statistics(network, split, 0)
    means, variances = [], []
    values = network.conv.double()(split.sample(1000, 0).images.double() / 255).detach()
    added = torch.arange(6.0, dtype=torch.float64)
    for part in values.tensor_split(3):
        means.append(part.mean((0, 2, 3)))
        normed = (part - means[-1][:, None, None]) / (
            part.var((0, 2, 3), correction=0)[:, None, None] + 1e-5
        ).sqrt()
        variances.append(normed.var((0, 2, 3)))
    expected = {
        "theirs.running_mean": torch.stack(means).mean(0),
        "own.running_mean": added,
        "counting.running_mean": 2 * added,
        "running_mean": 2 * added,
        "running_var": torch.stack(variances).mean(0),
    }
    got = network.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(got[name].double(), value, atol=2e-4, rtol=2e-4)
    assert got["own.seen"] == got["counting.seen"] == 4


def test_one_image_has_no_statistics(digits):
    with pytest.raises(UserError, match="1 training image is too few"):
        estimate_statistics(Normed(), digits[0].between(0, 1), 0)


def test_direct_matching_with_statistics_estimated_again(tiny10s, digits):
    """Front and end are trained on other images than those that are stitched: their batch norms
    know another contrast. Behind the map the end's own are wrong; estimated again they fit."""
    front, end = (checkpoints.load(path) for path in tiny10s)
    train, test = (split.sample(300) for split in digits)
    options = {"epochs": 1, "init": "ps_inv", "no_robustness": True}
    result = stitch(front, end, train, test, stitching("bn3", "bn3", **options))
    record = as_record(result, "")
    again = record["direct_matching_recalibrated"]
    assert again["accuracy"] != record["direct_matching"]["accuracy"]
    assert record["gaps"]["direct_matching_recalibrated"] == pytest.approx(
        record["stitched"]["accuracy"] - again["accuracy"]
    )
    matched = copy.deepcopy(result.trained.untrained)
    for norm in (m for m in matched.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for donor in (matched.front, matched.end):
            for module in donor.modules():
                module.training = isinstance(module, nn.BatchNorm2d)
        for i in range(3):
            matched(train.images[100 * i : 100 * (i + 1)] / 255)
    assert evaluate(matched, test).accuracy == pytest.approx(again["accuracy"], abs=1e-9)
    for left_out in ({"no_bn": True}, {"no_pinv": True, "init": "random"}):
        config = stitching("bn3", "bn3", **options | left_out)
        record = as_record(stitch(front, end, train, test, config), "")
        assert record["direct_matching_recalibrated"] is None


# --- several fronts ---


def test_random_fronts_are_several_and_spread(lenets, digits):
    front, end = (checkpoints.load(path) for path in lenets)
    train, test = (split.between(0, 256) for split in digits)
    options = {"epochs": 1, "controls": True, "random_fronts": 3, "no_robustness": True}
    result = stitch(front, end, train, test, stitching("relu2", "relu2", **options))
    record = as_record(result, "")
    fronts = record["random_fronts"]
    assert len(fronts) == 3 and len(set(fronts)) > 1
    assert fronts[0] == record["random_front"]["accuracy"]
    stitched = record["stitched"]["accuracy"]
    assert record["gaps"]["random_front"] == pytest.approx(stitched - fmean(fronts))
    row = control_rows(record)[-1]
    assert row[0] == "random fronts, mean of 3" and row[1] == f"{fmean(fronts):.2%}"
    assert row[2] == f"all {100 * min(fronts):.1f} – {100 * max(fronts):.1f}%"
    assert f"{min(fronts):.1%} to {max(fronts):.1%}" in " ".join(as_text(record).split())
