"""Labels that are attributes: losses, answers, attacks and trainings against plain formulas."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robust_stitching import checkpoints, models
from robust_stitching.attacks import Threat, apgd, draws_at, fgsm, pgd
from robust_stitching.attacks.losses import divergence
from robust_stitching.attacks.pgd import worst_images
from robust_stitching.basics import labels
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.seeds import generator_for
from robust_stitching.evaluation import accuracy_of, evaluate, suites
from robust_stitching.evaluation.kept import attack_and_keep
from robust_stitching.evaluation.record import record_under_attack as as_record
from robust_stitching.evaluation.robustness import WORST, robustness, suite
from robust_stitching.plans import Adversary, Optimisation, stitching
from robust_stitching.report.attack import as_text
from robust_stitching.similarity import compare_outputs
from robust_stitching.stitching.attack_scores import measure_attacks
from robust_stitching.stitching.run import stitch
from robust_stitching.training import Trainer, standard
from robust_stitching.training.adversarial import Attacking

NAMES = ("even", "at least five", "prime", "has a loop")
HOLDS = [{0, 2, 4, 6, 8}, {5, 6, 7, 8, 9}, {2, 3, 5, 7}, {0, 6, 8, 9}]
OF_DIGIT = torch.tensor([[int(d in holds) for holds in HOLDS] for d in range(10)])
THREAT = Threat(0.1)


def with_attributes(split):
    return replace(split, labels=OF_DIGIT[split.labels], classes=NAMES)


@pytest.fixture(scope="module")
def splits(digits):
    """Digits that are not told by their name, but by four things that hold of them or not."""
    return tuple(with_attributes(split) for split in digits)


@pytest.fixture(scope="module")
def trained(splits):
    network = models.build("lenet", num_classes=4, in_channels=1, mean=[0.3], std=[0.3])
    config = Optimisation(epochs=8, lr=0.1, batch_size=32, clip_norm=1)
    history = Trainer(network, standard, splits[0], config).run()
    return network.eval(), history


@pytest.fixture(scope="module")
def few(splits):
    return splits[1].sample(40)


def bernoulli(logits, truth):
    """−log p(truth) of every attribute, in float64."""
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    return -np.log(np.where(np.asarray(truth) == 1, p, 1 - p))


def random_answers(n=30, attributes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, attributes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 2, (n, attributes), generator=generator)


# Formulas


def test_the_loss_is_the_mean_binary_cross_entropy():
    logits, truth = random_answers()
    expected = bernoulli(logits, truth)
    assert labels.loss_of(logits, truth).item() == pytest.approx(expected.mean(), abs=1e-12)
    np.testing.assert_allclose(labels.losses_of(logits, truth), expected.mean(axis=1), atol=1e-12)


def test_an_attribute_holds_where_its_probability_is_above_a_half():
    logits, truth = random_answers()
    p = labels.choices_of(logits, truth).softmax(dim=-1)
    np.testing.assert_allclose(p[..., 0], np.exp(-bernoulli(logits, np.ones_like(truth))))
    np.testing.assert_allclose(p.sum(dim=-1), 1)
    assert torch.equal(labels.answers_of(logits, truth), (p[..., 0] > 0.5).long())
    assert torch.equal(labels.are_right(logits, truth), (logits.sign() > 0) == (truth == 1))


def test_accuracy_counts_every_attribute():
    logits, truth = random_answers()
    found = accuracy_of(logits, truth)
    right = (logits.numpy() > 0) == (truth.numpy() == 1)
    assert found.accuracy == pytest.approx(right.mean(), abs=1e-12)
    assert found.per_attribute == pytest.approx(right.mean(axis=0), abs=1e-12)
    assert found.loss == pytest.approx(bernoulli(logits, truth).mean(), abs=1e-12)
    assert found.n_images == 30


def test_classes_have_no_attributes():
    logits = torch.randn(6, 3)
    assert accuracy_of(logits, torch.tensor([0, 1, 2, 0, 1, 2])).per_attribute is None


def test_divergence_is_that_of_bernoulli_distributions():
    q, truth = random_answers(seed=1)
    p = torch.rand(30, 5, dtype=torch.float64)
    both = torch.stack([p, 1 - p], dim=-1)
    s = 1 / (1 + np.exp(-q.numpy()))
    expected = p.numpy() * np.log(p.numpy() / s) + (1 - p.numpy()) * np.log(
        (1 - p.numpy()) / (1 - s)
    )
    np.testing.assert_allclose(divergence(q, truth, both), expected.sum(axis=1), atol=1e-10)


def test_outputs_are_compared_attribute_by_attribute():
    (mine, truth), (other, _) = random_answers(), random_answers(seed=1)
    found = compare_outputs(mine, other, truth)
    a, b, t = mine.numpy() > 0, other.numpy() > 0, truth.numpy() == 1
    assert found.agreement == pytest.approx((a == b).mean(), abs=1e-12)
    p = 1 / (1 + np.exp(-other.numpy()))
    expected = p * bernoulli(mine, np.ones_like(t)) + (1 - p) * bernoulli(mine, np.zeros_like(t))
    assert found.cross_entropy == pytest.approx(expected.mean(), abs=1e-12)
    s = 1 / (1 + np.exp(-mine.numpy()))
    both, own, theirs = p * s + (1 - p) * (1 - s), s**2 + (1 - s) ** 2, p**2 + (1 - p) ** 2
    each = both / np.maximum(own, theirs)
    assert found.agreement_probability == pytest.approx(each.mean(), abs=1e-12)
    assert found.overlap["rw"] == pytest.approx(((a == t) & (b != t)).mean(), abs=1e-12)
    assert sum(found.overlap.values()) == pytest.approx(1, abs=1e-12)


# Attacks


class Watched(nn.Module):
    """A linear network of attributes that notes how many of each image's answers are wrong in each
    iterate. Its last attribute holds for sure, so that no image ever leaves the attack."""

    def __init__(self, truth):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(36, truth.shape[1]).double()
        self.truth, self.wrong = truth, []
        with torch.no_grad():
            self.linear.weight[-1], self.linear.bias[-1] = 0, 50

    def forward(self, x):
        logits = self.linear(x.flatten(1))
        self.wrong.append(((logits > 0).long() != self.truth).sum(dim=1))
        return logits


@pytest.fixture
def watched():
    _, truth = random_answers(20)
    truth[:, -1] = 1
    images = torch.rand(20, 1, 6, 6, dtype=torch.float64)
    return Watched(truth), images, truth


@pytest.mark.parametrize("norm, radius", [("linf", 0.08), ("l2", 0.5)])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd"])
def test_the_iterate_with_the_most_wrong_answers_is_kept(watched, name, norm, radius):
    network, images, truth = watched
    threat, generator = Threat(radius, norm), generator_for(0)
    if name == "fgsm":
        found = fgsm(network, images, truth, threat)
    elif name == "pgd":
        found = pgd(
            network, images, truth, threat, steps=8, step_size=radius / 3, generator=generator
        )
    else:
        found = apgd(network, images, truth, threat, steps=12, generator=generator)
    seen = torch.stack(network.wrong)
    most, first = seen.max(dim=0)
    assert 0 < most.float().mean() < truth.shape[1] - 1  # neither all nor nothing
    assert torch.equal(found.fooled.sum(dim=1), most)
    assert torch.equal(found.fooled, (network(found.images) > 0).long() != truth)
    assert torch.equal(found.fooled, found.step >= 0)
    first = torch.stack([(row == row.max()).nonzero()[0, 0] for row in seen.T])
    assert torch.equal(found.step.amax(dim=1)[most > 0], first[most > 0])
    assert threat.distance(found.images, images).max() <= radius + 1e-9


def test_fgsm_follows_the_binary_cross_entropy(watched):
    network, images, truth = watched
    p = network(images).sigmoid()
    gradient = ((p - truth) @ network.linear.weight).detach()
    expected = (images + 0.02 * gradient.view_as(images).sign()).clamp(0, 1)
    start = images.clone()
    found = worst_images(network, images, truth, Threat(0.02), start=start, steps=1, step_size=0.02)
    torch.testing.assert_close(found, expected)


def test_an_image_leaves_when_all_its_answers_are_wrong():
    """With one bit per image that decides everything: after the first step nobody is left."""

    class Bit(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return (x.flatten(1).mean(dim=1, keepdim=True) - 0.5).repeat(1, 3)

    network, truth = Bit(), torch.ones(4, 3, dtype=torch.long)
    found = pgd(
        network,
        torch.full((4, 1, 2, 2), 0.52),
        truth,
        Threat(0.1),
        steps=50,
        step_size=0.1,
        generator=generator_for(0),
    )
    assert found.fooled.all()
    assert network.calls <= 4
    assert ((found.step >= 0) & (found.step <= 2)).all()


# Robust accuracy


@pytest.fixture(scope="module")
def attacked(trained, few):
    attacks = suite("gradient", THREAT, 4, steps=5, attributes=True)
    return robustness(trained[0], few, attacks, batch_size=25), attacks


def test_the_worst_case_is_that_of_each_attribute(attacked, trained, few):
    found, _ = attacked
    with torch.no_grad():
        right = (trained[0](few.images / 255) > 0).long() == few.labels
    assert torch.equal(found.right, right)
    assert not right.all()
    survives = right.clone()
    for name, steps in found.steps.items():
        assert steps.shape == few.labels.shape
        assert (steps[~right] == -1).all()  # what is wrong already is not fooled
        survives &= steps == -1
        share = (right & (steps == -1)).double().mean().item()
        assert found.accuracies()[name] == pytest.approx(share)
    assert list(found.accuracies()) == ["FGSM", "PGD-5", "APGD-CE", WORST]
    assert found.accuracies()[WORST] == pytest.approx(survives.double().mean().item())
    assert found.accuracies()[WORST] <= min(found.accuracies().values())
    assert 0 < found.accuracies()[WORST] < found.clean_accuracy()


def test_the_kept_image_fools_the_most_attributes_at_once(attacked, trained, few):
    found, _ = attacked
    with torch.no_grad():
        wrong = (trained[0](found.images) > 0).long() != few.labels
    at_once = torch.stack([(steps >= 0).sum(dim=1) for steps in found.steps.values()]).amax(dim=0)
    assert torch.equal((wrong & found.right).sum(dim=1), at_once)
    change = (found.images - few.images / 255).flatten(1).abs().amax(dim=1)
    assert change.max() <= THREAT.epsilon + 1e-6
    assert torch.equal(change > 0, at_once > 0)


def test_more_restarts_fool_no_less(trained, few):
    def fooled(restarts):
        attacks = suite("quick", THREAT, 4, steps=2, restarts=restarts, attributes=True)
        return robustness(trained[0], few, attacks).fooled("PGD-2").sum(dim=1)

    once, often = fooled(1), fooled(4)
    assert (often >= once).all()
    assert often.sum() > once.sum()


def test_attacks_that_compare_classes_are_left_out():
    (note,) = suite("gradient", THREAT, 40, attributes=True).notes
    assert "DLR" in note and "attributes" in note
    assert not suite("gradient", THREAT, 40).notes
    with pytest.raises(UserError, match=r"AutoAttack.*attributes.*tier='default'"):
        suite("standard", THREAT, 40, attributes=True)


def test_the_report_of_an_attack(attacked, few):
    found, attacks = attacked
    settings = {"dataset": "Digits", "norm": "linf", "epsilon": 0.1, "seed": 0}
    values = json.loads(json.dumps(as_record(found, "lenet", attacks, settings)))
    assert values["robust"] == found.accuracies()
    intervals = {"clean": values["accuracy_interval"], **values["robust_interval"]}
    for name, (low, high) in intervals.items():
        accuracy = {"clean": values["accuracy"], **values["robust"]}[name]
        assert low < accuracy < high
    image = values["images"][3]
    assert image["label"] == few.labels[3].tolist()
    assert image["right"] == found.right[3].tolist()
    assert all(len(steps) == 4 and max(steps) >= 0 for steps in image["fooled_at_step"].values())
    text = as_text(values)
    assert "40 test images of Digits with 4 attributes" in text
    assert attacks.notes[0] in text and "APGD-DLR" in attacks.notes[0]
    fooled = {name: int((steps >= 0).sum()) for name, steps in found.steps.items()}
    fooled[WORST] = int((found.right & found.fooled(WORST)).sum())
    cells = {
        name: line.split()
        for line in text.splitlines()
        for name in fooled
        if line[: len(name)] == name
    }
    assert {name: int(row[-2]) for name, row in cells.items()} == fooled


def test_an_interrupted_attack_goes_on(trained, few, tmp_path):
    attacks = suite("gradient", THREAT, 4, steps=3, attributes=True)

    def attack(path):
        return attack_and_keep(trained[0], few, attacks, {}, path, seed=0, batch_size=15)

    whole = attack(tmp_path / "kept")
    content = (tmp_path / "kept").read_bytes()
    (tmp_path / "kept").write_bytes(content[:-100])  # the last of three batches is not whole
    again = attack(tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == content
    for found in (again, attack(None)):
        assert found.images is None
        assert found.accuracies() == whole.accuracies()
        assert all(torch.equal(steps, whole.steps[name]) for name, steps in found.steps.items())


def test_random_search_of_attributes(trained, few, monkeypatch):
    """Square, on cross-entropy: run where a right answer is left, and it fools some more."""
    monkeypatch.setattr(suites, "QUERIES", 60)
    attacks = suite("default", Threat(0.15), 4, steps=2, attributes=True)
    found = robustness(trained[0], few, attacks)
    assert list(found.accuracies()) == ["FGSM", "PGD-2", "APGD-CE", "Square", WORST]
    before = found.right.clone()
    for name in ("FGSM", "PGD-2", "APGD-CE"):
        before &= found.steps[name] < 0
    assert torch.equal(found.tried("Square"), before.any(dim=1))
    new = found.steps["Square"] >= 0
    assert not new[~found.tried("Square")].any()
    left = before & ~new
    assert found.accuracies()["Square"] == found.accuracies()[WORST]
    assert found.accuracies()[WORST] == pytest.approx(left.double().mean().item())
    assert new.any()


def test_transfer_counts_every_attribute(trained, few):
    other = models.build("lenet", num_classes=4, in_channels=1, seed=3)
    found = measure_attacks({"front": trained[0], "other": other}, few, Threat(0.02), seed=0)
    assert any("DLR" in warning for warning in found.warnings)
    source = trained[0]
    places = torch.arange(len(few))
    start = Threat(0.02).uniform_start(few.images / 255, draws_at(places, 0, "transfer"))
    worst = worst_images(
        source, few.images / 255, few.labels, Threat(0.02), start=start, steps=20, step_size=0.0025
    )
    with torch.no_grad():
        right = (other(worst) > 0).long() == few.labels
    assert found.transfer["front"]["other"] == pytest.approx(right.double().mean().item(), abs=0.02)


# Training


def test_a_network_learns_attributes(trained, splits):
    network, history = trained
    common = [max(share, 1 - share) for share in splits[1].labels.double().mean(dim=0).tolist()]
    found = evaluate(network, splits[1])
    assert found.accuracy > np.mean(common) + 0.15
    assert all(mine > other for mine, other in zip(found.per_attribute, common, strict=True))
    assert history[-1].train_loss < history[0].train_loss < math.log(2)


def test_the_running_accuracy_is_that_of_all_answers(splits):
    network = models.build("lenet", num_classes=4, in_channels=1, seed=1)
    train = replace(splits[0], augmentation=None).between(0, 100)
    config = Optimisation(epochs=1, lr=1e-12, batch_size=32)
    (record,) = Trainer(network, standard, train, config).run()
    with torch.no_grad():
        logits = network(train.images / 255).double()
    right = (logits > 0).long() == train.labels
    assert record.train_accuracy == pytest.approx(right.double().mean().item(), abs=1e-9)
    assert record.train_loss == pytest.approx(bernoulli(logits, train.labels).mean(), abs=1e-6)


@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["madry", "trades"])
def test_objectives_are_their_formulas(kind, ratio, splits):
    """Against plainly written loops in float64."""
    images, truth = next(splits[0].batches(12))
    images, k = images.double(), round(12 * ratio)
    network = models.build("lenet", num_classes=4, in_channels=1, seed=2).double().train()
    adversary = Adversary(kind, 0.1, 0.04, perturb_steps=3, beta=6.0, attack_ratio=ratio, ramp=0)
    outcome = Attacking(adversary, seed=5)(network, images, truth, 7)

    def log_p(x):
        z = network(x)
        return torch.log(1 / (1 + torch.exp(-z))), torch.log(1 / (1 + torch.exp(z)))

    def cross_entropy(x, y):
        yes, no = log_p(x)
        return -(y * yes + (1 - y) * no).mean()

    def gap(x, clean):
        yes, no = log_p(x)
        return sum(c.exp() * (c - q) for c, q in zip(clean, (yes, no), strict=True)).sum()

    own, generator = images[:k], generator_for(5, 7, 1)
    clean = [part.detach() for part in log_p(own)]
    if kind == "madry":
        x = (own + 0.1 * (2 * torch.rand(own.shape, generator=generator) - 1)).clamp(0, 1)
    else:
        x = own + 0.001 * torch.randn(own.shape, generator=generator)
    for _ in range(3):
        x = x.detach().requires_grad_()
        climbed = cross_entropy(x, truth[:k]) if kind == "madry" else gap(x, clean)
        step = 0.04 * torch.autograd.grad(climbed, x)[0].sign()
        x = (x + step).clamp(own - 0.1, own + 0.1).clamp(0, 1)
    x = x.detach()
    if kind == "madry":
        expected = cross_entropy(torch.cat([x, images[k:]]), truth)
    else:
        expected = cross_entropy(images, truth) + 6 * gap(x, log_p(own)) / truth.numel()
    torch.testing.assert_close(outcome.loss, expected, atol=1e-6, rtol=0)
    assert len(outcome.logits) == 12 and len(outcome.attacked) == k


def test_a_stitch_of_networks_of_attributes(trained, splits, tmp_path):
    path = tmp_path / "model.pt"
    checkpoints.save(path, trained[0], "digits", {})
    checkpoint = checkpoints.load(path)
    train, test = (split.between(0, 128) for split in splits)
    config = stitching("relu2", "relu2", epochs=1, init="eye", lr=1e-9, robust_images=20)
    result = stitch(checkpoint, checkpoint, train, test, config)
    assert result.scores["stitched"].outputs.agreement > 0.99
    assert result.scores["end"].accuracy == evaluate(trained[0], test).accuracy
    assert result.measured.attacks.clean["end"] == pytest.approx(
        evaluate(trained[0], test.sample(20)).accuracy
    )
