"""Objectives that ask for the end network's activations rather than for answers."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

import robust_stitching as rs
from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import Adversary, Objective, stitching
from robust_stitching.stitching.fit import find_map
from robust_stitching.stitching.initial import initial_values
from robust_stitching.stitching.targets import goal_of
from robust_stitching.stitching.terms import (
    OwnActivations,
    places_behind,
    terms_of,
    watch,
    weighted,
)
from robust_stitching.training.adversarial import Attacking
from robust_stitching.training.objectives import standard

KINDS = ["direct", "fula", "features"]
BEHIND = ["pool2", "relu3", "relu4"]


def lenet(seed):
    return models.build("lenet", num_classes=10, in_channels=1, seed=seed).eval()


def images(n=12):
    return torch.rand(n, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def labels(n=12):
    return torch.arange(n) % 10


def joined(front, end, layer="relu2", start="random"):
    network = StitchedNetwork(front, layer, end, layer).eval()
    network.transform.set(*initial_values(start, 16, 16, 0))
    return network


def loss_of(network, end, kind, layer="relu2", adversary=None):
    """What is trained, as a function of images and labels; and the passes that it has looked at."""
    plan = Objective(objective=kind, adversary=adversary)
    asked = terms_of(plan)
    watched, shown = watch(network, end, layer, asked), []

    def look(stitched, x):
        shown.append(x)
        return watched.look(stitched, x)

    goal = goal_of(plan, network, end)
    objective = partial(standard, goal=goal, look=look)
    if adversary:
        objective = Attacking(adversary, goal=goal, look=look)
    whole = weighted(objective, asked, watched)
    return (lambda x, y: whole(network, x, y, 0).loss), shown


def by_hand(front, network, end, kind, shown, unattacked):
    """In float64 from the modules themselves, the definitions as they stand in the papers."""
    front, end = (copy.deepcopy(n).double() for n in (front, end))
    weight, bias = (values.double() for values in network.transform.values())

    def from_the_cut_on(at_cut):
        pooled = end.pool2(at_cut)
        third = end.relu3(end.fc1(pooled.flatten(1)))
        return [at_cut, pooled, third, end.relu4(end.fc2(third))]

    def at_cut(net, x):
        return net.relu2(net.conv2(net.pool1(net.relu1(net.conv1(net.normalize(x.double()))))))

    with torch.no_grad():
        mapped = torch.einsum("oc,nchw->nohw", weight, at_cut(front, shown))
        mapped += bias[:, None, None]
        own = from_the_cut_on(at_cut(end, unattacked))
        pairs = zip(from_the_cut_on(mapped), own, strict=True)
        gaps = [
            ((x - y).pow(2).sum().sqrt() / y.pow(2).sum().sqrt(), (x - y).pow(2).sum() / len(x))
            for x, y in pairs
        ]
    return {
        "direct": float(gaps[0][0]),
        "fula": float(sum(gap for gap, _ in gaps)) / len(gaps),
        "features": float(gaps[-1][1]),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0, 1, 0.5], ids=["plain", "attacked", "half attacked"])
def test_each_is_what_its_paper_says(kind, share):
    """Under attack the stitched network sees attacked images, the end what they were before."""
    adversary = Adversary("madry", 0.1, 0.05, 2, ramp=0, attack_ratio=share) if share else None
    front, end = lenet(0), lenet(1)
    network = joined(front, end)
    loss, shown = loss_of(network, end, kind, adversary=adversary)
    x = images()
    found = loss(x, labels())
    assert torch.equal(shown[-1], x) == (adversary is None)
    assert found.item() == pytest.approx(by_hand(front, network, end, kind, shown[-1], x), rel=1e-5)
    found.backward()
    assert network.transform.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in [*front.parameters(), *end.parameters()])


def test_where_a_network_is_looked_at():
    """At the cut and the stages behind it, wherever the cut is within a stage."""
    end = lenet(1)
    assert places_behind(end, "relu2").stages == BEHIND
    assert places_behind(end, "pool2").stages == BEHIND[1:]
    assert places_behind(end, "flatten").stages == BEHIND[1:]
    assert places_behind(end, "relu4").stages == places_behind(end, "fc3").stages == []
    deep = models.build("resnet_w1", num_classes=10, in_channels=3, seed=0)
    assert places_behind(deep, "layer3.0.add").stages == ["layer3.0", "layer3.1", "layer3.2"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_stitched_to_itself_by_the_identity_has_nothing_to_learn(kind):
    network = lenet(0)
    loss, _ = loss_of(joined(network, network, start="eye"), network, kind)
    assert loss(images(), labels()).item() == 0
    stitched = joined(network, network, start="eye")
    loss, _ = loss_of(stitched, network, kind)
    loss(images(), labels()).backward()
    assert (stitched.transform.weight.grad == 0).all()  # and no NaN


def test_at_the_last_stage_alignment_is_direct_matching():
    front, end = lenet(0), lenet(1)
    network = StitchedNetwork(front, "relu4", end, "relu4").eval()
    network.transform.set(*initial_values("random", 84, 84, 0))
    found = {kind: loss_of(network, end, kind, "relu4")[0](images(), labels()) for kind in KINDS}
    assert found["fula"].item() == found["direct"].item() != found["features"].item()


class Mixed(nn.Module):
    """The same function as a LeNet, whose activation behind relu2 is another mix of channels."""

    def __init__(self, network, mix):
        super().__init__()
        self.network, self.mix = network, nn.Conv2d(16, 16, 1)
        self.mix.weight = nn.Parameter(mix[:, :, None, None])
        self.mix.bias = nn.Parameter(torch.linspace(-1, 1, 16))

    def forward(self, x):
        net = self.network
        x = net.relu2(net.conv2(net.pool1(net.relu1(net.conv1(net.normalize(x))))))
        return self.mix(x).mean(dim=(2, 3)) @ torch.ones(16, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_map_is_found(kind, digits):
    end = lenet(0)
    generator = torch.Generator().manual_seed(1)
    mix = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0] * 2
    front = rs.network(Mixed(lenet(0), mix), image_size=32, dataset="digits")
    settings = {"epochs": 40, "lr": 0.03, "batch_size": 64, "objective": kind, "no_bn": True}
    plan = stitching("mix", "relu2", **settings)
    train = digits[0].between(0, 256)
    made = find_map((front.network, "mix"), (end, "relu2"), train, digits[1].between(0, 50), plan,
                    goal_of(plan.objective, front.network, end))  # fmt: skip
    loss, _ = loss_of(made.network, end, kind)
    before, _ = loss_of(made.untrained, end, kind)
    x, y = train.images / 255, train.labels
    with torch.no_grad():
        assert loss(x, y) < 0.1 * before(x, y)


def test_own_activations_are_computed_once_for_all_that_ask():
    end, x = lenet(0), images()
    own, calls = OwnActivations(end), []
    own.want(["relu2"])
    first = own.at(["relu2"], x)["relu2"]
    own.want(["relu3"])
    own.at(["relu3"], x)
    own._shared.piece.register_forward_pre_hook(lambda *given: calls.append(given))
    assert torch.equal(own.at(["relu2", "relu3"], x)["relu2"], first) and not calls
    x += 0.1  # in place: other images
    assert not torch.equal(own.at(["relu2"], x)["relu2"], first) and len(calls) == 1


@pytest.mark.parametrize("attributes", [False, True])
def test_the_divergence_of_answers(attributes):
    """Against the definition in float64; beside an objective; 0 of a network with itself."""
    front, end = lenet(0), lenet(1)
    with torch.no_grad():
        end.fc3.weight.mul_(30)  # answers that differ by more than float32 rounds
    network, x, y = joined(front, end), images(), labels()
    if attributes:
        y = (torch.arange(120).view(12, 10) % 3 == 0).long()
    asked = terms_of(Objective(objective="fula", terms=("kl=0.5",)))
    watched = watch(network, end, "relu2", asked)
    found = {t.name: v for t, v in watched.values(watched.look(network, x), x, y, network)}
    q, p = (net(x).detach().double() for net in (network, end))
    if attributes:
        q, p = (torch.stack([z.sigmoid(), (-z).sigmoid()], dim=-1) for z in (q, p))
    else:
        q, p = q.softmax(dim=1), p.softmax(dim=1)
    expected = (p * (p / q).log()).sum().item() / 12
    assert set(found) == {"fula", "kl"} and found["kl"].item() == pytest.approx(expected, rel=1e-5)
    found["kl"].backward()
    assert network.transform.weight.grad.norm() > 0
    itself = joined(end, end, start="eye")
    watched = watch(itself, end, "relu2", terms_of(Objective(terms=("kl=1",))))
    ((_, nothing),) = watched.values(watched.look(itself, x), x, y, itself)
    assert nothing.item() == pytest.approx(0, abs=1e-6)


class Doubled(nn.Module):
    """Logits that no layer gives."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 5, 4), nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3))) * 2


def test_answers_diverge_wherever_they_are_made():
    """Behind the last layer, at the cut itself; under attack the end answers unattacked images."""
    own = rs.network(Doubled(), image_size=32, in_channels=1).network.eval()
    asked = terms_of(Objective(terms=("kl=1",)))
    for end, layer in ((own, "conv"), (own, "fc"), (lenet(1), "fc3")):
        network = StitchedNetwork(end, layer, end, layer).eval()
        n = network.transform.rows
        network.transform.set(2 * torch.eye(n), torch.zeros(n))
        x = images()
        attacked = x.flip(0)
        watched = watch(network, end, layer, asked)
        ((_, found),) = watched.values(watched.look(network, attacked), x, labels(), network)
        q, p = (
            net(z).detach().double().softmax(dim=1) for net, z in ((network, attacked), (end, x))
        )
        assert found.item() == pytest.approx((p * (p / q).log()).sum().item() / 12, rel=1e-3)


def test_what_excludes_each_other_is_told(digits):
    end = lenet(0)
    pair = [rs.network(n, image_size=32, dataset="digits") for n in (end, lenet(1))]
    for settings, told in (
        ({"objective": "fula", "target_type": "soft_2"}, "asks for activations"),
        ({"objective": "fula", "terms": ("fula=1",)}, "it is the objective"),
        ({"objective": "functional"}, "Choose from task, direct, fula, features"),
    ):
        with pytest.raises(UserError, match=told):
            rs.stitch(*pair, "relu2", "relu2", digits, epochs=1, **settings)
