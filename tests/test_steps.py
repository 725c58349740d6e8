"""Steps that do not fit their radius are told before the work; the training log follows the radius
and computes in full float32."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import REPOSITORY
from left_behind import only, strict_json
from robust_stitching import checkpoints
from robust_stitching.attacks.pgd import step_warnings, usual_step
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.seeds import generator_for
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.plans import Adversary, stitching
from robust_stitching.stitching.run import stitch
from robust_stitching.training.examiner import Examiner
from sure_networks import Linear, rows

LENET = REPOSITORY / "archive/lenet/Digits/in0-gn0/model.pt"


@pytest.mark.parametrize("epsilon, step, steps, told", [
    (0.3, 2 / 255, 10, "10 steps of 0.007843 go 0.07843 at most"),
    (0.3, 0.1, 2, "2 steps of 0.1 go 0.2 at most"),
    (0.3, 0.2999, 1, "one step of 0.2999 go"),
    (0.3, 0.03, 10, None),  # just reaches
    (8 / 255, 2 / 255, 10, None),
    (8 / 255, 16 / 255, 1, None),
    (8 / 255, 16.01 / 255, 10, "a step of 0.06278 is longer than the whole ball"),
    (0.1, 1, 1, "a step of 1 is longer"),
])  # fmt: skip
def test_what_is_told_of_a_step(epsilon, step, steps, told):
    found = step_warnings(epsilon, step, steps)
    assert len(found) == bool(told)
    if told:
        assert told in found[0] and f"radius {epsilon:.4g}" in found[0]
        assert f"{min(2.5 / steps, 2) * epsilon:.4g} is usual" in found[0]
    if told and "go" in told:
        assert f"a step of {epsilon / steps:.4g} just can" in found[0]
        assert step_warnings(epsilon, epsilon / steps, steps) == ()
        assert step_warnings(epsilon, usual_step(epsilon, steps), steps) == ()


# Before the work, in every command


def test_a_training_that_cannot_reach(call_script, tmp_path, monkeypatch):
    from robust_stitching.runs import inputs

    order, load = [], inputs.data.load
    monkeypatch.setattr(inputs.data, "load", lambda *a, **o: order.append("data") or load(*a, **o))
    flags = ["-d", "digits", "-e", 1, "-b", 256, "--epsilon", 0.3, "-o", tmp_path]
    for kind in ("--madry", "--robust"):
        done = call_script("train.py", *flags, kind)
        assert done.status == 0
        assert done.err.startswith("train.py: warning: 10 steps of 0.007843 go 0.07843 at most")
        assert done.err.count("\n") == 1 and "a step of 0.03 just can" in done.err
    done = call_script("train.py", *flags, "--madry", "--step-size", 0.03, "-i", 1)
    assert (done.status, done.err) == (0, "")
    assert order == ["data"] * 3


def test_the_warning_of_a_training_comes_before_it(call_script, tmp_path, monkeypatch, capsys):
    from robust_stitching.runs import inputs

    def stop(*args, **options):
        assert "warning: 10 steps" in capsys.readouterr().err
        raise UserError("stopped.")

    monkeypatch.setattr(inputs.data, "load", stop)
    flags = ["-m", "lenet", "-d", "digits", "--madry", "--epsilon", 0.3, "-o", tmp_path]
    assert call_script("train.py", *flags).err.endswith("stopped.\n")


@pytest.mark.parametrize("step, told", [("1/255", "go 0.03922"), ("0.5", "longer than the")])
def test_an_evaluation_whose_step_does_not_fit(step, told, call_script, tmp_path):
    flags = ["--tier", "quick", "--epsilon", "0.2", "--steps", "10", "--n-images", "40"]
    flags += ["--step-size", step, "--json", tmp_path / "x"]
    done = call_script("eval_net_robustness.py", LENET, *flags)
    assert done.status == 0
    assert done.err.count("\n") == 1 and "eval_net_robustness.py: warning: " in done.err
    (warning,) = strict_json(tmp_path / "x")["warnings"]  # and no word of masked gradients
    assert told in warning and warning in done.err
    assert f"Warning: {warning}" in done.out


def test_a_stitch_whose_training_cannot_reach(call_script, lenets, tmp_path):
    where = ["-o", tmp_path, "--run-name", "x", "--no-robustness", "--no-pinv"]
    flags = ["relu3", "relu3", "digits", "-e", "1", "-b", "256", "--madry"]
    flags += ["--epsilon", "0.3", "--perturb-steps", "2"]
    done = call_script("find_transform.py", *lenets, *flags, *where)
    assert done.status == 0
    assert done.err.startswith("find_transform.py: warning: 2 steps of 0.007843 go")
    notes = strict_json(only(tmp_path / "x" / "json"))["notes"]
    warning = done.err.split("warning: ")[1].strip()
    assert f"The attack in training is weaker than it seems: {warning}" in notes


# The look at the network in the training log


class Rounds(nn.Module):
    """Notes, at every pass, whether products may be rounded to TF32."""

    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.inner, self.allowed = Linear(), []

    def forward(self, x):
        backends = torch.backends
        self.allowed.append((backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32))
        return self.inner(x)


@pytest.fixture
def rounding():
    """Products may be rounded, as some ask for in training."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = True
    yield
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


def test_accuracy_under_attack_in_the_log_is_in_full_float32(rounding):
    network = Rounds()
    found = Examiner(rows(), Adversary("madry", epsilon=0.01))(network)
    assert found.robust_accuracy == 1
    assert len(network.allowed) > 20
    assert set(network.allowed) == {(False, False)}
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32


def plain_pgd(network, x, labels, epsilon, generator):
    """Which images are right, and stay so in 20 steps of 2.5 · epsilon / 20."""
    left = network(x).argmax(dim=1) == labels
    moved = x + epsilon * (2 * torch.rand(x.shape, generator=generator) - 1)
    for step in range(21):
        moved = moved.clamp(0, 1).detach().requires_grad_()
        logits = network(moved)
        left &= logits.argmax(dim=1) == labels
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), moved)
        moved = moved.detach() + (2.5 * epsilon / 20 * gradient.sign() if step < 20 else 0)
        moved = torch.minimum(torch.maximum(moved, x - epsilon), x + epsilon)
    return left


@pytest.mark.parametrize("step_size, perturb_steps", [(2 / 255, 10), (1e-6, 1), (0.3, 1)])
def test_the_log_attacks_with_steps_of_its_own(step_size, perturb_steps, digits):
    """Whatever the attack in training can reach, the log tells of one that reaches the radius."""
    network, few = checkpoints.load(LENET).network, digits[1].sample(80)
    adversary = Adversary("madry", 0.1, step_size, perturb_steps)
    found = Examiner(few, adversary, seed=4)(network).robust_accuracy
    images, labels = next(few.batches(80))
    exact = copy.deepcopy(network).double()
    left = plain_pgd(exact, images.double(), labels, 0.1, generator_for(4))
    assert found == pytest.approx(left.double().mean().item(), abs=1.1 / 80)
    assert 0 < found < 0.5


# Radii in the library


@pytest.mark.parametrize("options, told", [
    ({"eval_epsilon": 0.0}, "eval_epsilon=0.0 is not a radius above 0 and at most 1"),
    ({"eval_epsilon": -0.1}, "eval_epsilon=-0.1 is not a radius above 0 and at most 1"),
    ({"eval_epsilon": 2.0}, "eval_epsilon=2.0 is not a radius above 0 and at most 1"),
    ({"robust_images": 0}, "robust_images=0 is not a whole number of at least 1"),
    ({"tier": "full"}, "unknown tier 'full'"),
])  # fmt: skip
def test_attacks_that_cannot_be_are_refused_before_any_training(options, told):
    with pytest.raises(UserError, match=told):
        stitching("relu2", "relu2", **options)


def test_the_radius_asked_for_is_the_radius(digits):
    """A small one is attacked within, not within the usual one, and the tier is the one named."""
    network = checkpoints.load(LENET).network
    donor = Checkpoint(network, "lenet", "digits", 10, LENET)
    train, test = (split.between(0, 64) for split in digits)
    config = stitching(
        "relu2", "relu2", epochs=1, init="eye", no_pinv=True,
        robust_images=30, eval_epsilon=1e-4, tier="quick",
    )  # fmt: skip
    attacks = stitch(donor, donor, train, test, config).measured.attacks
    assert attacks.threat.epsilon == 1e-4
    assert list(attacks.robust["end"]) == ["FGSM", "PGD-20", "worst case"]
    assert attacks.robust["end"]["worst case"] == attacks.clean["end"]
