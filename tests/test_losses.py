"""Losses that are attacked: their formulas, and gradients that float32 does not lose."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import REPOSITORY
from robust_stitching import checkpoints
from robust_stitching.attacks import Threat, apgd, losses, pgd
from robust_stitching.attacks.pgd import usual_step, worst_images
from robust_stitching.basics.labels import losses_of, margins_of
from robust_stitching.basics.seeds import generator_for
from robust_stitching.plans import Objective
from robust_stitching.stitching.targets import goal_of
from robust_stitching.training.objectives import LABELS
from sure_networks import scaled_by

ARCHIVE = sorted((REPOSITORY / "archive").glob("*/Digits/*/model.pt"))
LENET = REPOSITORY / "archive/lenet/Digits/in0-gn0/model.pt"


def logits_and_labels(n=50, classes=6):
    logits = 3 * torch.randn(n, classes, generator=generator_for(4)).double()
    return logits, torch.arange(n) % classes


# Formulas


def softplus_of_cross_entropy(z, y, t):
    return np.log(np.expm1(-np.log(np.exp(z[y]) / np.exp(z).sum())))


def margin(z, y, t):
    return np.delete(z, y).max() - z[y]


def dlr(z, y, t):
    ordered = np.sort(z)[::-1]
    return -(z[y] - np.delete(z, y).max()) / (ordered[0] - ordered[2])


def targeted_dlr(z, y, t):
    ordered = np.sort(z)[::-1]
    return -(z[y] - z[t]) / (ordered[0] - (ordered[2] + ordered[3]) / 2)


def kl(z, y, p):
    return (p * np.log(p / (np.exp(z) / np.exp(z).sum()))).sum()


FORMULAS = {
    losses.cross_entropy: softplus_of_cross_entropy,  # its inverse, at −log p(label)
    losses.margin: margin,
    losses.dlr: dlr,
    losses.targeted_dlr: targeted_dlr,
    losses.divergence: kl,
}


@pytest.mark.parametrize("loss", FORMULAS)
def test_losses_are_the_formulas(loss):
    logits, labels = logits_and_labels()
    targets = (labels + 1) % 6
    if loss is losses.divergence:
        targets = torch.randn(50, 6, generator=generator_for(5)).double().softmax(dim=1)
    rows = zip(logits.numpy(), labels.numpy(), targets.numpy(), strict=True)
    expected = [FORMULAS[loss](*row) for row in rows]
    np.testing.assert_allclose(loss(logits, labels, targets), expected, atol=1e-9)


def test_cross_entropy_is_the_softplus_of_what_is_attacked():
    logits, labels = logits_and_labels()
    torch.testing.assert_close(
        F.softplus(losses.cross_entropy(logits, labels)), losses_of(logits, labels)
    )
    torch.testing.assert_close(LABELS.loss(logits, labels), losses_of(logits, labels))


def test_of_attributes_the_logarithm_of_their_mean_is_attacked():
    logits, _ = logits_and_labels()
    truth = (torch.rand(50, 6, generator=generator_for(1)) > 0.5).long()
    p = 1 / (1 + np.exp(-logits.numpy()))
    expected = -np.log(np.where(truth == 1, p, 1 - p)).mean(axis=1)
    np.testing.assert_allclose(losses.cross_entropy(logits, truth).exp(), expected, rtol=1e-12)


@pytest.mark.parametrize("loss", [losses.dlr, losses.targeted_dlr])
@pytest.mark.parametrize("scale, shift", [(1, 7), (0.01, 0), (300, -20)])
def test_dlr_knows_no_shift_and_scale(loss, scale, shift):
    logits, labels = logits_and_labels()
    targets = (labels + 1) % 6
    moved = loss(scale * logits + shift, labels, targets)
    torch.testing.assert_close(moved, loss(logits, labels, targets), atol=1e-8, rtol=1e-6)


# Gradients


def directions(loss, logits, labels, targets=None):
    """Of the gradient with respect to the logits in float32, each scaled to the largest entry 1."""
    z = logits.float().requires_grad_()
    value = loss(z, labels, targets)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    return (gradient / gradient.abs().amax(dim=1, keepdim=True)).double()


@pytest.mark.parametrize("margin", [0, 10, 17, 40, 95, 300, 5000])
def test_a_label_keeps_its_gradient(margin):
    """−log p(label) has the gradient (1 − p_y) · (−1 at the label, the others' softmax else)."""
    logits, labels = logits_and_labels()
    logits[torch.arange(50), labels] = logits.amax(dim=1) + margin
    logits = logits.float().double()  # what float32 can tell of them
    others = logits.scatter(1, labels[:, None], -torch.inf).softmax(dim=1)
    expected = others.scatter(1, labels[:, None], -1.0)
    found = directions(losses.cross_entropy, logits, labels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert margins_of(logits.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize("margin", [0, 10, 17, 40, 95, 300, 5000])
def test_attributes_keep_their_gradients(margin):
    """The mean of −log p has gradients ∓(1 − p) / A, here relative to the largest of an image."""
    logits, _ = logits_and_labels()
    truth = (torch.rand(50, 6, generator=generator_for(1)) > 0.5).long()
    sign = 2 * truth - 1
    right = (logits.abs() + margin).float().double()  # by how much each answer is right
    expected = torch.exp(F.logsigmoid(-right) - F.logsigmoid(-right).amax(dim=1, keepdim=True))
    found = directions(losses.cross_entropy, sign * right, truth)
    torch.testing.assert_close(found, -sign * expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("margin", [0, 10, 17, 40, 70])
def test_divergence_keeps_its_gradient(margin):
    """q − p, of which each entry but the largest is known to float32 by itself."""
    logits, labels = logits_and_labels()
    logits[torch.arange(50), labels] = logits.amax(dim=1) + margin
    moved = logits + 0.3 * torch.randn(50, 6, generator=generator_for(7)).double()
    logits, moved = logits.float().double(), moved.float().double()
    targets = logits.softmax(dim=1).float()
    expected = moved.softmax(dim=1) - logits.softmax(dim=1)
    at_label = labels[:, None]
    others = expected.scatter(1, at_label, 0)
    expected = others.scatter(1, at_label, -others.sum(dim=1, keepdim=True))
    expected = expected / expected.abs().amax(dim=1, keepdim=True)
    found = directions(losses.divergence, moved, labels, targets)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_divergence_from_certainty_leads_away_from_the_class():
    """Where all targets but one are below what float32 holds, as −log p(label) does."""
    logits, labels = logits_and_labels()
    logits[torch.arange(50), labels] = logits.amax(dim=1) + 300
    targets = logits.softmax(dim=1).float()
    assert (targets.amax(dim=1) == 1).all() and (targets.count_nonzero(dim=1) == 1).all()
    found = directions(losses.divergence, logits, labels, targets)
    expected = directions(losses.cross_entropy, logits, labels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_divergence_of_attributes_keeps_its_gradient():
    logits, _ = logits_and_labels()
    right = 17 + logits.abs()
    sign = torch.where(logits > 0, 1.0, -1.0).double()
    moved = sign * (right - 0.5 * torch.rand(50, 6, generator=generator_for(7)).double())
    truth = (sign > 0).long()
    z = (sign * right).float()
    targets = torch.stack([z, torch.zeros_like(z)], dim=-1).softmax(dim=-1)
    expected = -sign * (F.logsigmoid(-sign * moved).exp() - F.logsigmoid(-right).exp())
    expected = expected / expected.abs().amax(dim=1, keepdim=True)
    found = directions(losses.divergence, moved, truth, targets)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


# Attacks in float32 and in float64


def both_precisions(path, digits, n):
    network = checkpoints.load(path).network
    x, y = next(digits[1].sample(n).batches(n))
    return network, copy.deepcopy(network).double(), x, y


@pytest.mark.parametrize("norm, epsilon", [("linf", 0.1), ("l2", 2.0)])
@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "apgd-dlr"])
@pytest.mark.parametrize("path", ARCHIVE, ids=[f"{p.parts[-4]}-{p.parts[-2]}" for p in ARCHIVE])
def test_float32_fools_what_float64_fools(path, name, norm, epsilon, digits):
    n = 40 if "resnet" in str(path) else 200
    single, double, x, y = both_precisions(path, digits, n)
    threat = Threat(epsilon, norm)

    def left(network, x):
        options = {"steps": 20, "generator": generator_for(0)}
        if name == "pgd":
            step = usual_step(epsilon, 20)
            found = pgd(network, x, y, threat, step_size=step, **options)
        else:
            loss = losses.dlr if name == "apgd-dlr" else losses.cross_entropy
            found = apgd(network, x, y, threat, loss=loss, **options)
        return (~found.fooled).sum().item()

    assert abs(left(single, x) - left(double, x.double())) <= max(1, n // 100)


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("kind", ["trades", "soft_1", "soft_12", "soft_1_plus_2"])
def test_training_attacks_reach_in_float32_what_they_reach_in_float64(kind, scale, digits):
    """The divergence from the targets that the attack ends at, itself taken in float64."""
    network, other, x, y = both_precisions(LENET, digits, 100)
    single = scaled_by(network, scale)
    double, exact = scaled_by(other, scale), x.double()
    if kind == "trades":
        loss, targets = (
            losses.divergence,
            [z.softmax(dim=1).detach() for z in (single(x), double(exact))],
        )
    else:
        goal, precise = (goal_of(Objective(kind), f, f) for f in (single, double))
        loss, targets = goal.attacked, [goal.targets(x, y), precise.targets(exact, y)]
    start = x + 0.001 * torch.randn(x.shape, generator=generator_for(0))

    def reached(network, x, targets):
        options = {"steps": 10, "step_size": 0.02, "loss": loss, "targets": targets}
        found = worst_images(network, x, y, Threat(0.1), start=start.to(x), **options)
        q = double(found.double()).log_softmax(dim=1)
        return F.kl_div(q, double(exact).softmax(dim=1), reduction="batchmean").item()

    expected = reached(double, exact, targets[1])
    assert expected > 1
    assert reached(single, x, targets[0]) == pytest.approx(expected, rel=0.02)
