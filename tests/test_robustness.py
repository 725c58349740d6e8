"""Robust accuracy: what is counted, how it is resumed, what is warned of."""

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest

from conftest import REPOSITORY
from in_float64 import InFloat64
from robust_stitching import checkpoints
from robust_stitching.attacks import Threat
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.seeds import generator_for
from robust_stitching.evaluation import evaluate
from robust_stitching.evaluation.intervals import wilson
from robust_stitching.evaluation.robustness import WORST, Robustness, robustness, suite
from robust_stitching.stitching.attack_scores import measure_attacks

ARCHIVE = sorted((REPOSITORY / "archive").glob("*/Digits/*/model.pt"))
THREAT = Threat(0.1)


@pytest.fixture(scope="module")
def lenet():
    return checkpoints.load(REPOSITORY / "archive/lenet/Digits/in0-gn0/model.pt").network


@pytest.fixture(scope="module")
def split(digits):
    """60 images, some with a wrong label: mistakes without any attack."""
    found = digits[1].sample(60)
    found.labels[:7] = (found.labels[:7] + 1) % 10
    return found


@pytest.fixture(scope="module")
def attacked(lenet, split):
    return robustness(lenet, split, suite("gradient", THREAT, 10, steps=5), batch_size=25)


def pixels(split):
    return split.images.float() / 255


def answers(network, images):
    with torch.no_grad():
        return network.eval()(images).argmax(dim=1)


def test_the_worst_case_is_that_of_each_image(attacked, lenet, split):
    right = answers(lenet, pixels(split)) == split.labels
    assert (~right).sum() >= 7
    assert torch.equal(attacked.right, right)
    survives = right.clone()
    for name, steps in attacked.steps.items():
        assert (steps[~right] == -1).all()  # nobody attacks what is wrong already
        robust = right & (steps == -1)
        assert attacked.accuracies()[name] == pytest.approx(robust.double().mean().item())
        survives &= robust
    assert list(attacked.accuracies()) == ["FGSM", "PGD-5", "APGD-CE", "APGD-DLR", WORST]
    assert attacked.cumulative == ()
    assert attacked.accuracies()[WORST] == pytest.approx(survives.double().mean().item())
    assert torch.equal(attacked.fooled(WORST), ~survives)
    assert 0 < survives.sum() < right.sum()


def test_the_images_that_are_kept(attacked, lenet, split):
    change = (attacked.images - pixels(split)).flatten(1).abs().amax(dim=1)
    found = attacked.right & attacked.fooled(WORST)
    assert torch.equal(change > 0, found)
    assert change.max() <= THREAT.epsilon + 1e-6
    assert (answers(lenet, attacked.images)[found] != split.labels[found]).all()


@pytest.mark.parametrize("path", ARCHIVE, ids=[f"{p.parts[-4]}-{p.parts[-2]}" for p in ARCHIVE])
def test_stronger_attacks_fool_more(path, digits):
    network, few = checkpoints.load(path).network, digits[1].sample(80)
    for epsilon in (0.03, 0.1):
        attacks = suite("quick", Threat(epsilon), 10, steps=10)
        found = robustness(network, few, attacks)
        one, many, worst = found.accuracies().values()
        assert evaluate(network, few).accuracy >= one >= many >= worst
        assert found.warnings == []
    assert many < evaluate(network, few).accuracy


@pytest.mark.parametrize("n", [1, 7, 40, 360, 10_000])
def test_the_interval_is_wilsons(n):
    """To the last digit of scipy's."""
    for right in {0, 1, n // 3, n // 2, n - 1, n}:
        found = binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert wilson(right / n, n) == (found.low, found.high)


def test_the_seed_decides(attacked, lenet, split):
    attacks = suite("gradient", THREAT, 10, steps=5)
    again = robustness(lenet, split, attacks, batch_size=25)
    other = robustness(lenet, split, attacks, batch_size=25, seed=1)
    assert torch.equal(again.images, attacked.images)
    assert not torch.equal(other.images, attacked.images)


@pytest.mark.parametrize("batches", [1, 2])
def test_what_is_known_is_gone_on_with(batches, attacked, lenet, split):
    attacks, parts = suite("gradient", THREAT, 10, steps=5), []
    robustness(lenet, split, attacks, batch_size=25, after_batch=parts.append)
    assert [part.start for part in parts] == [0, 25, 50]
    known = Robustness.begin(split, attacks)
    for part in parts[:batches]:
        known.add(part)
    seen = []
    torch.rand(5)
    found = robustness(
        *(lenet, split, attacks), batch_size=25, known=known, after_batch=seen.append
    )
    assert [part.start for part in seen] == [25, 50][batches - 1 :]
    for name, expected in vars(attacked).items():
        torch.testing.assert_close(getattr(found, name), expected, atol=0, rtol=0)


def test_a_split_without_images_is_refused(lenet, split):
    with pytest.raises(UserError, match="no image of Digits"):
        robustness(lenet, split.between(0, 0), suite("quick", THREAT, 10))


# In a stitching run


def plain_pgd(network, x, labels, threat, start):
    """The images after twenty steps, none of which is left out; float64 turns no sign."""
    moved = start.clamp(0, 1)
    for _ in range(20):
        moved = moved.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(moved), labels), moved)
        moved = moved.detach() + 2.5 * threat.epsilon / 20 * gradient.sign()
        moved = torch.minimum(torch.maximum(moved, x - threat.epsilon), x + threat.epsilon)
        moved = moved.clamp(0, 1)
    return moved


def test_robust_and_transfer_tables(lenets, digits):
    front, end = (checkpoints.load(path).network for path in lenets)
    middle = checkpoints.load(ARCHIVE[0]).network
    networks = {
        "front": front,
        "end": end,
        "untrained": end,
        "stitched": middle,
        "direct_matching": front,
    }
    few = digits[1].sample(40)
    found = measure_attacks(networks, few, THREAT, seed=3)
    assert found.n_images == 40
    assert list(found.robust) == list(networks)
    assert (found.tier, found.cumulative) == ("gradient", ())
    assert list(found.transfer) == ["front", "end", "stitched"]
    for name, accuracies in found.robust.items():
        assert list(accuracies) == ["FGSM", "PGD-20", "APGD-CE", "APGD-DLR", WORST]
        assert accuracies[WORST] <= min(accuracies.values())
        assert max(accuracies.values()) <= evaluate(networks[name], few).accuracy
    assert found.robust["end"] == found.robust["untrained"]
    for source, accuracies in found.transfer.items():
        assert list(accuracies) == list(networks)
        assert accuracies[source] <= evaluate(networks[source], few).accuracy


def test_transfer_is_that_of_plain_pgd(lenets, digits):
    """To the image, in float64, from starts drawn for blocks of 250 images; the second block has
    starts of its own, and nobody shares them."""
    names = ("front", "end")
    networks = {
        name: checkpoints.load(path).network.double()
        for name, path in zip(names, lenets, strict=True)
    }
    split = digits[1].between(0, 260)
    threat = Threat(0.03)
    found = measure_attacks(networks, InFloat64(split), threat, seed=3, tier="quick")
    x = split.images.double() / 255
    noise = [torch.rand(250, 1, 32, 32, generator=generator_for(3, "transfer", b)) for b in (0, 1)]
    start = x + 0.03 * (2 * torch.cat(noise)[:260].double() - 1)
    for source in names:
        moved = plain_pgd(networks[source], x, split.labels, threat, start)
        for name, network in networks.items():
            expected = (answers(network, moved) == split.labels).double().mean().item()
            assert found.transfer[source][name] == pytest.approx(expected, abs=1e-9)
            assert 0 < expected < 0.9
