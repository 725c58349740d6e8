"""APGD against the paper's algorithm, written plainly for one image at a time in float64.

What is compared is how good every iterate is, not only who is fooled: a checkpoint that lies
elsewhere, a step halved too late or a restart without the best point's gradient change that.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robust_stitching.attacks import Threat, losses
from robust_stitching.attacks.apgd import AdaptiveStep
from robust_stitching.attacks.loop import attack
from robust_stitching.basics.seeds import generator_for

SIDE, CLASSES, N = 6, 5, 18
RHO, MOMENTUM = 0.75, 0.75


def wavy(seed=0):
    """A smooth network with a bent loss, so that steps overshoot and are halved at many places."""
    generator = generator_for(seed)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(SIDE**2, 24), nn.Tanh(), nn.Linear(24, CLASSES)
    ).double()
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 1.2 if parameter.ndim == 2 else 0.2
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return network


def images():
    return torch.rand(N, 1, SIDE, SIDE, generator=generator_for(1)).double()


# The paper, one image at a time


def numpy_logits(network, x):
    w1, b1, w2, b2 = (p.detach().numpy() for p in network.parameters())
    hidden = np.tanh(w1 @ x.ravel() + b1)
    return w2 @ hidden + b2, hidden, w1, w2


def loss_and_gradient(network, x, y, kind):
    z, hidden, w1, w2 = numpy_logits(network, x)
    if kind == "ce":
        p = np.exp(z - z.max())
        p /= p.sum()
        value, dz = -np.log(p[y]), p.copy()
        dz[y] -= 1
    else:
        order = np.argsort(-z)
        best = order[0] if order[0] != y else order[1]
        width = z[order[0]] - z[order[2]]
        value = -(z[y] - z[best]) / width
        dz = np.zeros(CLASSES)
        dz[y] -= 1 / width
        dz[best] += 1 / width
        dz[order[0]] -= value / width
        dz[order[2]] += value / width
    return value, ((dz @ w2) * (1 - hidden**2) @ w1).reshape(x.shape)


def project(x, x0, epsilon, norm):
    change = x - x0
    if norm == "linf":
        change = np.clip(change, -epsilon, epsilon)
    else:
        change = change * min(1, epsilon / np.sqrt((change**2).sum()))
    return np.clip(x0 + change, 0, 1)


def checkpoints_of(steps):
    """Section 3.2: p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), in whole
    steps as the authors take them: each length is rounded down and at least 1."""
    length, least, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    places = [length]
    while places[-1] < steps:
        length = max(length - shrink, least)
        places.append(places[-1] + length)
    return places


def reference(network, x0, y, start, steps, epsilon, norm, kind):
    """Algorithm 1; returns the loss after each step, the best, and the smallest difference of two
    losses that it compares: where that is nothing but rounding, either order is right."""
    eta, x = 2 * epsilon, start
    value, gradient = loss_and_gradient(network, x, y, kind)
    best, best_x, best_gradient = value, x, gradient
    history, before, x_before, close = [value], 0.0, x, np.inf
    checks, last = checkpoints_of(steps), 0
    rises, best_then, halved_then = 0, value, True
    for k in range(1, steps + 1):
        size = np.sign(gradient)
        if norm == "l2":
            size = gradient / max(np.sqrt((gradient**2).sum()), 1e-300)
        z = project(x + eta * size, x0, epsilon, norm)
        a = MOMENTUM if k > 1 else 1.0
        x_new = project(x + a * (z - x) + (1 - a) * (x - x_before), x0, epsilon, norm)
        x_before, x = x, x_new
        value, gradient = loss_and_gradient(network, x, y, kind)
        history.append(value)
        gaps = [abs(value - other) for other in (best, before)]
        close = min([close, *(gap for gap in gaps if gap)])
        if value > best:
            best, best_x, best_gradient = value, x, gradient
        rises += value > before
        before = value
        if k in checks:
            length, last = k - last, k
            stuck = not halved_then and best == best_then
            halved_then = rises <= RHO * length or stuck
            if halved_then:
                eta, x, gradient = eta / 2, best_x, best_gradient
            rises, best_then = 0, best
    return history, best, close


# Ours, with every loss that it sees


def never_fooled(network, x, y, loss):
    """What to attack instead: another class always wins and is the label, so that no image leaves;
    the loss is that of the other classes and of the labels `y`, which come as targets."""

    def crowned(x):
        logits = network(x)
        return torch.cat([logits, logits.new_full((len(x), 1), 1e6)], dim=1)

    def inner(logits, labels, targets):
        return loss(logits[:, :CLASSES], targets)

    return Called(crowned), x, torch.full_like(y, CLASSES), inner


class Called(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.forward = forward


class Recorded(AdaptiveStep):
    def __init__(self, *args):
        super().__init__(*args)
        self.seen = []

    def next(self, x, images, loss, gradient):
        self.seen.append(loss)
        return super().next(x, images, loss, gradient)

    def last(self, x, loss):
        self.seen.append(loss)
        return super().last(x, loss)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("steps", [20, 50, 100])
@pytest.mark.parametrize("norm, epsilon, kind", [
    ("linf", 0.05, "ce"), ("l2", 0.3, "ce"), ("linf", 0.025, "dlr"), ("l2", 0.1, "dlr"),
])  # fmt: skip
def test_every_step_is_that_of_the_paper(norm, epsilon, kind, steps, seed):
    network, x, threat = wavy(seed), images(), Threat(epsilon, norm)
    loss = {"ce": losses.cross_entropy, "dlr": losses.dlr}[kind]
    y = network(x).argmax(dim=1)
    start = threat.boundary_start(x, generator_for(2))
    stepper = Recorded(threat, steps, losses.at_zero(loss))
    found = attack(*never_fooled(network, x, y, loss), stepper, start, steps, y)
    seen = torch.stack(stepper.seen)
    seen = F.softplus(seen) if kind == "ce" else seen
    assert len(seen) == steps + 1
    compared = 0
    for i in range(N):
        history, best, close = reference(
            network, x[i].numpy(), int(y[i]), start[i].numpy(), steps, epsilon, norm, kind
        )
        flat = kind == "dlr" and max(history) > 0.9  # the label came third
        if flat or close < 1e-9:
            continue
        compared += 1
        np.testing.assert_allclose(seen[:, i].detach(), history, atol=1e-8)
        last = loss_and_gradient(network, found.images[i].numpy(), int(y[i]), kind)[0]
        assert last == pytest.approx(best, abs=1e-8)
    assert compared >= N / 3


@pytest.mark.parametrize("steps, expected", [
    (20, [4, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]),
    (50, [11, 21, 30, 38, 45, 51]),
    (100, [22, 41, 57, 70, 80, 87, 93, 99, 105]),
])  # fmt: skip
def test_where_the_checkpoints_are(steps, expected):
    assert [place for place in checkpoints_of(steps) if place <= expected[-1]] == expected
    threat, zero = Threat(0.1), torch.zeros(1)
    stepper, found = AdaptiveStep(threat, steps, 0.0), []
    x = torch.full((1, 1, 2, 2), 0.5)
    for k in range(steps + 6):
        stepper.next(x, x, zero, torch.ones_like(x))
        if k and stepper.since == 0:
            found.append(k)
    assert found[: len(expected)] == expected


def sizes(values, steps=50, before=0.0):
    """The step size, in radii, after each of some losses that an image has, the start's first."""
    stepper, x = AdaptiveStep(Threat(0.1), steps, before), torch.full((1, 1, 2, 2), 0.5)
    found = []
    for value in values:
        stepper.next(x, x, torch.tensor([float(value)]), torch.ones_like(x))
        found.append(stepper.state["size"].item() / 0.1)
    return found


@pytest.mark.parametrize("values, expected", [
    ([10, *range(1, 12)], 2),  # rises 11 times, though not to where it was: that is no reason yet
    ([10, *range(1, 9), 8, 8, 8], 1),  # rises 8 times, which is no more than 0.75 · 11
    ([10, *range(1, 10), 9, 9], 2),  # 9 times is
    ([0, *range(1, 12), *range(1, 11)], 1),  # rises 9 times of 10, but nothing is better: stuck
    ([0, *range(1, 12), *range(3, 13)], 2),  # the last one is better
    ([5, *[4] * 11, *range(-6, 4)], 1),  # stuck right behind a halving: the step stays
])  # fmt: skip
def test_what_halves_the_step(values, expected):
    assert sizes(values)[-1] == pytest.approx(expected)
