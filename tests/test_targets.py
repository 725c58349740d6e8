"""What a map is trained for: soft targets, penalties, and controls beside it."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robust_stitching import models
from robust_stitching.attacks.losses import cross_entropy
from robust_stitching.attacks.pgd import worst_images
from robust_stitching.basics.seeds import generator_for
from robust_stitching.graphs import graph
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import Adversary, Objective, stitching
from robust_stitching.stitching.fit import find_map
from robust_stitching.stitching.initial import initial_values
from robust_stitching.stitching.targets import goal_of
from robust_stitching.stitching.terms import terms_of, watch, weighted
from robust_stitching.stitching.terms.cka import batch_cka
from robust_stitching.training.adversarial import Attacking, radius_at
from robust_stitching.training.objectives import standard

CONTROLS = ["self_stitch", "random_front"]
SOFT = ["soft_1", "soft_2", "soft_12", "soft_1_plus_2"]


def lenet(seed: int, **options) -> nn.Module:
    options = {"num_classes": 10, "in_channels": 1, **options}
    return models.build("lenet", seed=seed, **options).eval()


def images(n: int = 12, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


def labels(n: int = 12) -> Tensor:
    return torch.arange(n) % 10


def softmax(z: np.ndarray) -> np.ndarray:
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def logits(network: nn.Module, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return copy.deepcopy(network).double()(x.double()).numpy()


def joined(front: nn.Module, end: nn.Module, layer: str = "relu2") -> StitchedNetwork:
    network = StitchedNetwork(front, layer, end, layer).eval()
    network.transform.set(*initial_values("random", 16, 16, 0))
    return network


def expected_targets(kind: str, temperature: float, front: nn.Module, end: nn.Module, x: Tensor):
    z1, z2 = (logits(network, x) / temperature for network in (front, end))
    return {
        "soft_1": softmax(z1),
        "soft_2": softmax(z2),
        "soft_12": (softmax(z1) + softmax(z2)) / 2,
        "soft_1_plus_2": softmax((z1 + z2) / 2),
    }[kind]


# --- soft targets ---


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("kind", SOFT)
def test_soft_targets_are_the_donors_answers(kind, temperature):
    front, end = lenet(0).train(), lenet(1)
    goal = goal_of(Objective(kind, temperature), front, end)
    found = goal.targets(images(), labels())
    expected = expected_targets(kind, temperature, front, end, images())
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert front.training and not end.training

    z = torch.randn(12, 10, generator=torch.Generator().manual_seed(1))
    log_q = np.log(softmax(z.double().numpy() / temperature))
    loss = goal.loss(z, labels(), found)
    np.testing.assert_allclose(loss, -(temperature**2) * (expected * log_q).sum(1), rtol=1e-5)


def test_the_loss_on_both_is_the_mean_of_the_losses():
    front, end = lenet(0), lenet(1)
    z = torch.randn(12, 10)
    both, one, two = (
        goal.loss(z, labels(), goal.targets(images(), labels()))
        for goal in (
            goal_of(Objective(kind, 2.0), front, end) for kind in ("soft_12", "soft_1", "soft_2")
        )
    )
    torch.testing.assert_close(both, (one + two) / 2)


@pytest.mark.parametrize("kind", SOFT)
def test_soft_targets_are_met_best_by_themselves(kind):
    """Gibbs' inequality: the donors' own answers have the smallest cross-entropy with them."""
    goal = goal_of(Objective(kind, 3.0), lenet(0), lenet(1))
    p = goal.targets(images(), labels())
    best = goal.loss(3 * p.log(), labels(), p)
    entropy = -(p * p.log()).sum(1) * 9
    torch.testing.assert_close(best, entropy)
    assert (goal.loss(torch.randn(12, 10), labels(), p) > best).all()


def test_soft_targets_of_attributes_are_bernoulli():
    front, end = lenet(0, num_classes=4), lenet(1, num_classes=4)
    truth = (torch.rand(12, 4) > 0.5).long()
    goal = goal_of(Objective("soft_1", 2.0), front, end)
    p = 1 / (1 + np.exp(-logits(front, images()) / 2))
    z = torch.randn(12, 4)
    q = 1 / (1 + np.exp(-z.double().numpy() / 2))
    expected = -4 * (p * np.log(q) + (1 - p) * np.log(1 - q)).mean(1)
    found = goal.loss(z, truth, goal.targets(images(), truth))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_hard_targets_are_the_labels():
    goal = goal_of(Objective(), lenet(0), lenet(1))
    assert goal.targets(images(), labels()) is None
    z = torch.randn(12, 10)
    expected = nn.functional.cross_entropy(z, labels(), reduction="none")
    torch.testing.assert_close(goal.loss(z, labels(), None), expected)
    assert goal.attacked is cross_entropy


@pytest.mark.parametrize("kind", ["trades", "madry"])
def test_soft_targets_under_attack_are_those_of_unattacked_images(kind):
    """A step that cannot move leaves the images: the loss is the soft one on them."""
    front, end = lenet(0), lenet(1)
    network, goal = joined(front, end), goal_of(Objective("soft_2"), front, end)
    still = Adversary(kind, epsilon=1e-9, step_size=1e-9, perturb_steps=1, beta=0.0)
    found = Attacking(still, goal=goal)(network, images(), labels(), 0).loss
    expected = standard(network, images(), labels(), 0, goal).loss
    torch.testing.assert_close(found, expected)
    moved = Adversary("madry", epsilon=0.3, step_size=0.1, perturb_steps=3, ramp=0)
    assert Attacking(moved, goal=goal)(network, images(), labels(), 0).loss > expected


# --- penalties ---


def plain_debiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    def hsic(k, other):
        n = len(k)
        ones = np.ones(n)
        return (
            np.trace(k @ other)
            + ones @ k @ ones * (ones @ other @ ones) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (ones @ k @ other @ ones)
        )

    k, other = ((v @ v.T) * (1 - np.eye(len(v))) for v in (x, y))
    return hsic(k, other) / np.sqrt(hsic(k, k) * hsic(other, other))


def test_the_cka_of_a_batch_is_the_debiased_one():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, 4, 4, generator=generator)
    y = x[:, :2] + 0.5 * torch.randn(20, 2, 4, 4, generator=generator) + 7
    expected = plain_debiased_cka(*(v.double().flatten(1).numpy() for v in (x, y)))
    assert batch_cka(x, y).item() == pytest.approx(expected, abs=1e-6)
    assert batch_cka(x, 3 * x + 1).item() == pytest.approx(1)
    x = x.double().requires_grad_()
    step = 1e-2 * torch.randn(x.shape, generator=generator).double()
    batch_cka(x, y).backward()
    slope = (batch_cka(x + step, y) - batch_cka(x - step, y)).item() / 2
    assert (x.grad * step).sum().item() == pytest.approx(slope, rel=1e-2)


def test_a_constant_map_has_no_cka_and_no_gradient():
    x = torch.zeros(8, 5, requires_grad=True)
    found = batch_cka(x, torch.randn(8, 5))
    found.backward()
    assert found.item() == 0 and (x.grad == 0).all()


@pytest.mark.parametrize("adversary", [None, Adversary("madry", 0.1, 0.05, 2, ramp=0)])
def test_penalties_are_added_to_the_loss(adversary):
    front, end = lenet(0), lenet(1)
    network = joined(front, end)
    asked = terms_of(Objective(l1=0.5, cka_reg=-2.0))
    watched = watch(network, end, "relu2", asked)
    objective = partial(standard, look=watched.look)
    if adversary:
        objective = Attacking(adversary, look=watched.look)
    alone = objective(network, images(), labels(), 0).loss.item()
    loss = weighted(objective, asked, watched)(network, images(), labels(), 0).loss
    weight = network.transform.weight
    shown = images()
    if adversary:
        threat, step = radius_at(adversary, 0)
        start = threat.uniform_start(shown, generator_for(0, 0, 1))
        shown = worst_images(network, shown, labels(), threat, start=start, steps=2, step_size=step)
    (x,) = graph.features(network, ["transform"])(shown)
    (y,) = graph.features(end, ["relu2"])(shown)
    cka = plain_debiased_cka(*(v.detach().double().flatten(1).numpy() for v in (x, y)))
    expected = alone + 0.5 * weight.abs().mean().item() - 2 * cka
    assert loss.item() == pytest.approx(expected, abs=1e-4)
    loss.backward()
    assert weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in [*front.parameters(), *end.parameters()])


def fit(digits, **options):
    config = stitching("relu2", "relu2", **{"epochs": 6, "batch_size": 64, "lr": 2e-2, **options})
    train = digits[0].between(0, 256)
    cuts = (lenet(0), "relu2"), (lenet(1), "relu2")
    return find_map(*cuts, train, digits[1].between(0, 50), config)


def test_l1_makes_the_matrix_smaller(digits):
    plain, sparse = (fit(digits, l1=weight).maps[-1].weight.abs().mean() for weight in (0, 30.0))
    assert sparse < 0.5 * plain


def test_a_negative_weight_raises_the_similarity(digits):
    test = digits[1].between(0, 100)
    x = test.images / 255

    def similarity(weight: float) -> float:
        network = fit(digits, cka_reg=weight).network
        (mapped,) = graph.features(network, ["transform"])(x)
        (own,) = graph.features(lenet(1), ["relu2"])(x)
        return plain_debiased_cka(*(v.detach().flatten(1).double().numpy() for v in (mapped, own)))

    assert similarity(-10.0) > similarity(0.0) > similarity(10.0)
