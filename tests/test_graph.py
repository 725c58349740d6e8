"""Layer names, cutting and joining, against forward hooks on the untouched networks."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.graph import Graph, features, join, layout_of, needed
from robust_stitching.graphs.stitched import StitchedNetwork

SMALL = {"lenet": 1, "tiny10": 1, "resnet_w1": 1}
BIG = {"resnet_w5": 3, "resnet18": 3}
BIG_LEAKING = ["layer1.0.conv1", "layer2.0.downsample.1", "layer3.0.bn2", "layer3.1.relu"]


class Branching(nn.Module):
    """An input used twice, operations that are no modules, a module called three times."""

    architecture = {"model": "branching"}  # noqa: RUF012
    input_shape = (2, 8, 8)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.act(self.conv(self.act(x))) + x)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.side = nn.Conv2d(2, 4, 3, padding=1)
        self.block = self.Block()
        self.act = nn.ReLU()
        self.act_1 = nn.ReLU()  # the name that the second call of `act` would have had
        self.unused = nn.Linear(3, 3)
        self.fc = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(torch.relu(self.conv(x)) + self.side(x))
        y = self.act_1(self.act(self.block(y)))
        return self.fc(y.flatten(1))


def network(name: str, channels: int = 1, seed: int = 0) -> nn.Module:
    """With batch norms whose weights and statistics matter."""
    built = models.build(name, num_classes=10, in_channels=channels, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.running_var):
                values.uniform_(0.5, 1.5, generator=generator)
            for values in (module.bias.data, module.running_mean):
                values.normal_(0, 0.2, generator=generator)
    return built.eval()


def images(of: nn.Module, n: int = 2) -> Tensor:
    return torch.rand(n, *of.input_shape, generator=torch.Generator().manual_seed(7))


def hooked(of: nn.Module, x: Tensor, replaced: dict[str, Tensor] | None = None):
    """Logits and every module's outputs by layer name, some outputs `replaced` as they come."""
    found, calls, replaced = {}, Counter(), replaced or {}

    def note(path):
        def hook(module, inputs, out):
            name = f"{path}_{calls[path]}" if calls[path] else path
            calls[path] += 1
            found[name] = replaced.get(name, out)
            return found[name]

        return hook

    handles = [m.register_forward_hook(note(path)) for path, m in of.named_modules() if path]
    with torch.no_grad():
        logits = of(x)
    for handle in handles:
        handle.remove()
    return logits, found


def distinct(of: nn.Module) -> list[str]:
    """One name for every activation: `layer1`, `layer1.2` and `layer1.2.relu_1` are the same."""
    traced = Graph(of)
    return list({traced.node(layer): layer for layer in traced.layers}.values())


def leaves(of: nn.Module) -> set[str]:
    return {path for path, m in of.named_modules() if path and not any(m.children())}


@pytest.mark.parametrize("name", SMALL)
def test_names_shapes_and_features_are_those_of_forward_hooks(name):
    net = network(name)
    _, expected = hooked(net, images(net))
    layers = Graph(net).layers
    assert set(layers) - set(expected) == ({"flatten"} if name == "lenet" else set())
    assert set(expected) <= set(layers)
    with torch.no_grad():
        found = features(net, list(expected))(images(net))
    for layer, activation in zip(expected, found, strict=True):
        assert torch.equal(activation, expected[layer]), layer
        assert layers[layer].shape == tuple(activation.shape[1:])
    assert layout_of(net, "fc1" if name == "lenet" else "bn1").shape == (
        (120,) if name == "lenet" else expected["bn1"].shape[1:]
    )


def test_names_of_calls_containers_and_functions():
    layers = Graph(network("resnet_w1")).layers
    assert layers["layer1.0.relu"].kind == layers["layer1.0.relu_1"].kind == "ReLU"
    assert layers["layer2"].kind == "Sequential" and layers["layer2"].shape == (32, 16, 16)
    assert layers["layer2.0"].kind == "BasicBlock"
    flatten = Graph(network("lenet")).layers["flatten"]
    assert (flatten.kind, flatten.shape, flatten.clean) == ("flatten", (16, 5, 5), True)


def test_names_and_leaks_of_a_network_from_elsewhere():
    layers = Graph(Branching()).layers
    leaking = ["conv", "relu", "side", "block.act", "block.conv", "block.act_1"]
    clean = ["add", "act", "block.add", "block.relu", "block", "act_2", "act_1", "flatten", "fc"]
    assert set(layers) == {*leaking, *clean}
    assert {name for name, layer in layers.items() if layer.clean} == set(clean)
    kinds = {"relu": "relu", "add": "add", "act_1": "ReLU", "act_2": "ReLU", "block.add": "add"}
    assert {name: layers[name].kind for name in kinds} == kinds


def test_a_function_does_not_take_the_name_of_a_module():
    class Net(nn.Module):
        input_shape = (4,)

        def __init__(self):
            super().__init__()
            self.fc, self.relu = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(torch.relu(x) + self.fc(x))

    layers = Graph(Net()).layers
    assert layers["relu"].kind == "ReLU"
    assert layers["relu_1"].kind == "relu"


@pytest.mark.parametrize(
    ("layer", "clean"),
    [
        *((stem, True) for stem in ("normalize", "conv1", "bn1", "relu", "layer1", "mean", "fc")),
        *((f"layer{i}.0.add", True) for i in (1, 2, 3)),
        *((f"layer{i}.0.relu_1", True) for i in (1, 2, 3)),
        *((f"layer1.0.{name}", False) for name in ("conv1", "bn1", "relu", "conv2", "bn2")),
        *((f"layer2.0.downsample.{i}", False) for i in (0, 1)),
        ("layer2.0.downsample", False),
    ],
)
def test_clean_cuts_of_a_residual_network(layer, clean):
    assert Graph(network("resnet_w1")).layers[layer].clean is clean


def test_clean_cuts_are_those_that_make_the_image_irrelevant():
    net = network("resnet_w1")
    x = images(net)
    _, found = hooked(net, x)
    for layer in Graph(net).layers.values():
        before, _ = hooked(net, x, {layer.name: found[layer.name]})
        after, _ = hooked(net, 1 - x, {layer.name: found[layer.name]})
        assert torch.equal(before, after) is layer.clean, layer.name


@pytest.mark.parametrize(
    ("wrong", "right"), [("con1", "conv1"), ("layer1.0.ad", "layer1.0.add"), ("layr2", "layer2")]
)
def test_an_unknown_layer_names_the_closest(wrong, right):
    net = network("resnet_w1")
    for attempt in (
        lambda: features(net, [wrong]),
        lambda: layout_of(net, wrong),
        lambda: join(net, wrong, net, "fc", nn.Identity()),
        lambda: join(net, "fc", net, wrong, nn.Identity()),
    ):
        with pytest.raises(UserError, match=rf"'{wrong}'.*did you mean.*{right}"):
            attempt()


def test_features_hold_only_what_they_need_and_share_it():
    net = network("tiny10")
    piece = features(net, ["conv3", "relu2"])
    needed = {f"{kind}{i}" for kind in ("conv", "bn", "relu") for i in (1, 2)}
    assert leaves(piece.front) == {"normalize", "conv3"} | needed
    assert piece.front.conv3 is net.conv3
    x = images(net)
    (logits,) = features(net, ["output"])(x)
    assert torch.equal(logits, net(x))


@pytest.mark.parametrize("name", SMALL)
def test_a_network_stitched_to_itself_is_itself_at_every_layer(name):
    net = network(name)
    _check_reproduces(net, distinct(net))


def test_the_names_of_one_activation_cut_at_one_place():
    net = network("resnet_w1")
    same = [join(net, x, net, x, nn.Identity()) for x in ("layer1", "layer1.2", "layer1.2.relu_1")]
    assert len({joined.code for joined in same}) == 1
    assert len(distinct(net)) == len(Graph(net).layers) - 9 - 3 - 2  # blocks, groups, downsamples


@pytest.mark.parametrize("name", BIG)
def test_a_big_network_stitched_to_itself_is_itself(name):
    net = network(name, BIG[name])
    layers = Graph(net).layers
    assert not any(layers[layer].clean for layer in BIG_LEAKING)
    _check_reproduces(net, [layer for layer in distinct(net) if layers[layer].clean] + BIG_LEAKING)


def _check_reproduces(net: nn.Module, layers: list[str]) -> None:
    x = images(net, 1)
    with torch.no_grad():
        expected = net(x)
        for layer in layers:
            joined = join(net, layer, net, layer, nn.Identity())
            torch.testing.assert_close(joined(x), expected, msg=f"other logits at {layer}")
            used = {str(n.target) for n in joined.graph.nodes if n.op == "call_module"}
            assert leaves(joined) == used, layer


@pytest.mark.parametrize("name", SMALL)
def test_the_end_goes_on_from_the_fronts_activation(name):
    """Two different networks, and a map that does something, against hooks that put it there."""
    front, end = network(name, seed=1), network(name, seed=2)
    x = images(front, 1)
    _, given = hooked(front, x)
    with torch.no_grad():
        for layer in list(given)[:: 7 if name == "resnet_w1" else 2]:
            expected, _ = hooked(end, x, {layer: given[layer].sigmoid()})
            found = join(front, layer, end, layer, nn.Sigmoid())(x)
            torch.testing.assert_close(found, expected, msg=f"other logits at {layer}")


def test_different_layers_of_different_networks():
    front, end = network("tiny10", seed=1), network("resnet_w1", seed=2)
    x = images(front)
    _, given = hooked(front, x)
    upscale = nn.Upsample((32, 32))
    expected, _ = hooked(end, x, {"layer1.1.add": upscale(given["relu2"])})
    joined = join(front, "relu2", end, "layer1.1.add", upscale)
    torch.testing.assert_close(joined(x), expected)
    parts = leaves(joined)
    kept = {f"front.{kind}{i}" for kind in ("conv", "bn", "relu") for i in (1, 2)}
    assert {path for path in parts if path.startswith("front")} == {"front.normalize"} | kept
    assert not {p for p in parts if p.startswith(("end.conv1", "end.normalize", "end.layer1.0"))}
    assert {"end.layer1.1.relu", "end.layer1.2.conv1", "end.fc", "transform"} <= parts
    assert "end.layer1.1.conv2" not in parts and "end.layer1.1.add" not in parts


def test_what_feeds_a_skip_connection_stays():
    net = network("resnet_w1")
    parts = leaves(join(net, "layer1.1.bn1", net, "layer1.1.bn1", nn.Identity()))
    assert {"end.normalize", "end.conv1", "end.layer1.0.conv1", "end.layer1.1.add"} <= parts
    assert not {"end.layer1.1.conv1", "end.layer1.1.bn1", "front.layer1.1.conv2"} & parts


def test_the_donors_are_not_changed_by_joining():
    net = network("resnet_w1").train()
    before = copy.deepcopy(net.state_dict())
    joined = join(net, "layer2.0.add", net, "layer2.0.add", nn.Identity())
    features(net, ["layer1"])
    joined.train()(images(net))
    for values in joined.state_dict().values():
        values.zero_()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("name", ["resnet_w1", "branching"])
def test_clean_cuts_are_those_that_reachability_finds(name):
    traced = Graph(Branching() if name == "branching" else network(name))
    for layer in traced.layers.values():
        behind = needed([traced.output], stop=traced.node(layer.name))
        assert layer.clean is (traced.input not in behind), layer.name


class Shaping(nn.Module):
    """What networks of other libraries do: sizes read off tensors, constants, rewriting in place,
    dropout as a function, a tensor that belongs to no buffer."""

    architecture = {"model": "shaping"}  # noqa: RUF012
    input_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.scale = torch.linspace(1, 2, 6)
        self.mix, self.fc = nn.Linear(6, 6), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)), inplace=True)
        n, c, h, w = x.shape
        x = x.reshape(n, c, h * w).transpose(1, 2) * torch.arange(1.0, 7.0)
        x = torch.cat([self.token.expand(n, -1, -1), x], dim=1) * self.scale
        x = self.mix(F.dropout(x, 0.5, self.training))
        return self.fc(x.unflatten(1, (5, -1)).mean((1, 2)))


def test_sizes_constants_and_functions_of_other_libraries():
    net = Shaping().train()
    x = images(net, 3)
    layers = Graph(net).layers
    assert net.training and net.conv.training
    assert layers["transpose"].shape == (6, 8, 8) and layers["cat"].shape == (65, 6)
    assert "unflatten" not in layers  # its rows of 13 begin with the token of no position
    assert not {"getattr", "getitem", "getitem_1"} & set(layers)
    # how many images there are is no information about them
    assert all(layers[name].clean for name in ("conv", "bn", "relu", "reshape", "cat", "mix"))
    expected, _ = hooked(net.eval(), x)
    for layer in layers:
        joined = join(net, layer, net, layer, nn.Identity())
        torch.testing.assert_close(joined(x), expected, msg=f"other logits at {layer}")
    assert "end.conv" not in leaves(join(net, "mix", net, "mix", nn.Identity()))
    found, rectified = features(net, ["bn", "relu"])(x)
    assert (found < 0).any() and torch.equal(found.relu(), rectified)
    constants = [name for name in vars(net) if "constant" in name]
    Graph(net)
    assert [name for name in vars(net) if "constant" in name] == constants
    assert set(net.state_dict()) == set(Shaping().state_dict())


def test_a_joined_network_is_good_for_any_number_of_images():
    net = Shaping().eval()
    joined = join(net, "cat", net, "cat", nn.Identity())
    for n in (1, 2, 7):
        torch.testing.assert_close(joined(images(net, n)), net(images(net, n)))


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (lambda self, x: self.fc(x.flatten(1)) if x.sum() > 0 else x, "decides by numbers"),
        (lambda self, x: (self.fc(x.flatten(1)), x), "more than one tensor"),
        (lambda self, x: self.fc(x), "mat1 and mat2"),
    ],
)
def test_a_network_that_is_no_graph_of_layers_is_told(forward, told):
    net = nn.Module()
    net.__class__ = type("Odd", (nn.Module,), {"forward": forward})
    net.fc, net.input_shape, net.architecture = nn.Linear(27, 10), (3, 3, 3), {"model": "odd"}
    with pytest.raises(UserError, match=rf"odd cannot be written as a graph .*{told}"):
        Graph(net)


def test_an_end_layer_that_leads_nowhere():
    class Sidetracked(Branching):
        def forward(self, x: Tensor) -> Tensor:
            self.side(x)
            return self.fc(self.conv(x).flatten(1))

    with pytest.raises(UserError, match="does not depend on layer 'side'"):
        join(Branching(), "side", Sidetracked(), "side", nn.Identity())


class Bare(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@pytest.mark.parametrize(
    "ask",
    [
        Graph,
        lambda net: layout_of(net, "fc"),
        lambda net: features(net, ["fc"]),
        lambda net: StitchedNetwork(net, "fc", net, "fc"),
    ],
)
def test_a_network_that_does_not_say_what_images_it_takes(ask):
    with pytest.raises(UserError, match=r"Bare has no attribute 'input_shape'; give it the .*= \("):
        ask(Bare())


@pytest.mark.parametrize("shape", [None, 32, (), (3, -1), (3, 32.0), "3x4", {3: 4}])
def test_what_is_no_shape_of_an_image(shape):
    with pytest.raises(UserError) as told:
        Graph(Bare(input_shape=shape))
    assert f"the input_shape of the network Bare is {shape!r}; give it the (C, H, W)" in str(told)


@pytest.mark.parametrize("shape", [(4,), [4], torch.Size([4])])
def test_a_shape_may_be_any_sequence(shape):
    assert Graph(Bare(input_shape=shape)).layers["fc"].shape == (4,)


def test_a_network_without_a_name_is_told_what_is_missing():
    net = Bare(input_shape=(4,))
    with pytest.raises(UserError, match=r"Bare has no attribute 'architecture'; give it what it"):
        StitchedNetwork(net, "fc", net, "fc")
    net.architecture = {"model": "mine"}
    assert StitchedNetwork(net, "fc", net, "fc").architecture["front"] == {"model": "mine"}


def test_a_forward_that_misses_something_names_it():
    class Bare(nn.Module):
        input_shape, architecture = (4,), None

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(x)

    net = Bare()
    with pytest.raises(UserError, match=r"Bare cannot be written .*no attribute 'fc2'.*change its"):
        Graph(net)
