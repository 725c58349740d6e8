"""Attacks against their laws and formulas written in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from conftest import REPOSITORY
from robust_stitching import checkpoints
from robust_stitching.attacks import Threat, apgd, apgd_targeted, fgsm, losses, pgd, square
from robust_stitching.attacks.apgd import AdaptiveStep
from robust_stitching.attacks.loop import Attacked
from robust_stitching.attacks.pgd import FixedStep, worst_images
from robust_stitching.basics.seeds import generator_for

STEPS = 6


def _pgd(network, x, y, threat, generator):
    size = threat.epsilon / 2
    return pgd(network, x, y, threat, steps=STEPS, step_size=size, generator=generator)


def _apgd(loss):
    def attack(network, x, y, threat, generator):
        return apgd(network, x, y, threat, steps=STEPS, generator=generator, loss=loss)

    return attack


def _square(network, x, y, threat, generator):
    return square(network, x, y, threat, queries=STEPS + 1, generator=generator)


def _targeted(network, x, y, threat, generator):
    return apgd_targeted(network, x, y, threat, steps=STEPS, generator=generator, targets=3)


ATTACKS = {
    "fgsm": lambda network, x, y, threat, generator: fgsm(network, x, y, threat),
    "pgd": _pgd,
    "apgd-ce": _apgd(losses.cross_entropy),
    "apgd-dlr": _apgd(losses.dlr),
    "apgd-targeted": _targeted,
    "square": _square,
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
both_norms = pytest.mark.parametrize("norm", ["linf", "l2"])


def archived(model, seed=0):
    path = REPOSITORY / "archive" / model / "Digits" / f"in{seed}-gn{seed}" / "model.pt"
    return checkpoints.load(path).network


@pytest.fixture(scope="module")
def batch(digits):
    return next(digits[1].sample(60).batches(60))


def small_images(n=20, low=0.0, high=1.0):
    return torch.rand(n, 1, 6, 6, generator=generator_for(1)).double() * (high - low) + low


def linear(classes):
    """Its logits are weight @ pixels + bias."""
    generator = generator_for(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, classes)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


# The threat


@pytest.mark.parametrize("epsilon, norm", [(0, "linf"), (-1, "l2"), (np.nan, "l2"), (0.1, "l1")])
def test_a_threat_that_is_none(epsilon, norm):
    with pytest.raises(ValueError, match="must be"):
        Threat(epsilon, norm)


@both_norms
@pytest.mark.parametrize("epsilon", [0.03, 0.1, 0.3, 2.5])
@every_attack
def test_images_stay_in_the_ball(attack, epsilon, norm, batch):
    x, y = batch
    network = archived("lenet")
    found = attack(network, x, y, Threat(epsilon, norm), generator_for(0))
    change = (found.images.double() - x.double()).flatten(1)
    order = {"linf": torch.inf, "l2": 2}[norm]
    assert torch.linalg.vector_norm(change, order, dim=1).max() <= epsilon + 1e-6
    assert found.images.min() >= 0 and found.images.max() <= 1
    with torch.no_grad():
        wrong = network(found.images).argmax(dim=1) != y
    assert torch.equal(found.fooled, wrong)
    assert torch.equal(found.fooled, found.step >= 0)
    assert found.step.min() >= -1 and found.step.max() <= STEPS


@both_norms
def test_random_starts(norm):
    images = torch.full((2000, 1, 2, 2), 0.5).double()
    threat = Threat(0.2, norm)
    inside = threat.uniform_start(images, generator_for(0))
    share = (threat.distance(inside, images) / 0.2).pow(4)  # the ball has four dimensions
    assert share.max() <= 1 + 1e-9
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert (inside - images).mean().abs() < 0.01
    edge = threat.boundary_start(images, generator_for(0))
    torch.testing.assert_close(threat.distance(edge, images), torch.full((2000,), 0.2).double())


# Without a trace


class Broken(Exception):
    pass


def traces(network, x, y):
    return (
        [module.training for module in network.modules()],
        [parameter.requires_grad for parameter in network.parameters()],
        [parameter.grad for parameter in network.parameters()],
        [value.numpy().tobytes() for value in network.state_dict().values()],
        torch.get_rng_state().numpy().tobytes(),
        (x.numpy().tobytes(), y.numpy().tobytes(), x.requires_grad),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("raises_at", [None, 1, 2])
@every_attack
def test_an_attack_leaves_no_trace(attack, raises_at, batch):
    x, y = (part[:12] for part in batch)
    network, threat = archived("tiny10"), Threat(0.1)
    expected = attack(network, x, y, threat, generator_for(0))
    network.train()
    network.bn3.eval()
    network.conv2.requires_grad_(False)
    before, calls = traces(network, x, y), []

    def count(*_):
        calls.append(1)
        if len(calls) == raises_at:
            raise Broken

    handle = network.fc.register_forward_hook(count)
    if raises_at:
        with pytest.raises(Broken):
            attack(network, x, y, threat, generator_for(0))
    else:
        found = attack(network, x, y, threat, generator_for(0))
        assert torch.equal(found.images, expected.images)  # attacked in evaluation mode
    handle.remove()
    assert traces(network, x, y) == before


@every_attack
def test_the_generator_decides(attack, batch):
    x, y = (part[:12] for part in batch)
    network = archived("lenet")
    one = attack(network, x, y, Threat(0.1), generator_for(0)).images
    torch.rand(7)
    assert torch.equal(one, attack(network, x, y, Threat(0.1), generator_for(0)).images)
    other = attack(network, x, y, Threat(0.1), generator_for(1)).images
    assert torch.equal(one, other) is (attack is ATTACKS["fgsm"])


# Dropping what is fooled


def to_the_end(network, images, labels, loss, stepper, start, steps):
    """Every image attacked to the last step; the first iterate that fools is kept."""
    found, x, step = images.clone(), start, torch.full_like(labels, -1)
    for i in range(steps + 1):
        x = x.detach().requires_grad_()
        logits = network(x)
        value = loss(logits, labels, None)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        x, value = x.detach(), value.detach()
        new = (logits.argmax(dim=1) != labels) & (step < 0)
        found[new], step[new] = x[new], i
        if i < steps:
            x = stepper.next(x, images, value, gradient)
    left = step < 0
    found[left] = stepper.last(x, value)[left]
    return found, step


@both_norms
@pytest.mark.parametrize("kind", ["pgd", "apgd-ce", "apgd-dlr"])
def test_dropping_images_changes_nothing(kind, norm, batch):
    x, y = batch[0].double(), batch[1]
    network = archived("lenet").double()
    threat = Threat({"linf": 0.1, "l2": 1.0}[norm], norm)
    steps, generator = 20, generator_for(0)
    if kind == "pgd":
        loss, stepper, size = losses.cross_entropy, FixedStep(threat, 0.2 * threat.epsilon), 0.2
        found = pgd(
            *(network, x, y, threat),
            steps=steps,
            step_size=size * threat.epsilon,
            generator=generator,
        )
        start = threat.uniform_start(x, generator_for(0))
    else:
        loss = losses.dlr if kind == "apgd-dlr" else losses.cross_entropy
        stepper = AdaptiveStep(threat, steps, losses.at_zero(loss))
        found = apgd(network, x, y, threat, steps=steps, generator=generator, loss=loss)
        start = threat.boundary_start(x, generator_for(0))
    images, step = to_the_end(network, x, y, loss, stepper, start, steps)
    assert len(step.unique()) > 3  # images leave at several steps, some never
    assert torch.equal(found.step, step)
    torch.testing.assert_close(found.images, images, atol=1e-9, rtol=0)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.dlr])
def test_apgd_returns_the_best_iterate(loss, batch):
    network, threat = archived("lenet").double(), Threat(0.05)

    def attack(x, y, start):
        return apgd(network, x, y, threat, steps=9, generator=None, loss=loss, start=start)

    every = (
        batch[0].double(),
        batch[1],
        threat.boundary_start(batch[0].double(), generator_for(0)),
    )
    left = ~attack(*every).fooled
    x, y, start = (part[left] for part in every)
    iterates = []
    network.register_forward_pre_hook(lambda module, given: iterates.append(given[0].detach()))
    found = attack(x, y, start)
    losses_seen = torch.stack([loss(network(iterate), y) for iterate in iterates[:10]])
    assert len(y) > 20
    torch.testing.assert_close(loss(network(found.images), y), losses_seen.amax(dim=0))


# Linear networks, where everything is known


def numpy_gradient(network, x, y):
    """Of the cross-entropy of softmax(Wx + b) with respect to the pixels."""
    weight, bias = (p.detach().numpy() for p in network.parameters())
    logits = x.reshape(len(x), -1) @ weight.T + bias
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p[np.arange(len(x)), y] -= 1
    return (p @ weight).reshape(x.shape)


def numpy_step(x, images, gradient, size, epsilon, norm):
    if norm == "linf":
        x = np.clip(x + size * np.sign(gradient), images - epsilon, images + epsilon)
        return np.clip(x, 0, 1)
    length = np.sqrt((gradient**2).sum(axis=(1, 2, 3), keepdims=True))
    change = x + size * gradient / length - images
    length = np.sqrt((change**2).sum(axis=(1, 2, 3), keepdims=True))
    return np.clip(images + change * np.minimum(1, epsilon / length), 0, 1)


@both_norms
def test_fgsm_is_the_closed_form(norm):
    network, x = linear(4), small_images()
    y = network(x).argmax(dim=1)  # right as they are
    found = fgsm(network, x, y, Threat(0.2, norm)).images
    images = x.numpy()
    expected = numpy_step(images, images, numpy_gradient(network, images, y), 0.2, 0.2, norm)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@both_norms
def test_pgd_is_the_plain_loop(norm):
    network, x = linear(4), small_images()
    y = torch.arange(20) % 4
    threat = Threat(0.3, norm)
    start = threat.uniform_start(x, generator_for(3))
    found = worst_images(network, x, y, threat, start=start, steps=5, step_size=0.13)
    images, iterate = x.numpy(), start.numpy()
    for _ in range(5):
        gradient = numpy_gradient(network, iterate, y)
        iterate = numpy_step(iterate, images, gradient, 0.13, 0.3, norm)
    np.testing.assert_allclose(found, iterate, atol=1e-9)


@both_norms
def test_pgd_reaches_the_optimum(norm):
    network, x = linear(2), small_images(low=0.3, high=0.7)
    with torch.no_grad():
        network[1].bias += torch.tensor([4.0, -4.0])  # nothing is fooled
    y = torch.zeros(20, dtype=torch.long)
    found = pgd(
        *(network, x, y, Threat(0.1, norm)), steps=100, step_size=0.03, generator=generator_for(0)
    )
    away = (network[1].weight[0] - network[1].weight[1]).detach().view(1, 1, 6, 6)
    direction = away.sign() if norm == "linf" else away / away.norm()
    assert not found.fooled.any()
    torch.testing.assert_close(found.images, x - 0.1 * direction, atol=1e-7, rtol=0)


@every_attack
def test_where_there_is_no_gradient(attack):
    class Constant(nn.Module):
        def forward(self, x):
            return 0 * x.flatten(1)[:, :4] + torch.tensor([1.0, 0.5, 0.2, 0.1])

    x, y = small_images(), torch.zeros(20, dtype=torch.long)
    found = attack(Constant(), x, y, Threat(0.1), generator_for(0))
    assert found.no_gradient.all() == (attack is not ATTACKS["square"])  # which asks for none
    network = linear(4)
    y = network(x).argmax(dim=1)
    assert not attack(network, x, y, Threat(0.001), generator_for(0)).no_gradient.any()


# Numbers that are not finite


class Holes(nn.Module):
    """A linear network whose gradient is NaN at black pixels."""

    def __init__(self):
        super().__init__()
        self.inner = linear(4)

    def forward(self, x):
        return self.inner(x) + (0 * x.sqrt()).flatten(1).sum(1, keepdim=True)


class Gaps(Holes):
    """One that gives one logit as NaN, for images with black pixels."""

    def forward(self, x):
        z = self.inner(x)
        return torch.cat([z[:, :3], z[:, 3:] + (0 * x.log()).flatten(1).sum(1, keepdim=True)], 1)


@both_norms
@every_attack
@pytest.mark.parametrize("make", [Holes, Gaps])
def test_only_finite_images_and_logits_fool(make, attack, norm):
    """Where pixels get black, numbers get lost; what is found still has to be an image and a wrong
    answer to it."""
    network, x = make(), small_images(n=40)
    x[:20] *= x[:20] > 0.3
    y = network.inner(x).argmax(dim=1)
    found = attack(network, x, y, Threat({"linf": 0.15, "l2": 1.2}[norm], norm), generator_for(0))
    assert found.images.isfinite().all()
    with torch.no_grad():
        logits = network(found.images)
    wrong = (logits.argmax(dim=1) != y) & logits.isfinite().all(dim=1)
    assert torch.equal(found.fooled, wrong)
    assert wrong[20:].any() or make is Gaps
    blind = attack is ATTACKS["square"] and make is Holes  # it looks at no gradient
    assert found.not_finite[:20].all() != blind
    assert found.fooled[:20].any() or make is Gaps  # their other pixels lead somewhere


@both_norms
@every_attack
def test_pixels_that_share_their_gradient(attack, norm):
    """Autograd gives the gradient of a plain sum as one number that all pixels of a channel see."""

    class Sum(nn.Module):
        def forward(self, x):
            return x.sum(dim=(2, 3))

    x = small_images().repeat(1, 4, 1, 1) * torch.tensor([1.1, 1.0, 0.9, 0.8]).view(4, 1, 1) / 1.1
    y = torch.zeros(20, dtype=torch.long)
    found = attack(Sum(), x, y, Threat({"linf": 0.2, "l2": 2}[norm], norm), generator_for(0))
    assert found.fooled.any() and not found.not_finite.any()


def test_a_gradient_is_zero_only_where_it_has_no_value():
    """The step is that of the network without holes at every pixel that is not black."""
    network, x = Holes(), small_images()
    x *= x > 0.3
    y = network.inner(x).argmax(dim=1)
    options = {"start": x, "steps": 1, "step_size": 0.1}
    found = worst_images(network, x, y, Threat(0.1), **options)
    plain = worst_images(network.inner, x, y, Threat(0.1), **options)
    assert torch.equal(found, torch.where(x > 0, plain, x))


@both_norms
@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1, 1e9, 1e30])
def test_the_size_of_a_gradient_does_not_matter(norm, scale):
    gradient = torch.randn(5, 1, 4, 4, generator=generator_for(3))
    found = Threat(0.1, norm).direction(gradient * scale)
    torch.testing.assert_close(found, Threat(0.1, norm).direction(gradient))
    assert not Threat(0.1, norm).direction(torch.zeros(2, 1, 4, 4)).any()


@pytest.mark.parametrize("epsilon", [1e39, 1e7, torch.inf])
def test_a_radius_that_no_float_holds(epsilon):
    with pytest.raises(ValueError, match="at most 1e6"):
        Threat(epsilon, "l2")


def test_what_became_of_images_on_the_cpu():
    """The same, of no images, too."""
    for n, labels in ((0, (0,)), (3, (3,)), (3, (3, 4)), (0, (0, 4))):
        images, answers = torch.rand(n, 1, 2, 2), torch.zeros(labels, dtype=torch.long)
        known = Attacked.nothing(images, answers)
        known = replace(known, fooled=answers == 0, no_gradient=known.no_gradient | True)
        for name, own in vars(known.cpu()).items():
            assert torch.equal(own, vars(known)[name]) and own.dtype == vars(known)[name].dtype
