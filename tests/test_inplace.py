"""Networks that work in place: a layer is what it was when it was made, and all else the same."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching.basics.errors import UserError
from robust_stitching.graphs import graph
from robust_stitching.graphs.folding import Folded
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.similarity import cka


class Base(nn.Module):
    input_shape = (3, 12, 12)
    architecture = {"model": "in place"}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.relu = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(True)
        self.conv2, self.fc = nn.Conv2d(6, 6, 1), nn.Linear(6, 5)
        nn.init.normal_(self.bn.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.conv(x)).mean((2, 3)))


class Sequential(Base):
    def body(self, x):
        return self.relu(self.bn(x))


class Statement(Base):
    def body(self, x):
        y = self.conv2(self.bn(x))
        y.mul_(3)
        y.add_(1).clamp_(min=0)
        return self.conv2(y)


class Twice(Base):
    """The ReLU rewrites what the skip connection takes, as in Xception."""

    def body(self, x):
        y = self.bn(x)
        return self.conv2(self.relu(y)) + y


class Function(Base):
    def body(self, x):
        y = self.bn(x)
        z = self.conv2(F.leaky_relu(y, inplace=True))
        return F.relu_(z) + y


class Augmented(Base):
    def body(self, x):
        y = x
        y += 1
        y *= 0.5
        y -= self.conv2(x).detach()
        return self.bn(x) + y


class Residual(Base):
    def body(self, x):
        out = self.conv2(self.relu(self.bn(x)))
        out += x
        return self.relu(out)


class Views(Base):
    def body(self, x):
        y = self.bn(x)
        first, rest = y[:, 0], y[:, 1:].transpose(2, 3)
        first.mul_(-2)
        rest.mul_(3)
        flat = y.flatten(1)
        flat[:, ::7] = 0.5
        return self.conv2(y)


class UsedViews(Base):
    """Views that are overwritten and used, and some of what is overwritten itself."""

    def body(self, x):
        y = self.bn(x)
        half, rest = y[:, :3], y[:, 3:]
        half.clamp_(min=0)
        rest[:, :2] = half[:, 1:] * 3
        z = self.conv2(y)
        first, flat = z[:, :3], z.flatten(2)
        self.relu(z)
        return z + torch.cat([first, first], 1) + flat.mean(2)[..., None, None] + half.mean()


class Assigned(Base):
    def body(self, x):
        y = torch.zeros_like(x)
        y[:, :3] = self.bn(x)[:, 3:]
        y[:, 3:] += x[:, :3]
        z = x + 1
        z[:, 0, 2:5] = 0
        return y + z


class Input(Base):
    """What comes in is overwritten: the caller's images must not be."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x.sub_(0.5).div_(0.25)
        return super().forward(x)

    def body(self, x):
        return self.relu(self.bn(x))


class DropOut(Base):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5, inplace=True)

    def body(self, x):
        y = self.bn(x)
        return self.relu(self.drop(y)) + y


KINDS = [
    Sequential,
    Statement,
    Twice,
    Function,
    Augmented,
    Residual,
    Views,
    UsedViews,
    Assigned,
    Input,
    DropOut,
]


def images(n: int = 4) -> Tensor:
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_is_the_network_in_both_modes_and_so_are_its_gradients(kind):
    network = kind().eval()
    piece = graph.features(network, ["output"])
    for training in (False, True):
        found = []
        copied = copy.deepcopy(piece)
        for module in (copy.deepcopy(network), copied):
            x = images().requires_grad_()
            torch.manual_seed(5)
            logits = module.train(training)(x)
            logits = logits if module is not copied else logits[0]
            norm = (module if module is not copied else module.front).bn
            (gradient,) = torch.autograd.grad((logits * logits.sin()).sum(), x)
            found.append((logits.detach(), gradient, norm.running_mean))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(Folded(network).eval()(images()), network(images()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_what_it_was_when_it_was_made(kind):
    """As hooks see it, which copy what they are given."""
    network, seen = kind().eval(), {}
    for name in ("conv", "bn", "relu"):
        network.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: seen.update({name: out.clone()})
        )
    x = images()
    with torch.no_grad():
        network(x)
        layers = [name for name in seen if name in graph.Graph(network).layers]
        found = graph.features(network, layers)(x)
    assert torch.equal(x, images())
    for name, value in zip(layers, found, strict=True):
        assert torch.equal(value, seen[name]), name
    assert "conv" in layers


@pytest.mark.parametrize("kind", KINDS)
def test_stitched_to_itself_at_every_layer_it_is_itself(kind):
    network, cuts = kind().eval(), 0
    for name, layer in graph.Graph(network).layers.items():
        if layer.layout.channels == 5:
            continue
        try:
            twin = StitchedNetwork(network, name, network, name).eval()
        except UserError as error:
            assert "does not depend on layer" in str(error)
            continue
        channels = layer.layout.channels
        twin.transform.set(torch.eye(channels), torch.zeros(channels))
        torch.testing.assert_close(twin(images()), network(images()), msg=name)
        cuts += 1
        twin.transform.set(torch.zeros(channels, channels), torch.ones(channels))
        if layer.clean:
            other = images().flip(0)
            assert torch.equal(twin(images()), twin(other)), name
    assert cuts > 3


def test_cka_at_a_layer_that_is_overwritten_is_that_of_its_own_values():
    """The network in place and its twin that is not have the same weights and the same layers."""

    class OutOfPlace(Sequential):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

    x = images(40)
    with torch.no_grad():
        (one,), (other,) = (
            graph.features(n.eval(), ["bn"])(x) for n in (Sequential(), OutOfPlace())
        )
    assert (one < 0).any() and cka(one, other) == pytest.approx(1, abs=1e-6)


def test_what_overwrites_a_part_is_no_place_to_cut():
    network = Views().eval()
    with pytest.raises(UserError, match=r"'mul_' is no activation.*overwrites a part"):
        graph.features(network, ["mul_"])


def test_what_is_overwritten_whole_is_a_place_to_cut_although_there_are_views_of_it():
    assert {"relu", "conv2"} <= graph.Graph(UsedViews()).layers.keys()
    assert "clamp_" in graph.Graph(UsedViews()).refused
