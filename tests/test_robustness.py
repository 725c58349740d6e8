"""Robust accuracy: what is counted, how it is resumed, what is warned of."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robust_stitching import checkpoints
from robust_stitching.attacks import Threat
from robust_stitching.attacks.losses import cross_entropy
from robust_stitching.data import Split
from robust_stitching.data.split import generator_for
from robust_stitching.evaluation import evaluate
from robust_stitching.evaluation.robustness import WORST, Robustness, interval, robustness, suite
from robust_stitching.files import REPOSITORY
from robust_stitching.modes import evaluating
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
    attacks = suite("default", THREAT, 10, steps=5)
    return robustness(lenet, split, attacks, batch_size=25)


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


@pytest.mark.parametrize("accuracy, n", [(0.5, 40), (0.0, 200), (1.0, 200), (0.913, 1000)])
def test_the_interval_is_wilsons(accuracy, n):
    z, p = 1.959963984540054, round(accuracy * n) / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = max(0, centre - half), min(1, centre + half)
    assert interval(accuracy, n) == pytest.approx(expected, abs=1e-12)


# Interruptions


class Stop(Exception):
    pass


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_an_interrupted_run_goes_on(batches, attacked, lenet, split, tmp_path):
    attacks = suite("default", THREAT, 10, steps=5)

    def stop(known):
        checkpoints.write(tmp_path / "kept.pt", known.state_dict())
        if known.done >= min(25 * batches, 60):
            raise Stop

    with pytest.raises(Stop):
        robustness(lenet, split, attacks, batch_size=25, after_batch=stop)
    known = Robustness(**checkpoints.read(tmp_path / "kept.pt"))
    assert known.done == min(25 * batches, 60)
    seen = []
    torch.rand(5)
    found = robustness(
        *(lenet, split, attacks),
        batch_size=25,
        known=known,
        after_batch=lambda known: seen.append(known.done),
    )
    assert seen == [50, 60][batches - 1 :]
    for name, expected in vars(attacked).items():
        torch.testing.assert_close(getattr(found, name), expected, atol=0, rtol=0)


def test_the_seed_decides(attacked, lenet, split):
    attacks = suite("default", THREAT, 10, steps=5)
    again = robustness(lenet, split, attacks, batch_size=25)
    other = robustness(lenet, split, attacks, batch_size=25, seed=1)
    assert torch.equal(again.images, attacked.images)
    assert not torch.equal(other.images, attacked.images)


# Warnings


class Linear(nn.Module):
    """Right on images of `classes` classes that shine in their own row."""

    input_shape = (1, 8, 8)

    def __init__(self, classes=4):
        super().__init__()
        self.classes = classes

    def logits(self, x):
        return x[:, 0, : self.classes].mean(dim=2)

    def forward(self, x):
        return self.logits(x)


class Flat(Linear):
    def forward(self, x):
        return self.logits((x > 0.5).float()) + 0 * self.logits(x)


class Random(Linear):
    def forward(self, x):
        return self.logits(F.dropout(x, 0.2, training=True))


class Lottery(Linear):
    """Without a gradient; one start in four within 0.2 of grey pixels (0.4) makes it answer 1."""

    def forward(self, x):
        nothing, drawn = 0 * x[:, 0, :1, 0], 2.0 * (x[:, 0, :1, 0] > 0.5)
        return torch.cat([nothing + 1, drawn, nothing, nothing], dim=1)


@pytest.mark.parametrize("tier", ["quick", "default"])
def test_restarts_only_help(tier):
    grey = torch.full((200, 1, 8, 8), 102, dtype=torch.uint8)
    images = Split("Grey", grey, torch.zeros(200, dtype=torch.long), tuple("abcd"))
    one, three = (
        robustness(Lottery(), images, suite(tier, Threat(0.2), 4, steps=2, restarts=n))
        for n in (1, 3)
    )
    for name in one.steps:
        assert (one.fooled(name) <= three.fooled(name)).all()
    for name in set(one.steps) - {"FGSM"}:
        for n, found in ((1, one), (3, three)):
            share = found.fooled(name).double().mean().item()
            assert share == pytest.approx(1 - 0.75**n, abs=0.12)


def rows(classes):
    labels = torch.arange(40) % classes
    images = torch.full((40, 1, 8, 8), 60, dtype=torch.uint8)
    images[torch.arange(40), 0, labels] = 200
    return Split("Rows", images, labels, tuple("abcd"[:classes]))


@pytest.mark.parametrize(
    "network, told", [(Linear(), None), (Flat(), "zero at 40 of 40"), (Random(), "differently")]
)
def test_masked_gradients_are_told(network, told):
    attacks = suite("quick", Threat(0.05), 4, steps=3)
    warnings = robustness(network, rows(4), attacks).warnings
    if told is None:
        assert warnings == []
    else:
        assert any(told in warning for warning in warnings)


@pytest.mark.parametrize("one, many, told", [(1, -1, True), (-1, 1, False), (1, 1, False)])
def test_one_step_that_beats_many_is_told(one, many, told):
    attacks, images = suite("quick", THREAT, 4), rows(4)
    known = Robustness.begin(images, attacks)
    known.right[:], known.done = True, 40
    known.steps["FGSM"][:], known.steps["PGD-20"][:] = one, many
    warnings = robustness(Linear(), images, attacks, known=known).warnings
    assert any("FGSM" in warning for warning in warnings) is told
    assert len(warnings) == told


def test_two_classes_leave_dlr_out():
    two, three = (suite("default", THREAT, classes) for classes in (2, 3))
    assert "APGD-DLR" not in two.attacks and "APGD-DLR" in three.attacks
    assert three.notes == ()
    assert "APGD-DLR" in two.notes[0] and "2" in two.notes[0]
    found = measure_attacks({"end": Linear(2)}, rows(2), THREAT, seed=0)
    assert list(found.robust["end"]) == ["FGSM", "PGD-20", "APGD-CE", WORST]
    assert two.notes[0] in found.warnings


# In a stitching run


def plain_pgd(network, x, labels, threat, generator):
    """The images after twenty steps, none of which is left out."""
    start = x + threat.epsilon * (2 * torch.rand(x.shape, generator=generator) - 1)
    moved = start.clamp(0, 1)
    for _ in range(20):
        moved = moved.detach().requires_grad_()
        loss = cross_entropy(network(moved), labels).sum()
        (gradient,) = torch.autograd.grad(loss, moved)
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
    assert list(found.transfer) == ["front", "end", "stitched"]
    for name, accuracies in found.robust.items():
        assert list(accuracies) == ["FGSM", "PGD-20", "APGD-CE", "APGD-DLR", WORST]
        assert accuracies[WORST] <= min(accuracies.values())
        assert max(accuracies.values()) <= evaluate(networks[name], few).accuracy
    assert found.robust["end"] == found.robust["untrained"]
    x = pixels(few)
    for source, accuracies in found.transfer.items():
        assert list(accuracies) == list(networks)
        assert accuracies[source] <= evaluate(networks[source], few).accuracy
        moved = plain_pgd(networks[source], x, few.labels, THREAT, generator_for(3))
        for name, network in networks.items():
            expected = (answers(network, moved) == few.labels).double().mean().item()
            assert accuracies[name] == pytest.approx(expected, abs=1.5 / 40)  # rounding of signs


@pytest.mark.slow
@pytest.mark.parametrize("norm, epsilon", [("linf", 0.1), ("l2", 1.0)])
def test_autoattack_is_the_published_one(norm, epsilon, digits):
    """The authors' own call on the same images leaves as many of them; ours is no stronger."""
    autoattack = pytest.importorskip("pyautoattack")
    network = checkpoints.load(REPOSITORY / "archive/lenet/Digits/in0-gn0-trades-eps0.3/model.pt")
    few = digits[1].sample(40)
    threat = Threat(epsilon, norm)
    found = robustness(network.network, few, suite("standard", threat, 10))
    images, labels = next(few.batches(40))
    network.network.requires_grad_(False)
    theirs = autoattack.AutoAttack(
        network.network, norm={"linf": "Linf", "l2": "L2"}[norm], eps=epsilon, seed=0
    )
    _, answers = theirs.run_standard_evaluation(images.contiguous(), labels, batch_size=40)
    left = (answers == labels).double().mean().item()
    assert found.accuracies()["AutoAttack"] == pytest.approx(left, abs=1 / 40)
    assert 0 < left < found.clean_accuracy()
    default = robustness(network.network, few, suite("default", threat, 10))
    assert found.accuracies()[WORST] <= default.accuracies()[WORST] + 1 / 40


def test_autoattack_runs(digits, monkeypatch):
    """The published package, with few queries and steps, through our suite."""
    autoattack = pytest.importorskip("pyautoattack")
    make = autoattack.AutoAttack.__init__

    def short(self, *args, **options):
        make(self, *args, **options)
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = 3
        self.square.n_queries = 10

    monkeypatch.setattr(autoattack.AutoAttack, "__init__", short)
    network = checkpoints.load(REPOSITORY / "archive/lenet/Digits/in0-gn0/model.pt").network
    few = digits[1].sample(20)
    found = robustness(network, few, suite("standard", Threat(0.1), 10))
    assert list(found.accuracies()) == ["AutoAttack", WORST]
    moved = (found.images - next(few.batches(20))[0]).abs().amax(dim=(1, 2, 3))
    fooled = found.steps["AutoAttack"] >= 0
    assert fooled.any() and (moved[fooled] > 0).all() and (moved <= 0.1 + 1e-6).all()
    with evaluating(network):
        right = network(found.images).argmax(dim=1) == found.labels
    assert torch.equal(right, ~found.fooled(WORST))
