"""The map, the stitched network, direct matching and a whole run."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching import data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import Split
from robust_stitching.evaluation import evaluate, predict
from robust_stitching.graphs import graph
from robust_stitching.graphs.stitched import StitchedNetwork, rebuild
from robust_stitching.plans import stitching
from robust_stitching.plans.parts import FROM_DATA
from robust_stitching.stitching.initial import INITS, initial_values
from robust_stitching.stitching.matching import direct, moments_of
from robust_stitching.stitching.run import stitch


class Noisy(nn.Module):
    """With batch norm and dropout on both sides of `bn1` and `bn2`."""

    architecture = {"model": "noisy"}  # noqa: RUF012
    input_shape = (1, 32, 32)

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.drop1 = nn.Conv2d(1, 4, 5, 4), nn.BatchNorm2d(4), nn.Dropout()
        self.conv2, self.bn2, self.drop2 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout()
        self.fc = nn.Linear(4 * 5 * 5, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.drop1(self.conv1(x)))
        return self.fc(self.drop2(self.bn2(self.conv2(x))).flatten(1))


def net(name: str, seed: int = 0, channels: int = 1, **options) -> nn.Module:
    options = {"num_classes": 10, "in_channels": channels, **options}
    return models.build(name, seed=seed, **options).eval()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def images(n: int = 4, channels: int = 1) -> Tensor:
    return torch.rand(n, channels, 32, 32, generator=torch.Generator().manual_seed(0))


def stitched(front: nn.Module, front_layer: str, end: nn.Module, end_layer: str, **options):
    """With a random map."""
    network = StitchedNetwork(front, front_layer, end, end_layer, **options).eval()
    network.transform.set(*initial_values("random", *network.transform.weight.shape[::-1], 0))
    return network


@pytest.mark.parametrize("kind", [kind for kind in INITS if kind not in FROM_DATA])
def test_initial_values(kind):
    (weight, bias), (again, _), (other, _) = (initial_values(kind, 8, 8, s) for s in (0, 0, 1))
    assert torch.equal(weight, again)
    assert torch.equal(weight, other) is (kind not in ("random", "perm"))
    if kind == "random":
        assert 0.2 < weight.abs().max() <= 8**-0.5 and 0 < bias.abs().max() <= 8**-0.5
        assert initial_values(kind, 3, 5, 0)[0].shape == (5, 3)
        return
    expected = {"eye": np.eye(8), "zeros": np.zeros((8, 8)), "ones-zeros": np.ones((8, 8))}
    if kind == "perm":
        assert sorted(weight.tolist()) == sorted(np.eye(8).tolist())
    else:
        assert np.array_equal(weight, expected[kind])
    assert (bias == 0).all()
    with pytest.raises(UserError, match=f"init='{kind}' needs equally many .* 3 .* 5"):
        initial_values(kind, 3, 5, 0)


def test_an_unknown_initialisation():
    with pytest.raises(UserError, match="unknown initialisation 'eyes'; did you mean eye"):
        initial_values("eyes", 3, 3, 0)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("lenet", "pool1"),
        ("lenet", "fc1"),
        ("tiny10", "bn3"),
        ("resnet_w1", "layer2.0.add"),
        ("resnet_w1", "layer2.1.conv1"),
    ],
)
def test_stitched_to_itself_with_eye_it_is_itself(name, layer):
    network = net(name)
    twin = StitchedNetwork(network, layer, network, layer).eval()
    size = len(twin.transform.weight)
    twin.transform.set(*initial_values("eye", size, size, 0))
    torch.testing.assert_close(twin(images()), network(images()))
    assert twin.leaks is (layer == "layer2.1.conv1")


@pytest.mark.parametrize("freeze", [False, True])
def test_what_moves_in_training_mode(freeze):
    network = stitched(Noisy(), "bn1", Noisy(), "bn2", freeze_statistics=freeze)
    expected = network(images())
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {
        "transform.weight", "transform.bias"
    }  # fmt: skip
    assert network.train() is network and network.training and network.transform.training
    moving = {name for name, m in network.named_modules() if m.training and "." in name}
    assert moving == (set() if freeze else {"front.bn1"})
    before = copy.deepcopy(network.state_dict())
    found = network(images())
    assert torch.equal(found, network(images()))  # no dropout
    assert torch.allclose(found, expected) is freeze
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    statistics = {f"front.bn1.{s}" for s in ("running_mean", "running_var", "num_batches_tracked")}
    assert changed == (set() if freeze else statistics)
    assert not any(module.training for module in network.eval().modules())


@pytest.mark.parametrize("mode", [True, False])
def test_evaluation_leaves_the_mode_and_the_statistics_alone(mode):
    network = stitched(Noisy(), "bn1", Noisy(), "conv1").train(mode)
    modes = [m.training for m in network.modules()]
    state = copy.deepcopy(network.state_dict())
    predict(network, some_digits()[1].between(0, 20))
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("freeze", [False, True])
def test_a_copy_is_the_same_and_its_own(freeze):
    network = stitched(net("tiny10"), "bn3", net("tiny10", 1), "bn3", freeze_statistics=freeze)
    clone = copy.deepcopy(network)
    assert isinstance(clone, StitchedNetwork)
    assert clone.architecture == network.architecture
    assert clone.input_shape == network.input_shape == (1, 32, 32)
    assert torch.equal(clone(images()), network(images()))
    assert sum(p.requires_grad for p in clone.parameters()) == 2
    clone.train()
    assert {m.training for m in clone.modules() if isinstance(m, nn.BatchNorm2d)} == {not freeze}
    assert not any(m.training for m in clone.end.modules() if isinstance(m, nn.ReLU))
    with torch.no_grad():
        clone.transform.weight.zero_()
    assert network.transform.weight.abs().min() > 0


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("layer", ["layer2.0.add", "layer2.0.conv1"])
def test_architecture_and_weights_rebuild_the_network(twice, layer):
    colours = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    network = stitched(net("tiny10", bias=False), "relu3", net("resnet_w1", 1, 3, **colours), layer)
    assert network.input_shape == (1, 32, 32)
    if twice:
        inner = network
        network = stitched(inner, "end.layer3.0.relu_1", inner, "front.conv3")
    again = rebuild(network.architecture).eval()
    assert list(again.state_dict()) == list(network.state_dict())
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(images()), network(images()))
    assert again.architecture == network.architecture
    assert again.input_shape == network.input_shape


def test_a_stitched_network_can_be_stitched_again():
    """The same three pieces, put together in one go by hand."""
    a, b, c = net("lenet"), net("lenet", 1), net("lenet", 2)
    inner = stitched(a, "relu1", b, "pool1")
    outer = stitched(inner, "end.relu2", c, "fc1")
    (x,) = graph.features(a, ["relu1"])(images())
    x = b.relu2(b.conv2(inner.transform(x)))
    expected = c.fc3(c.relu4(c.fc2(c.relu3(outer.transform(x)))))
    torch.testing.assert_close(outer(images()), expected)


def test_a_network_of_an_unknown_kind_is_not_rebuilt():
    with pytest.raises(UserError, match="unknown kind"):
        rebuild({"something": 1})


class Planted(nn.Module):
    """A stem and what is planted behind it."""

    input_shape = (1, 32, 32)

    def __init__(self, stem: nn.Module, *planted: nn.Module):
        super().__init__()
        self.stem, self.planted = stem, nn.Sequential(nn.ReLU(), *planted)

    def forward(self, x: Tensor) -> Tensor:
        return self.planted(self.stem(x))


class Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize(
    ("between", "layer"),
    [
        ([], nn.Conv2d(6, 4, 1)),
        ([nn.AvgPool2d(2)], nn.Conv2d(6, 4, 1)),
        ([nn.Upsample(scale_factor=2, mode="bilinear")], nn.Conv2d(6, 4, 1)),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten()], nn.Linear(6, 4)),
        ([nn.Flatten(2), Transpose()], nn.Linear(6, 4)),
    ],
    ids=["same size", "smaller", "larger", "vector", "tokens"],
)
def test_direct_matching_recovers_a_planted_map(between, layer, dead):
    torch.manual_seed(0)
    stem, layer = nn.Conv2d(1, 6, 5, stride=3), copy.deepcopy(layer)
    stem.bias.data.fill_(0.5)  # no channel is dead by chance
    for parameter in layer.parameters():
        parameter.data.normal_()
    if dead:
        stem.bias.data[2], layer.weight.data[:, 2] = -100, 0
    front, end = Planted(stem), Planted(stem, *between, layer)
    split = some_digits()[0].between(0, 200)
    weight, bias = direct(moments_of(front, "planted.0", end, f"planted.{len(between) + 1}", split))
    expected = layer.weight.data.reshape(4, 6)
    torch.testing.assert_close(weight, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(bias, layer.bias.data, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", ["relu2", "relu3"])
def test_direct_matching_is_least_squares_over_all_positions(layer):
    """Behind a fully connected layer there are fewer images than dead and living channels need."""
    front, end, split = net("lenet"), net("lenet", 1), some_digits()[0].between(0, 600)
    weight, bias = direct(moments_of(front, layer, end, layer, split))
    x, y = (
        graph.features(n, [layer])(split.images / 255)[0].double().movedim(1, -1).flatten(0, -2)
        for n in (front, end)
    )
    design = np.column_stack([x.detach(), np.ones(len(x))])
    expected = design @ np.linalg.lstsq(design, y.detach().numpy(), rcond=1e-8)[0]
    found = x.detach() @ weight.double().T + bias
    np.testing.assert_allclose(found, expected, atol=1e-4)


# --- a whole run ---

_SPLITS: list[tuple[Split, Split]] = []


def some_digits() -> tuple[Split, Split]:
    if not _SPLITS:
        _SPLITS.append(data.load("digits"))
    train, test = _SPLITS[0]
    return train.between(0, 300), test.between(0, 200)


def checkpoint(network: nn.Module) -> Checkpoint:
    spec = network.architecture
    return Checkpoint(network, spec["model"], "digits", spec["num_classes"], Path("model.pt"))


def run(front="lenet", end="lenet", layers=("relu2", "relu2"), n=300, channels=1, **options):
    """One run between fresh networks; `front` and `end` may be networks, too."""
    front, end = (
        checkpoint(net(given, seed, channels) if isinstance(given, str) else given)
        for given, seed in ((front, 1), (end, 2))
    )
    options = {"epochs": 3, "batch_size": 64, "save_frequency": 1, "lr": 1e-2, **options}
    train, test = some_digits()
    return stitch(
        front, end, train.between(0, n), test.between(0, n), stitching(*layers, **options)
    )


@pytest.fixture(scope="module")
def result():
    return run()


def test_scores_are_those_of_the_networks_they_name(result):
    test = some_digits()[1]
    front, end = result.front.network, result.end.network
    joined = StitchedNetwork(front, "relu2", end, "relu2")
    expected = {"front": evaluate(front, test), "end": evaluate(end, test)}
    maps = {"untrained": result.initial, "stitched": result.final, "direct_matching": result.direct}
    for name, used in maps.items():
        joined.transform.set(used.weight, used.bias)
        expected[name] = evaluate(joined, test)
    assert set(result.scores) == set(expected)
    for name, score in result.scores.items():
        assert score.accuracy == expected[name].accuracy, name
        assert score.loss == pytest.approx(expected[name].loss, rel=1e-5), name
        assert score.n_images == result.measured.n_images == 200
    assert (result.cka, result.measured.l2) == (
        result.scores["front"].cka_to_end, result.scores["front"].l2_to_end
    )  # fmt: skip
    assert result.scores["direct_matching"].l2_to_end < result.measured.l2
    assert result.train_images == 300
    assert all("near chance" in note for note in result.notes)  # donors that never learned


def test_the_map_is_kept_as_it_is_trained(result):
    assert [m.iteration for m in result.trained.maps] == [0, *range(3, 16, 3)]  # 5 batches an epoch
    assert [record.iteration for record in result.trained.curve] == [5, 10, 15]
    assert [record.lr for record in result.trained.curve] == pytest.approx([1e-2, 1e-3, 1e-4])
    assert result.trained.curve[-1].test_accuracy == result.scores["stitched"].accuracy
    assert torch.equal(result.final.weight, result.network.transform.weight)
    coarse = run(save_frequency=2, epochs=2)
    assert [m.iteration for m in coarse.trained.maps] == [0, 4, 8, 10]


def test_the_map_is_that_of_a_plain_training_loop(result):
    front, end = net("lenet", 1), net("lenet", 2)
    weight, bias = (v.requires_grad_() for v in initial_values("random", 16, 16, 0))
    optimizer = torch.optim.Adam([weight, bias], weight_decay=1e-4)
    for epoch, lr in enumerate((1e-2, 1e-3, 1e-4)):
        optimizer.param_groups[0]["lr"] = lr
        for x, labels in some_digits()[0].epoch(64, seed=0, epoch=epoch):
            x = front.pool1(front.relu1(front.conv1(front.normalize(x))))
            x = F.conv2d(front.relu2(front.conv2(x)), weight[:, :, None, None], bias)
            x = end.relu3(end.fc1(end.pool2(x).flatten(1)))
            optimizer.zero_grad()
            F.cross_entropy(end.fc3(end.relu4(end.fc2(x))), labels).backward()
            optimizer.step()
    torch.testing.assert_close(result.final.weight, weight.detach(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(result.final.bias, bias.detach(), atol=1e-4, rtol=1e-3)


def test_the_seed_alone_decides_the_map(result):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again, other = run(), run(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again.final.weight, result.final.weight)
    assert torch.equal(again.final.bias, result.final.bias)
    assert not torch.equal(other.final.weight, result.final.weight)
    assert not torch.equal(other.initial.weight, result.initial.weight)


@pytest.mark.parametrize("no_bn", [False, True])
def test_the_donors_stay_as_they_are(no_bn):
    front, end = net("tiny10", 1).train(), net("tiny10", 2)
    before = [copy.deepcopy(n.state_dict()) for n in (front, end)]
    found = run(front, end, ("bn3", "bn3"), n=64, epochs=1, no_bn=no_bn)
    for network, state in zip((front, end), before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
        assert all(p.requires_grad for p in network.parameters())
    assert front.training and not end.training and not found.network.training
    kept = found.network.state_dict()
    mean, weight = (torch.equal(kept[f"front.bn1.{k}"], before[0][f"bn1.{k}"])
                    for k in ("running_mean", "weight"))  # fmt: skip
    assert weight and mean is no_bn


def numbers(scores):
    """All of them, without levels."""
    overlap = scores.outputs.overlap
    values = {**scores.as_dict(), **overlap}
    return {key: value for key, value in values.items() if isinstance(value, float)}


@pytest.mark.parametrize("init", ["random", "ps_inv"])
def test_without_direct_matching(init):
    found = run(n=64, epochs=1, no_pinv=True, init=init)
    assert list(found.scores) == ["front", "end", "untrained", "stitched"]
    assert found.direct is None and found.cka is None and found.measured.l2 is None
    assert found.scores["stitched"].logit_cka_to_end is None
    assert found.scores["stitched"].outputs is not None


def test_the_pseudo_inverse_starts_at_direct_matching():
    found = run(n=64, epochs=1, init="ps_inv")
    assert torch.equal(found.initial.weight, found.direct.weight)
    assert torch.equal(found.initial.bias, found.direct.bias)
    untrained, direct = (numbers(found.scores[name]) for name in ("untrained", "direct_matching"))
    assert untrained == pytest.approx(direct, rel=1e-12)
    assert not torch.equal(found.final.weight, found.direct.weight)


@pytest.mark.parametrize(("name", "layer"), [("lenet", "relu2"), ("tiny10", "bn3")])
def test_stitched_to_itself_the_untrained_eye_scores_as_the_end(name, layer):
    network = net(name)
    found = run(network, network, (layer, layer), n=100, epochs=1, init="eye")
    end = numbers(found.scores["end"])
    for name in ("untrained", "front"):
        assert numbers(found.scores[name]) == pytest.approx(end, rel=1e-12), name


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"end": "resnet_w1", "layers": ("relu2", "layer3.0.conv1")}, "'layer3.0.conv1' leaks"),
        ({"layers": ("pool1", "relu2")}, "6×14×14 were brought .* 16×10×10 before"),
        ({"layers": ("relu2", "fc1")}, "16×10×10 were brought .* a vector of 120 before"),
        (
            {"front": net("lenet", channels=3)},
            "of Digits was repeated for the front network",
        ),
        (
            {"end": net("lenet", channels=3)},
            "of Digits was repeated for the end network",
        ),
        ({"front": net("lenet", num_classes=7)}, "7 classes apart, the data has 10"),
        ({"debug": True, "batch_size": 8}, "A debugging run"),
    ],
)
def test_notes_say_what_a_reader_has_to_know(options, note):
    found = run(**{"n": 32, "epochs": 1, **options})
    assert any(re.search(note, text) for text in found.notes), found.notes
    assert found.train_images == (24 if "debug" in options else 32)


def test_networks_that_do_not_fit_the_data():
    with pytest.raises(UserError, match=r"tells 7 classes apart, but Digits has 10"):
        run(end=net("lenet", num_classes=7))
    colour = Split("Colour", torch.zeros(9, 3, 32, 32).byte(), torch.zeros(9).long(), ("a",) * 10)
    donor = checkpoint(net("lenet"))
    with pytest.raises(UserError, match="takes grey images, but Colour is in colour"):
        stitch(donor, donor, colour, colour, stitching("relu2", "relu2"))
    with pytest.raises(UserError, match=r"init='eye' needs equally many channels .* 6 .* 16"):
        run(layers=("pool1", "relu2"), init="eye")
    with pytest.raises(UserError, match="unknown front layer 'relu9'"):
        run(layers=("relu9", "relu2"))
