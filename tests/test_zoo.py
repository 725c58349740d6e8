"""Networks of every kind that people write are cut and joined rightly, or refused with a reason."""

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import zoo
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.graph import LOGITS, Graph, features, graph_of, join
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


@pytest.mark.parametrize("name", zoo.KINDS)
def test_the_graph_is_the_network_and_its_layers_are_what_hooks_see(name):
    network = made(name).train()
    before, state = seen(network), torch.get_rng_state()
    traced = Graph(network)
    assert same(before, seen(network)) and torch.equal(torch.get_rng_state(), state)
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


@pytest.mark.parametrize("name", zoo.KINDS)
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
