"""Signs of masked gradients: told where gradients are masked, not told of honest networks."""

import re
import time

import pytest
import torch
from torch import nn

from conftest import REPOSITORY
from robust_stitching import checkpoints
from robust_stitching.attacks import Threat
from robust_stitching.basics.progress import silent
from robust_stitching.evaluation import robustness as evaluation
from robust_stitching.evaluation.doubts import doubts
from robust_stitching.evaluation.robustness import WORST, Robustness, robustness, suite
from sure_networks import Altered, Linear, Reversed, planted, rounded, rows, with_nan

ARCHIVE = sorted((REPOSITORY / "archive").glob("*/Digits/*/model.pt"))
THREAT = Threat(0.1)


@pytest.fixture(scope="module")
def lenet():
    return checkpoints.load(REPOSITORY / "archive/lenet/Digits/in0-gn0/model.pt").network


# Honest networks


@pytest.mark.parametrize("norm, epsilon", [
    ("linf", 8 / 255), ("linf", 0.1), ("linf", 0.3), ("l2", 0.5), ("l2", 2.0),
])  # fmt: skip
@pytest.mark.parametrize("path", ARCHIVE, ids=[f"{p.parts[-4]}-{p.parts[-2]}" for p in ARCHIVE])
def test_nothing_is_said_of_an_honest_network(path, norm, epsilon, digits):
    """Standard, TRADES and Madry, at radii where nearly all images survive or none does."""
    network = checkpoints.load(path).network
    few = digits[1].sample(40 if "resnet" in str(path) else 100)
    found = robustness(network, few, suite("gradient", Threat(epsilon, norm), 10))
    assert found.warnings == []


@pytest.mark.parametrize("name", ["in0-gn0", "in0-gn0-madry-eps0.3", "in0-gn0-trades-eps0.3"])
def test_nothing_is_said_behind_the_default_tier(name, digits):
    network = checkpoints.load(REPOSITORY / "archive/lenet/Digits" / name / "model.pt").network
    found = robustness(network, digits[1].sample(60), suite("default", Threat(0.3), 10))
    assert found.warnings == []


# Networks that hide their gradients


class Noise(Reversed):
    @staticmethod
    def backward(ctx, gradient):
        return torch.randn(gradient.shape)


def without_an_answer(network, x):
    return network(x) / (x.mean(dim=(1, 2, 3)) > 0.28).float()[:, None]


MASKED = {  # name to (change, what one of the sentences has to contain)
    "NaN gradients": (with_nan, r"became NaN or infinite in attacks on \d\d of \d\d images"),
    "no answer": (without_an_answer, r"\d\d of 60 images have answers that are NaN"),
    "rounded input": (lambda net, x: net(rounded(x, 3)), r"zero at (\d\d) of \1 images"),
    "rounded logits": (lambda net, x: rounded(net(x), 2), r"zero at (\d\d) of \1 images"),
    "classes alone": (
        lambda net, x: nn.functional.one_hot(net(x).argmax(dim=1), 10).float(), "zero at",
    ),
    "random answers": (
        lambda net, x: 9 * net(x).detach() + torch.randn(len(x), 10), "differently each",
    ),
    "a leak of gradient": (
        lambda net, x: net(rounded(x, 2)) + 1e-6 * net(x),
        r"changes the loss [\d.e+]+ times as much",
    ),
    "misleading leak": (lambda net, x: net(rounded(x, 2)) - 1e-3 * net(x), "not the slope"),
    "reversed": (lambda net, x: net(Reversed.apply(x)), "changes the loss -0.9"),
    "noise for a gradient": (lambda net, x: net(Noise.apply(x)), "not the slope of the loss"),
    "waves": (lambda net, x: net(x + 0.02 * torch.sin(400 * x)), "not the slope of the loss"),
    "noise on images": (lambda net, x: net(x + 0.1 * torch.randn_like(x)), "differently each"),
    "noise on logits": (lambda net, x: net(x) + 2 * torch.randn_like(net(x)), "differently each"),
    "rare noise": (
        lambda net, x: net(x) * (1 + (torch.rand(len(x), 1) < 0.2).float()), "differently each",
    ),
    "batches": (lambda net, x: net(x) - net(x).mean(dim=0), "depend on which others are shown"),
    "softmax": (lambda net, x: (10 * net(x)).softmax(dim=1), "zero at"),
    "soft softmax": (lambda net, x: (2 * net(x)).softmax(dim=1), "not the slope of the loss"),
    "tiny logits": (lambda net, x: net(x) / 1000, "logits of wrong classes lie only 0.00"),
}  # fmt: skip


@pytest.mark.parametrize("norm, epsilon", [("linf", 0.1), ("l2", 2.0)])
@pytest.mark.parametrize("name", MASKED)
def test_masked_gradients_are_told(name, norm, epsilon, lenet, digits):
    change, told = MASKED[name]
    threat = Threat(epsilon, norm)
    if name == "waves" and norm == "l2":
        threat = Threat(4.0, norm)  # below, the steps of the check are as fine as the waves
    found = robustness(Altered(lenet, change), digits[1].sample(60), suite("quick", threat, 10))
    assert any(re.search(told, warning) for warning in found.warnings)
    for warning in found.warnings:
        assert warning.endswith(".") and ". " not in warning and "nan" not in warning


def test_every_image_in_reach_is_told(lenet, digits):
    """Where nothing else looks suspicious, a radius that allows every image shows it."""
    found = robustness(
        Altered(lenet, lambda net, x: net(Reversed.apply(x))),
        *(digits[1].sample(60), suite("quick", THREAT, 10)),
    )
    assert any("leaves 8 of 8 checked images even where every" in w for w in found.warnings)


def test_what_float32_loses_is_told(lenet, digits):
    """Probabilities in place of logits: where they round to 1, only float64 has a gradient."""
    network = Altered(lenet, lambda net, x: net(x).softmax(dim=1))
    found = robustness(network, digits[1].sample(120), suite("quick", THREAT, 10))
    (told,) = [warning for warning in found.warnings if "float64" in warning]
    assert re.search(r"PGD-10 computed in float64 fools [3-8] of 8 checked images", told)


def test_random_search_that_beats_gradients_is_told(lenet, digits):
    network = Altered(lenet, lambda net, x: net(rounded(x, 3)))
    found = robustness(network, digits[1].sample(60), suite("default", THREAT, 10))
    (told,) = [warning for warning in found.warnings if "Square" in warning]
    count = int((found.steps["Square"] >= 0).sum())
    assert f"fooled {count} answers that every attack with gradients had left" in told
    assert found.accuracies()[WORST] < found.accuracies()["PGD-20"] - 0.2


# What the attacks themselves show


def known(steps, split, attacks):
    """As if attacks had fooled, at some step, the first so many images."""
    found = Robustness.begin(split, attacks)
    found.right[:], found.done = True, len(split)
    for name, (n, step) in steps.items():
        found.steps[name][:n] = step
    return found


def said(steps, tier="quick", **options):
    split, attacks = rows(n=100), suite(tier, THREAT, 4, **options)
    found = known(steps, split, attacks)
    return list(doubts(Linear(), Linear(), split, attacks, found, seed=0, progress=silent))


@pytest.mark.parametrize("steps, told", [
    ({"FGSM": (50, 1), "PGD-20": (46, 9)}, "one step (FGSM, 50.00%) is a stronger attack"),
    ({"FGSM": (50, 1), "PGD-20": (48, 9)}, None),  # two images are chance
    ({"FGSM": (40, 1), "PGD-20": (50, 9)}, None),
    ({"FGSM": (30, 1), "PGD-20": (40, 1)}, "PGD-20 fooled 40 answers, 40 of them by its"),
    ({"FGSM": (30, 1), "PGD-20": (40, 2)}, None),
    ({"FGSM": (100, 1), "PGD-20": (100, 1)}, None),  # all are fooled: more steps have no use
])  # fmt: skip
def test_one_step_against_many(steps, told):
    found = said(steps)
    assert [told in sentence for sentence in found] == ([True] if told else [])


def test_a_step_that_cannot_reach_is_not_blamed_on_the_gradient():
    steps = {"FGSM": (50, 1), "PGD-20": (20, 1)}
    assert len(said(steps)) == 2
    assert said(steps, step_size=0.001) == []


@pytest.mark.parametrize("dlr, told", [(55, True), (54, False), (40, False)])
def test_logits_against_cross_entropy(dlr, told):
    others = {"FGSM": (30, 1), "PGD-20": (50, 5), "APGD-CE": (49, 5)}
    found = said(others | {"APGD-DLR": (dlr, 5)}, "gradient")
    assert [f"APGD-DLR, {100 - dlr}.00%" in sentence for sentence in found] == [True] * told


def test_a_network_that_is_never_right_raises_no_doubts():
    split, attacks = rows(), suite("quick", THREAT, 4)
    found = Robustness.begin(split, attacks)
    found.done = len(split)
    assert list(doubts(Linear(), Linear(), split, attacks, found, seed=0, progress=silent)) == []


def test_a_network_that_cannot_be_doubled_is_looked_at_all_the_same():
    class Single(Linear):
        def forward(self, x):
            return super().forward(x) @ torch.eye(4)  # never float64

    assert robustness(Single(), rows(), suite("quick", Threat(0.01), 4)).warnings == []


def test_the_checks_are_cheap(lenet, digits, monkeypatch):
    """A few percent of a run with many survivors (3% here), and counted in passes, too."""
    spent = []

    def timed(*args, **options):
        started = time.process_time()
        found = list(doubts(*args, **options))
        spent.append(time.process_time() - started)
        return found

    monkeypatch.setattr(evaluation, "doubts", timed)
    started = time.process_time()
    robustness(lenet, digits[1], suite("gradient", Threat(8 / 255), 10), keep_images=False)
    assert spent[0] < 0.1 * (time.process_time() - started)


def test_planted_attacks_are_no_suite_of_gradients():
    """Attacks of a user's own, of whatever names, raise no doubts by their names."""
    attacks = suite("quick", THREAT, 4)
    attacks = type(attacks)(THREAT, "own", {"mine": planted(range(5))}, {})
    assert robustness(Linear(), rows(), attacks).warnings == []
