"""What a map is trained for: soft targets, penalties, and controls beside it."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robust_stitching import checkpoints, graph, models
from robust_stitching.attacks.losses import cross_entropy
from robust_stitching.attacks.pgd import worst_images
from robust_stitching.data.split import generator_for
from robust_stitching.errors import UserError
from robust_stitching.evaluation import evaluate
from robust_stitching.progress import silent
from robust_stitching.report.controls import meaning
from robust_stitching.report.record import as_record
from robust_stitching.stitching import run
from robust_stitching.stitching.controls import with_random_weights
from robust_stitching.stitching.fit import find_map
from robust_stitching.stitching.initial import initial_values
from robust_stitching.stitching.network import StitchedNetwork
from robust_stitching.stitching.objective import batch_cka, goal_of, penalised
from robust_stitching.stitching.run import StitchConfig, stitch
from robust_stitching.training import Adversary, Diverged
from robust_stitching.training.objectives import Outcome, standard

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
    goal = goal_of(kind, temperature, front, end)
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
        for goal in (goal_of(kind, 2.0, front, end) for kind in ("soft_12", "soft_1", "soft_2"))
    )
    torch.testing.assert_close(both, (one + two) / 2)


@pytest.mark.parametrize("kind", SOFT)
def test_soft_targets_are_met_best_by_themselves(kind):
    """Gibbs' inequality: the donors' own answers have the smallest cross-entropy with them."""
    goal = goal_of(kind, 3.0, lenet(0), lenet(1))
    p = goal.targets(images(), labels())
    best = goal.loss(3 * p.log(), labels(), p)
    entropy = -(p * p.log()).sum(1) * 9
    torch.testing.assert_close(best, entropy)
    assert (goal.loss(torch.randn(12, 10), labels(), p) > best).all()


def test_soft_targets_of_attributes_are_bernoulli():
    front, end = lenet(0, num_classes=4), lenet(1, num_classes=4)
    truth = (torch.rand(12, 4) > 0.5).long()
    goal = goal_of("soft_1", 2.0, front, end)
    p = 1 / (1 + np.exp(-logits(front, images()) / 2))
    z = torch.randn(12, 4)
    q = 1 / (1 + np.exp(-z.double().numpy() / 2))
    expected = -4 * (p * np.log(q) + (1 - p) * np.log(1 - q)).mean(1)
    found = goal.loss(z, truth, goal.targets(images(), truth))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_hard_targets_are_the_labels():
    goal = goal_of("hard", 1.0, lenet(0), lenet(1))
    assert goal.targets(images(), labels()) is None
    z = torch.randn(12, 10)
    torch.testing.assert_close(goal.loss(z, labels(), None), cross_entropy(z, labels()))


@pytest.mark.parametrize("kind", ["trades", "madry"])
def test_soft_targets_under_attack_are_those_of_unattacked_images(kind):
    """A step that cannot move leaves the images: the loss is the soft one on them."""
    front, end = lenet(0), lenet(1)
    network, goal = joined(front, end), goal_of("soft_2", 1.0, front, end)
    still = Adversary(kind, epsilon=1e-9, step_size=1e-9, perturb_steps=1, beta=0.0)
    found = still(network, images(), labels(), 0, goal=goal).loss
    expected = standard(network, images(), labels(), 0, goal).loss
    torch.testing.assert_close(found, expected)
    moved = Adversary("madry", epsilon=0.3, step_size=0.1, perturb_steps=3)
    assert moved(network, images(), labels(), 0, goal=goal).loss > expected


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


@pytest.mark.parametrize("adversary", [None, Adversary("madry", 0.1, 0.05, 2)])
def test_penalties_are_added_to_the_loss(adversary):
    front, end = lenet(0), lenet(1)
    network = joined(front, end)
    seen = []

    def objective(network, images, labels, iteration) -> Outcome:
        outcome = (adversary or standard)(network, images, labels, iteration)
        seen.append(outcome.loss.item())
        return outcome

    both = penalised(objective, network, end, "relu2", 0.5, -2.0)
    loss = both(network, images(), labels(), 0).loss
    weight = network.transform.weight
    shown = images()
    if adversary:
        threat, step = adversary.radius(0)
        start = threat.uniform_start(shown, generator_for(0, 0, 1))
        shown = worst_images(network, shown, labels(), threat, start=start, steps=2, step_size=step)
    (x,) = graph.features(network, ["transform"])(shown)
    (y,) = graph.features(end, ["relu2"])(shown)
    cka = plain_debiased_cka(*(v.detach().double().flatten(1).numpy() for v in (x, y)))
    expected = seen[0] + 0.5 * weight.abs().mean().item() - 2 * cka
    assert loss.item() == pytest.approx(expected, abs=1e-4)
    loss.backward()
    assert weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in [*front.parameters(), *end.parameters()])


def fit(digits, **options):
    config = StitchConfig(
        "relu2", "relu2", **{"epochs": 6, "batch_size": 64, "lr": 2e-2, **options}
    )
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


# --- controls ---


def test_a_front_with_random_weights_learned_nothing(digits):
    """It is apart from the weights that a training with any small seed starts from."""
    trained = lenet(0, mean=(0.3,), std=(0.2,))
    nn.init.ones_(trained.conv1.weight)
    twin, again = (with_random_weights(trained, digits[0], 0) for _ in range(2))
    assert torch.equal(twin.normalize.mean, trained.normalize.mean)
    assert torch.equal(twin.fc2.weight, again.fc2.weight)
    other = with_random_weights(trained, digits[0], 1)
    for seed in range(5):
        for layer in ("conv2.weight", "fc1.weight"):
            own = twin.get_parameter(layer).flatten()
            for apart in (other, lenet(seed)):
                pair = torch.stack([own, apart.get_parameter(layer).flatten()])
                assert abs(torch.corrcoef(pair)[0, 1].item()) < 0.1
    spread = [network.conv1.weight.std().item() for network in (twin, lenet(0))]
    assert spread[0] == pytest.approx(spread[1], rel=0.3)
    assert (trained.conv1.weight == 1).all()
    with pytest.raises(UserError, match="leave --controls out"):
        with_random_weights(joined(lenet(0), lenet(1)), digits[0], 0)


def test_a_random_front_has_the_statistics_of_the_data(digits):
    """Behind each batch norm its channels have mean 0 and deviation 1, but for the batches."""
    trained = models.build("tiny10", num_classes=10, in_channels=1)
    twin = with_random_weights(trained, digits[0], 0)
    assert not any(m.training for m in twin.modules())
    assert {m.momentum for m in twin.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    for layer in ("bn1", "bn8"):
        (found,) = graph.features(twin, [layer])(digits[0].images[:1000] / 255)
        assert found.mean(dim=(0, 2, 3)).abs().max() < 0.2
        assert (found.std(dim=(0, 2, 3)) - 1).abs().max() < 0.2


@pytest.mark.parametrize("kind", ["soft_1", "soft_12"])
def test_controls_are_trained_for_the_same_answers(kind, digits, lenets):
    """A random front is asked for what the trained front answers, not for its own answers."""
    front, end = (checkpoints.load(path) for path in lenets)
    train, test = (split.between(0, 256) for split in digits)
    options = {"epochs": 2, "init": "ps_inv", "controls": True, "no_robustness": True}
    config = StitchConfig("relu2", "relu2", target_type=kind, **options)
    result = stitch(front, end, train, test, config)
    twin = with_random_weights(front.network, train, 0)
    goal = goal_of(kind, 1.0, front.network, end.network)
    cuts = (twin, "relu2"), (end.network, "relu2")
    expected = find_map(*cuts, train, test, config, goal, main=False)
    found = evaluate(expected.network, test)
    assert result.scores["random_front"].loss == pytest.approx(found.loss, rel=1e-5)


def test_a_control_that_cannot_be_is_told_before_any_training(lenets, digits):
    front, end = (checkpoints.load(path) for path in lenets)
    config = StitchConfig("relu4", "conv1", flatten=True, controls=True, save_frequency=1)
    seen = []

    def progress(total, what, unit=""):
        seen.append(what)
        return silent(total, what, unit)

    with pytest.raises(UserError, match="--controls stitches the end to itself, but 12 maps of"):
        stitch(front, end, digits[0].between(0, 1536), digits[1], config, progress)
    assert seen == []


def record(stitched, self_stitch, random_front, end=0.99, n=1000):
    accuracy = {"stitched": stitched, "self_stitch": self_stitch, "random_front": random_front}
    accuracy |= {"untrained": 0.1, "direct_matching": 0.8, "end": end}
    gaps = {name: stitched - value for name, value in accuracy.items() if name not in ("end",)}
    made = {name: {"accuracy": value} for name, value in accuracy.items()}
    made |= {"gaps": gaps, "data": {"n_images": n}}
    if self_stitch is None:
        return made | {"self_stitch": None, "random_front": None}
    return made


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ((0.97, 0.98, 0.20), "at 99% of the way .* nearly all that the end"),
        ((0.56, 0.40, 0.08, 0.41), "at 150% of the way .* more than the end network's own"),
        ((0.60, 0.98, 0.20), "at 51% of the way .* part of what the end"),
        ((0.21, 0.98, 0.20), "at 1% of the way .* nothing that a random front would not"),
        ((0.90, 0.91, 0.77, 0.43), "the map learns the task by itself"),
        ((0.97, 0.98, 0.95), "are too close to tell anything"),
        ((0.80, 0.85, 0.75, 0.99, 50), "are too close to tell anything"),
        ((0.45, 0.50, 0.10), "But even the self-stitch is far from the end's own 99.0%"),
    ],
)
def test_what_the_controls_mean(accuracies, said):
    assert re.search(said, meaning(record(*accuracies)))


def test_without_controls_the_start_and_direct_matching_are_told():
    made = record(0.9, 0.5, 0.1) | {"self_stitch": None}
    told = meaning(made)
    assert "80.0 points better than before training" in told
    assert "10.0 points better than direct matching" in told
    assert "--controls" in told


@pytest.mark.parametrize(
    "lost", [["self_stitch"], ["random_front"], ["self_stitch", "random_front"]]
)
def test_a_control_that_diverges_is_left_out(lost, lenets, digits, monkeypatch):
    """What was stitched before it is not lost."""
    order = iter(["stitched", "self_stitch", "random_front"])

    def diverging(*cuts, main=True, **options):
        if next(order) in lost:
            raise Diverged("the loss became NaN or infinite in epoch 1.")
        return find_map(*cuts, main=main, **options)

    monkeypatch.setattr(run, "find_map", diverging)
    front, end = (checkpoints.load(path) for path in lenets)
    options = {"epochs": 1, "init": "ps_inv", "controls": True, "no_robustness": True}
    train, test = (split.between(0, 128) for split in digits)
    result = stitch(front, end, train, test, StitchConfig("relu2", "relu2", **options))
    left_out = [note for note in result.notes if "was left out: the loss became NaN" in note]
    assert [note.split()[2] for note in left_out] == lost
    assert not set(lost) & result.scores.keys()
    record = as_record(result, "")
    assert all(record[name] is None for name in lost)
    assert "--controls tells" in meaning(record)
