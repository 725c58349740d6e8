"""What adversarial training minimises, against plainly written loops."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robust_stitching import models
from robust_stitching.basics.seeds import generator_for
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.plans import Adversary, DataRef, Optimisation, TrainPlan, stitching
from robust_stitching.stitching.run import stitch
from robust_stitching.training import EpochRecord, Trainer, objective_of, standard
from robust_stitching.training.adversarial import Attacking, radius_at
from robust_stitching.training.examiner import collapsed
from robust_stitching.training.optimisation import iterations_on

EPSILON, STEP, STEPS, BETA, SEED, ITERATION = 0.1, 0.03, 3, 6.0, 5, 11
KINDS = ("madry", "trades")
both = pytest.mark.parametrize("kind", KINDS)


def adversary(kind, **options):
    settings = {
        "epsilon": EPSILON,
        "step_size": STEP,
        "perturb_steps": STEPS,
        "beta": BETA,
        "ramp": 0,
    }
    return Adversary(kind, **(settings | options))


def attacking(kind, **options):
    return Attacking(adversary(kind, **options), SEED)


@pytest.fixture(scope="module")
def batch(digits):
    images, labels = next(digits[0].batches(16))
    return images.double(), labels


def trainable(model="lenet"):
    """In float64, where rounding turns no sign of a gradient."""
    network = models.build(model, num_classes=10, in_channels=1, mean=[0.2], std=[0.4], seed=1)
    return network.double().train()


# The reference: no word of it is from the library


def climb(start, images, objective):
    """Sign steps that raise `objective`, each clamped to the ball and to [0, 1]."""
    x = start
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(x), x)
        x = x.detach() + STEP * gradient.sign()
        x = torch.minimum(torch.maximum(x, images - EPSILON), images + EPSILON).clamp(0, 1)
    return x


def madry_reference(network, images, labels, k, generator):
    noise = 2 * torch.rand(images[:k].shape, generator=generator).double() - 1
    start = (images[:k] + EPSILON * noise).clamp(0, 1)
    network.eval()
    worst = climb(start, images[:k], lambda x: F.cross_entropy(network(x), labels[:k]))
    network.train()
    mixed = torch.cat([worst, images[k:]])
    return -network(mixed).log_softmax(dim=1)[range(len(labels)), labels].mean()


def trades_reference(network, images, labels, k, generator):
    start = images[:k] + 0.001 * torch.randn(images[:k].shape, generator=generator).double()
    network.eval()
    clean = network(images[:k]).softmax(dim=1).detach()
    worst = climb(
        start, images[:k], lambda x: -(clean * network(x).log_softmax(dim=1)).sum() / len(images)
    )
    network.train()
    log_p, log_q = network(images).log_softmax(dim=1), network(worst).log_softmax(dim=1)
    divergence = (log_p[:k].exp() * (log_p[:k] - log_q)).sum()
    return -log_p[range(len(labels)), labels].mean() + BETA * divergence / len(images)


REFERENCES = {"madry": madry_reference, "trades": trades_reference}


@both
@pytest.mark.parametrize("model", ["lenet", "tiny10"])
@pytest.mark.parametrize("ratio", [1, 0.5])
def test_one_step_is_the_reference(kind, model, ratio, batch, digits):
    network = trainable(model)
    config = Optimisation(1, 0.1)
    objective = objective_of(
        adversary(kind, attack_ratio=ratio), network, iterations_on(digits[0], config), seed=SEED
    )
    with torch.no_grad():  # as training does in between
        for value in network.state_dict().values():
            value *= 2 if value.dtype == torch.long else 1.1
    plain = copy.deepcopy(network)
    outcome = objective(network, *batch, ITERATION)
    outcome.loss.backward()
    generator = generator_for(SEED, ITERATION, 1)
    expected = REFERENCES[kind](plain, *batch, round(16 * ratio), generator)
    expected.backward()
    torch.testing.assert_close(outcome.loss, expected, atol=1e-6, rtol=0)
    for ours, reference in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, reference.grad, atol=1e-6, rtol=0)
    # The running statistics, too; the reference makes one pass in training mode, or two.
    torch.testing.assert_close(dict(network.named_buffers()), dict(plain.named_buffers()))
    if model == "tiny10":
        assert network.bn1.num_batches_tracked == {"madry": 1, "trades": 2}[kind]
    assert all(module.training for module in network.modules())


def passes_in_training(network, objective, batch, iteration=ITERATION):
    """The images of each forward pass in training mode."""
    seen = []

    def note(module, given):
        if module.training:
            seen.append(given[0].detach().clone())

    handle = network.register_forward_pre_hook(note)
    outcome = objective(network, *batch, iteration)
    handle.remove()
    return seen, outcome


@both
def test_half_of_a_batch_is_attacked(kind, batch):
    images, _ = batch
    objective = attacking(kind, attack_ratio=0.5)
    seen, outcome = passes_in_training(trainable(), objective, batch)
    attacked = seen[-1][:8]
    assert len(outcome.logits) == 16 and len(outcome.attacked) == 8
    assert (attacked != images[:8]).flatten(1).any(dim=1).all()
    assert (attacked - images[:8]).abs().max() <= EPSILON + 1e-9
    if kind == "madry":
        assert len(seen) == 1
        assert torch.equal(seen[0][8:], images[8:])
    else:
        assert [len(part) for part in seen] == [16, 8]
        assert torch.equal(seen[0], images)


@both
def test_ratio_zero_is_the_standard_loss(kind, batch):
    network = trainable("tiny10")
    plain = copy.deepcopy(network)
    outcome = attacking(kind, attack_ratio=0)(network, *batch, ITERATION)
    expected = standard(plain, *batch, ITERATION)
    assert torch.equal(outcome.loss, expected.loss)
    assert torch.equal(outcome.logits, expected.logits)
    assert outcome.attacked is None
    assert network.bn1.num_batches_tracked == 1


# The ramp


@pytest.mark.parametrize(
    "ramp, iteration, share", [(10, 0, 0.1), (10, 4, 0.5), (10, 9, 1), (10, 500, 1), (0, 0, 1)]
)
def test_the_radius_rises(ramp, iteration, share, batch):
    objective = attacking("madry", ramp=ramp)
    threat, step = radius_at(objective.adversary, iteration)
    assert threat.epsilon == pytest.approx(share * EPSILON, rel=1e-12)
    assert step == pytest.approx(share * STEP, rel=1e-12)
    seen, _ = passes_in_training(trainable(), objective, batch, iteration)
    reached = (seen[-1] - batch[0]).abs().max().item()
    assert reached == pytest.approx(share * EPSILON, rel=1e-6)


@pytest.mark.parametrize(
    "ramp, iterations, expected", [(500, 30, 10), (5, 30, 5), (0, 30, 0), (500, 2, 0)]
)
def test_the_ramp_takes_a_third_at_most(ramp, iterations, expected):
    assert adversary("trades", ramp=ramp).within(iterations).ramp == expected


def test_the_ramp_of_a_training(batch, digits):
    network, config = trainable(), Optimisation(epochs=12, lr=0.1, batch_size=64)
    few = digits[0].between(0, 64)  # 12 iterations, of which the ramp may take four
    objective = objective_of(adversary("madry", ramp=500), network, iterations_on(few, config))
    for iteration, share in enumerate((0.25, 0.5, 0.75, 1, 1)):
        seen, _ = passes_in_training(network, objective, batch, iteration)
        reached = (seen[-1] - batch[0]).abs().max().item()
        assert reached == pytest.approx(share * EPSILON, rel=1e-6)


# In the training loop


class Stop(Exception):
    pass


def with_batch_norm(seed=0):
    torch.manual_seed(seed)
    layers = nn.Linear(1024, 12), nn.BatchNorm1d(12), nn.Dropout(), nn.Linear(12, 10)
    network = nn.Sequential(nn.Flatten(), *layers)
    network.input_shape = (1, 32, 32)
    return network


@both
@pytest.mark.parametrize("steps", [1, 3, 5])  # three steps are an epoch
def test_resuming_is_bitwise(kind, steps, digits):
    split = digits[0].between(0, 48)
    config = Optimisation(2, 0.1, 16)
    state = {}

    def trainer(network):
        objective = objective_of(adversary(kind, ramp=4), network, iterations_on(split, config))
        return Trainer(network, objective, split, config)

    def interrupt(trainer):
        if trainer.iteration == steps:
            state.update(copy.deepcopy(trainer.state_dict()))
            raise Stop

    whole = trainer(with_batch_norm())
    whole.run()
    with pytest.raises(Stop):
        trainer(with_batch_norm()).run(interrupt)
    resumed = trainer(with_batch_norm(seed=7))
    resumed.load_state_dict(state)
    torch.rand(3)
    resumed.run()
    one, two = whole.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    robust = [record.train_robust_accuracy for record in whole.history]
    assert robust == [record.train_robust_accuracy for record in resumed.history]
    assert None not in robust


def test_every_training_has_a_folder_of_its_own():
    config = Optimisation(1, 0.1)
    attacks = [None, *(Adversary(kind, epsilon=e) for kind in KINDS for e in (0.3, 8 / 255))]
    plans = [
        TrainPlan(model="lenet", dataset=DataRef("digits"), training=config, adversary=attack)
        for attack in attacks
    ]
    names = [plan.label for plan in plans]
    assert names[0] == "in0-gn0" and len(set(names)) == 5
    assert all(name.startswith("in0-gn0") for name in names)


@pytest.mark.parametrize(
    "robust, expected",
    [
        ([], False),
        ([None, None], False),
        ([0.1, 0.6], False),
        ([0.6, 0.3], False),
        ([0.6, 0.29], True),
        ([0.6, 0.1, 0.4], False),  # it came back
        ([0.6, 0.4, 0.2], True),
        ([0.19, 0.0], False),  # there was nothing to lose
    ],
)
def test_a_collapse(robust, expected):
    nothing = dict.fromkeys(EpochRecord.__dataclass_fields__, 0)
    record = EpochRecord(**nothing)
    assert collapsed([replace(record, test_robust_accuracy=r) for r in robust]) is expected


# On a stitched network


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


@both
@pytest.mark.parametrize("no_bn", [True, False])
def test_only_the_map_learns(kind, no_bn, digits):
    train, test = digits[0].between(0, 64), digits[1].between(0, 20)
    networks = [models.build("tiny10", num_classes=10, in_channels=1, seed=seed) for seed in (0, 1)]
    donors = [Checkpoint(net.eval(), "tiny10", "digits", 10, Path("x.pt")) for net in networks]
    before = [weights(donor.network) for donor in donors]
    config = stitching(
        "bn7",
        "bn7",
        epochs=1,
        batch_size=32,
        no_bn=no_bn,
        no_pinv=True,
        no_robustness=True,
        adversary=adversary(kind, perturb_steps=1),
    )
    result = stitch(*donors, train, test, config)
    for donor, was, side in zip(donors, before, ("front", "end"), strict=True):
        now = weights(donor.network)
        assert all(torch.equal(was[name], now[name]) for name in was)
        for name, value in result.network.get_submodule(side).state_dict().items():
            statistic = "running" in name or "num_batches" in name
            assert torch.equal(value, was[name]) is (no_bn or not statistic), name
    assert not torch.equal(result.initial.weight, result.final.weight)
    assert not torch.equal(result.initial.bias, result.final.bias)
    (record,) = result.trained.curve
    assert 0 <= record.train_robust_accuracy <= 1 and 0 <= record.test_robust_accuracy <= 1
