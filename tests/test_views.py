"""What is attacked in place of a network: the same function with the same gradient, or itself."""

import pytest
import torch
from torch import nn

from conftest import REPOSITORY
from robust_stitching import checkpoints, models
from robust_stitching.attacks import Threat
from robust_stitching.evaluation.robustness import WORST, robustness, suite
from robust_stitching.graphs.folding import Folded, view_of
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import Adversary
from robust_stitching.training import objective_of
from sure_networks import Altered, Reversed, rounded, with_nan

ARCHIVE = sorted((REPOSITORY / "archive").glob("*/*/*/model.pt"))


@pytest.fixture(scope="module")
def lenet():
    return checkpoints.load(REPOSITORY / "archive/lenet/Digits/in0-gn0/model.pt").network


@pytest.mark.parametrize("path", ARCHIVE, ids=["-".join(p.parts[-4:-1]) for p in ARCHIVE])
def test_a_network_of_ours_is_folded(path):
    assert isinstance(view_of(checkpoints.load(path).network), Folded)


def test_a_stitched_network_is_folded():
    front, end = (models.build("tiny10", num_classes=10, in_channels=1, seed=s) for s in (0, 1))
    assert isinstance(view_of(StitchedNetwork(front, "bn3", end, "bn3").train()), Folded)


class Straight(torch.autograd.Function):
    """Rounds, and passes the gradient straight through."""

    @staticmethod
    def forward(ctx, x):
        return rounded(x, 20)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def branching(network, x):
    return network(x) if x.sum() > 0 else network(x) + 1


@pytest.mark.parametrize("change, folded", [
    (lambda net, x: net(Reversed.apply(x)), True),
    (lambda net, x: net(Straight.apply(x)), True),
    (lambda net, x: net(x + (rounded(x, 20) - x).detach()), True),
    (lambda net, x: net(x + torch.randn_like(x)), False),
    (branching, False),
    (with_nan, True),
], ids=["reversed", "straight", "detached", "random", "branching", "NaN"])  # fmt: skip
def test_what_tracing_cannot_follow_is_attacked_itself(change, folded, lenet):
    network = Altered(lenet, change)
    view = view_of(network)
    assert isinstance(view, Folded) is folded
    assert view is network or folded


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_convolution_whose_weights_a_hook_makes_is_not_folded():
    """They are made at the next pass; a view that took them would be that of the last."""
    torch.manual_seed(0)
    convs = [nn.utils.weight_norm(nn.Conv2d(1, 4, 3)), nn.Conv2d(4, 4, 3)]
    norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(4)]
    network = nn.Sequential(
        *(convs[0], norms[0], nn.ReLU(), convs[1], norms[1], nn.Flatten(), nn.Linear(64, 3))
    ).eval()
    network.input_shape, x = (1, 8, 8), torch.rand(2, 1, 8, 8)
    network(x).sum().backward()  # holds weights that cannot be copied from now on
    view = view_of(network)
    assert isinstance(view, Folded) and len(view._convs) == 1
    with torch.no_grad():
        convs[0].weight_g.mul_(3)
        convs[1].weight.mul_(3)
        torch.testing.assert_close(view.refresh().eval()(x), network(x))


def test_gradients_of_ones_own_are_followed(lenet, digits):
    """Rounding that is passed straight through: the attack is as strong as without it. The rounding
    alone has no gradient."""
    few, attacks = digits[1].sample(60), suite("quick", Threat(0.2), 10)
    plain = robustness(lenet, few, attacks).accuracies()[WORST]
    found = robustness(Altered(lenet, lambda net, x: net(Straight.apply(x))), few, attacks)
    assert found.accuracies()[WORST] <= plain + 0.05
    assert not found.no_gradient.any()


def test_a_network_that_no_graph_shows_is_attacked(lenet, digits):
    few, attacks = digits[1].sample(20), suite("quick", Threat(0.1), 10)
    found = robustness(Altered(lenet, branching), few, attacks)
    assert found.accuracies() == robustness(lenet, few, attacks).accuracies()


def overwriting(network, x):
    return network(x.mul_(0.5).add_(0.5)) if x.sum() > 0 else network(x)


@pytest.mark.parametrize("change", [lambda net, x: net(x.mul_(0.5).add_(0.5)), overwriting])
def test_a_network_that_overwrites_its_images_is_attacked(change, lenet, digits):
    """As the same one that does not, with a graph and without."""
    few, attacks = digits[1].sample(20), suite("default", Threat(0.1), 10, steps=5)
    found = robustness(Altered(lenet, change), few, attacks)
    plain = robustness(Altered(lenet, lambda net, x: net(0.5 * x + 0.5)), few, attacks)
    assert found.accuracies() == plain.accuracies()
    assert plain.clean_accuracy() > 0


@pytest.mark.parametrize("kind", ["madry", "trades"])
def test_adversarial_training_follows_gradients_of_ones_own(kind, digits):
    """The images that a training step learns from are those of the network's own gradient."""

    class Backwards(nn.Module):
        input_shape = (1, 32, 32)

        def __init__(self, change):
            super().__init__()
            self.network = models.build("lenet", num_classes=10, in_channels=1, seed=1)
            self.change = change

        def forward(self, x):
            if self.training:
                self.seen = x.detach()
            return self.network(self.change(x))

    adversary = Adversary(kind, 0.1, 0.1, perturb_steps=1)
    images, labels = next(digits[0].batches(16))
    changes = []
    for change in (lambda x: x * 1, Reversed.apply):
        network = Backwards(change).train()
        objective_of(adversary, network, iterations=1)(network, images, labels, 0)
        changes.append(network.seen - images)
    inner = (images > 0.11) & (images < 0.89) & (changes[0].abs() > 0.099)
    assert inner.sum() > 100
    opposite = changes[0][inner].sign() == -changes[1][inner].sign()
    assert opposite.double().mean() > 0.9
