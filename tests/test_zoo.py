"""Networks of every kind that people write are cut and joined rightly, or refused with a reason."""

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robust_stitching as rs
import zoo
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.folding import Folded, view_of
from robust_stitching.graphs.graph import LOGITS, Graph, features, graph_of, join
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.models import placed
from test_left_as_it_was import same, seen

SIZES = {"vit of timm": 12, "vit with fused attention": 12, "vit with chunks": 12}

OTHER_ROUNDING = ("torch's transformer", "torch's transformer, sequence first", "TorchAttention")
"""Which torch computes by other kernels where no gradient is asked for, so not to the bit."""


@cache
def made(name: str) -> nn.Module:
    """With batch norms whose statistics matter; one for all tests, which leave it as it was."""
    torch.manual_seed(0)
    network = (zoo.KINDS.get(name) or zoo.REFUSED[name][0])()
    for path, buffer in network.named_buffers():
        if "running" in path:
            buffer.uniform_(0.5, 1.5)
    network.input_shape = (3, *[SIZES.get(name, 8)] * 2)
    network.architecture = {"model": name}
    return network.eval()


class Blank(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


def images(network: nn.Module, n: int = 3) -> Tensor:
    return torch.rand(n, *network.input_shape, generator=torch.Generator().manual_seed(1))


def distinct(network: nn.Module) -> list[str]:
    """One name for every activation."""
    traced = graph_of(network)
    return list({traced.node(layer): layer for layer in traced.layers}.values())


def close(name: str, one: Tensor, other: Tensor) -> bool:
    exact = name not in OTHER_ROUNDING
    return torch.equal(one, other) if exact else torch.allclose(one, other, atol=1e-5)


def hooked(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What every module gives when it is called first, as hooks that copy see it."""
    given = {}

    def noting(name):
        def hook(module, inputs, out):
            if isinstance(out, Tensor):
                given.setdefault(name, out.clone())

        return hook

    watched = copy.deepcopy(network)
    for name, module in watched.named_modules():
        if name:
            module.register_forward_hook(noting(name))
    with torch.no_grad():
        watched(x.clone())
    return given


def attributes(network: nn.Module) -> list[dict]:
    """What modules hold by their names, but for tensors that tracing makes of constants."""
    own = [{n: v for n, v in vars(m).items() if "constant" not in n} for m in network.modules()]
    inside = [str(v) for held in own for v in held.values() if isinstance(v, dict | list)]
    return [
        {n: v if isinstance(v, int) else id(v) for n, v in held.items()} for held in own
    ] + inside


@pytest.mark.parametrize("name", zoo.KINDS)
def test_the_graph_is_the_network_and_its_layers_are_what_hooks_see(name):
    network = made(name).train()
    before, state, held = seen(network), torch.get_rng_state(), attributes(network)
    traced = Graph(network)
    assert same(before, seen(network)) and torch.equal(torch.get_rng_state(), state)
    assert attributes(network) == held
    network.eval()
    given = hooked(network, images(network))
    whole = tuple(f"{path}." for path in zoo.WHOLE.get(name, ()))
    inside = {layer for layer in given if layer.startswith(whole)}
    missing = given.keys() - traced.layers.keys() - traced.refused.keys() - inside
    assert not missing
    layers = [layer for layer in given if layer in traced.layers]
    assert layers or name == "Nothing"
    for n in (1, 3):
        x = images(network, n)
        given = hooked(network, x)
        with torch.no_grad():
            *values, logits = features(network, [*layers, LOGITS])(x)
            assert close(name, logits, network(x.clone()))
        for layer, value in zip(layers, values, strict=True):
            assert value.shape == (n, *traced.layers[layer].shape), layer
            expected = given[layer]
            if expected.numel() == value.numel() and expected.shape != value.shape:
                value, expected = value.flatten().sort()[0], expected.flatten().sort()[0]
            assert close(name, value, expected), layer


@pytest.mark.parametrize("name", zoo.KINDS)
def test_joined_to_itself_at_every_layer_it_is_itself(name):
    network = made(name)
    x = images(network)
    wanted, gradient = answers(network, x)
    cuts = 0
    for layer in distinct(network):
        try:
            twin = join(network, layer, network, layer, nn.Identity())
        except UserError as error:
            assert "does not depend on layer" in str(error)
            continue
        again, its = answers(twin, x)
        assert close(name, again, wanted), layer
        torch.testing.assert_close(its, gradient, msg=layer)
        cuts += 1
    assert cuts >= min(3, len(list(network.modules())))


def answers(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = network(x.clone())
    weights = torch.linspace(1, 2, logits.numel()).view_as(logits)
    (logits * weights).sum().backward()
    return logits.detach(), x.grad


@pytest.mark.parametrize("name", sorted(zoo.KINDS.keys() - {"Scored"}))  # by a mean over images
def test_a_layer_has_images_where_it_says(name):
    """Of three images one is changed: nothing of the others changes at any layer."""
    network = made(name)
    layers = list(graph_of(network).layers)
    x = images(network)
    other = x.clone()
    other[1] = 1 - x[1]
    with torch.no_grad():
        for layer, one, two in zip(
            layers, *(features(network, layers)(given) for given in (x, other)), strict=True
        ):
            assert torch.allclose(one[::2], two[::2], atol=1e-6), layer


@pytest.mark.parametrize("name", zoo.KINDS)
def test_what_is_clean_lets_no_image_pass(name):
    network = made(name)
    x = images(network)
    layers = graph_of(network).layers
    for layer in (name for name in distinct(network) if layers[name].clean):
        twin = join(network, layer, network, layer, Blank())
        with torch.no_grad():
            assert torch.equal(twin(x), twin(x.flip(0))), layer


@pytest.mark.parametrize("name", zoo.REFUSED)
def test_what_cannot_be_cut_is_refused_with_the_line(name):
    _, told = zoo.REFUSED[name]
    network = made(name)
    before = seen(network)
    with pytest.raises(UserError) as error:
        Graph(network)
    sentence = str(error.value)
    assert told in sentence
    assert sentence.startswith(f"{name} cannot be written as a graph of layers")
    assert f"{zoo.__file__}" in sentence and "line " in sentence
    assert "\n" not in sentence
    assert same(before, seen(network))


@pytest.mark.parametrize("name", zoo.KINDS)
def test_channels_may_come_last(name):
    """In images and weights, where the network itself takes that and where it does not."""
    network = made(name)
    x = images(network)
    last = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        wanted = network(x.clone())
        ours = rs.network(network, image_size=x.shape[-1], in_channels=3).to("cpu").network
        torch.testing.assert_close(ours(last), wanted, atol=1e-5, rtol=1e-4)
        for piece in (features(network, [LOGITS]), features(ours, [LOGITS])):
            piece = placed(copy.deepcopy(piece), torch.device("cpu"))
            torch.testing.assert_close(piece(last)[0], wanted, atol=1e-5, rtol=1e-4)
        view = view_of(ours).eval()
        assert isinstance(view, Folded)
        torch.testing.assert_close(view(last), wanted, atol=1e-5, rtol=1e-4)
    again, gradient = answers(ours.train(), last)
    assert again.shape == wanted.shape and gradient.isfinite().all()


def stitched(name: str, layer: str, **how) -> StitchedNetwork:
    network = made(name)
    twin = StitchedNetwork(network, layer, network, layer, **how)
    channels = graph_of(network).layers[layer].layout.channels
    twin.transform.set(torch.eye(channels), torch.zeros(channels))
    return twin


@pytest.mark.parametrize("frozen", [False, True])
def test_norms_of_ones_own_move_or_are_frozen_while_a_transform_is_trained(frozen):
    """A module that nobody knows, one that has parts, a function that is told the mode, and one
    that never moves."""
    network, x = made("OwnNorms"), images(made("OwnNorms"))
    statistics = [f"running_{name}" for name in ("mean", "var")]
    for layer, of_end in (("bn", ["norm.", "parts.", ""]), ("batch_norm_1", [])):
        twin = stitched("OwnNorms", layer, freeze_statistics=frozen).train()
        before = {key: value.clone() for key, value in twin.state_dict().items()}
        logits = twin(x)
        changed = {k for k, v in twin.state_dict().items() if not torch.equal(v, before[k])}
        of_front = ["bn."] if of_end else ["bn.", "norm.", "parts.", ""]
        expected = {f"front.{path}{name}" for path in of_front for name in statistics}
        expected |= {f"end.{path}{name}" for path in of_end for name in statistics}
        expected |= {"front.bn.num_batches_tracked"}
        assert changed == (set() if frozen else expected)
        own = copy.deepcopy(network).train(not frozen)
        torch.testing.assert_close(logits, own(x))
        torch.testing.assert_close(twin.eval()(x), own.eval()(x))


@pytest.mark.parametrize("name", ["StochasticDepth", "vit of timm", "ViewedFlat"])
def test_what_drops_by_chance_is_off_while_a_transform_is_trained(name):
    network = made(name)
    x = images(network)
    layer = next(iter(graph_of(network).layers))
    twin = stitched(name, layer, freeze_statistics=True).train()
    with torch.no_grad():
        torch.testing.assert_close(twin(x), network(x.clone()), atol=1e-6, rtol=1e-5)
        assert torch.equal(twin(x), twin(x))


def test_a_shared_module_answers_to_each_of_its_names():
    """The second call under its second name, whichever that is; old names go on."""
    network = made("Shared")
    traced = graph_of(network)
    assert traced.node("relu1") is not traced.node("relu2") is traced.node("relu1_1")
    assert traced.node("one.0") is not traced.node("two.0") is traced.node("one.0_1")
    assert traced.node("two") is traced.node("one_1") is traced.node("two.1")
    x = images(network)
    with torch.no_grad():
        one, two = features(network, ["relu1", "relu2"])(x)
        assert torch.equal(one, F.relu(network.one(network.bn(network.conv(x)))))
        assert torch.equal(two, F.relu(network.one(one)))
    names = list(traced.layers)
    assert names.index("relu1") < names.index("two.0") < names.index("two") < names.index("relu2")

    activation = nn.ReLU()
    shared = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), activation, nn.Conv2d(4, 4, 3), activation),
        *(nn.Flatten(), nn.Linear(64, 5)),
    )
    shared.input_shape, shared.never = (3, 8, 8), activation
    shared.forward = lambda x: shared[5](shared[4](shared[3](shared[2](shared[1](shared[0](x))))))
    for network in (shared, nn.Sequential(*list(shared)[:6])):
        network.input_shape = (3, 8, 8)
        nodes = Graph(network).node
        assert nodes("1") is not nodes("3") is nodes("1_1")
    nodes = Graph(shared).node
    assert nodes("never") is nodes("1")


def test_what_cannot_be_cut_can_be_evaluated_all_the_same():
    torch.manual_seed(0)
    network = rs.network(zoo.Branching(), image_size=8, in_channels=3)
    assert network.classes == 5
    with pytest.raises(UserError, match=r"decides by numbers .*, line \d+ of .*zoo\.py"):
        rs.layers(network)


@pytest.mark.parametrize("sizes", [{}, {"image_size": 8, "in_channels": 3}])
def test_what_a_forward_wants_beside_images_is_told(sizes):
    with pytest.raises(
        UserError, match=r"^Masked wants mask beside the images \(line \d+ of .*zoo"
    ):
        rs.network(zoo.Masked(), **sizes)
