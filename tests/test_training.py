"""The training loop against formulas, its interruptions, and the files it keeps."""

import csv
import math
import re
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from tqdm import tqdm

from left_behind import strict_json
from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.evaluation import evaluate
from robust_stitching.plans import DataRef, Optimisation, TrainPlan
from robust_stitching.runs.listener import Listener
from robust_stitching.runs.train import run as train_network
from robust_stitching.training import Diverged, Metrics, Trainer, standard
from robust_stitching.training.trainer import learning_rate

CPU = torch.device("cpu")
CLOCK = ("seconds", "images_per_second")


def small_split(n=40, augmentation=None):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 6, 6), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (n,), generator=generator)
    return data.Split("Small", images, labels, tuple("abc"), augmentation)


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


def with_dropout(seed=0):
    torch.manual_seed(seed)
    layers = nn.Linear(36, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 3)
    return nn.Sequential(nn.Flatten(), *layers)


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def without_clock(history):
    return [replace(record, **dict.fromkeys(CLOCK, 0)) for record in history]


# The rate


@pytest.mark.parametrize(
    "iteration, expected", [(0, 1), (9, 1), (10, 0.1), (19, 0.1), (20, 0.01), (29, 0.01)]
)
def test_rate_is_divided_at_one_and_two_thirds(iteration, expected):
    config = Optimisation(epochs=1, lr=0.3)
    assert learning_rate(config, iteration, 30) == pytest.approx(0.3 * expected, rel=1e-12)


def test_the_cosine_is_that_of_torch():
    config = Optimisation(epochs=1, lr=0.3, schedule="cosine")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    usual = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    expected = []
    for _ in range(30):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        usual.step()
    assert [learning_rate(config, i, 30) for i in range(30)] == pytest.approx(expected, rel=1e-9)
    assert learning_rate(config, 30, 30) == pytest.approx(0, abs=1e-12)
    warm = Optimisation(epochs=1, lr=0.3, schedule="cosine", warmup=4)
    assert learning_rate(warm, 1, 30) == pytest.approx(expected[1] / 2, rel=1e-9)


@pytest.mark.parametrize("warmup, length", [(4, 4), (6, 6), (50, 6), (0, 0)])
def test_rate_rises_over_the_warm_up(warmup, length):
    config = Optimisation(epochs=1, lr=0.3, warmup=warmup)
    rates = [learning_rate(config, i, 30) for i in range(10)]
    expected = [0.3 * min(1, (i + 1) / length) if length else 0.3 for i in range(10)]
    assert rates == pytest.approx(expected, rel=1e-12)


def test_rates_of_a_run():
    config = Optimisation(epochs=3, lr=0.2, batch_size=10)
    trainer, used = Trainer(linear(), standard, small_split(), config), []
    history = trainer.run(lambda t: used.append(t.optimizer.param_groups[0]["lr"]))
    assert used == pytest.approx([0.2] * 4 + [0.02] * 4 + [0.002] * 4, rel=1e-12)
    assert [record.lr for record in history] == pytest.approx([0.2, 0.02, 0.002], rel=1e-12)


# The steps


def gradient(weight, bias, split):
    """Of the mean cross-entropy of softmax regression, in float64."""
    x = split.images.numpy().reshape(len(split), -1) / 255
    logits = x @ weight.T + bias
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p[np.arange(len(split)), split.labels] -= 1
    return p.T @ x / len(split), p.mean(axis=0)


def sgd(lr, decay, split, values):
    velocity = [np.zeros_like(value) for value in values]
    for rate in lr:
        for i, g in enumerate(gradient(*values, split)):
            g = g + decay * values[i]
            velocity[i] = 0.9 * velocity[i] + g
            values[i] = values[i] - rate * (g + 0.9 * velocity[i])
    return values


def adam(lr, decay, split, values):
    first, second = ([np.zeros_like(value) for value in values] for _ in range(2))
    for step, rate in enumerate(lr, start=1):
        for i, g in enumerate(gradient(*values, split)):
            g = g + decay * values[i]
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            mean, square = first[i] / (1 - 0.9**step), second[i] / (1 - 0.999**step)
            values[i] = values[i] - rate * mean / (np.sqrt(square) + 1e-8)
    return values


@pytest.mark.parametrize("optimizer", [sgd, adam])
@pytest.mark.parametrize("decay", [0, 0.3])
def test_first_steps_are_those_of_the_formula(optimizer, decay):
    split, network = small_split(), linear()
    start = [p.detach().numpy().astype(np.float64) for p in network.parameters()]
    config = Optimisation(
        epochs=3, lr=0.1, batch_size=40, weight_decay=decay, optimizer=optimizer.__name__
    )
    Trainer(network, standard, split, config).run()
    expected = optimizer([0.1, 0.01, 0.001], decay, split, start)
    for ours, reference in zip(network.parameters(), expected, strict=True):
        np.testing.assert_allclose(ours.detach(), reference, atol=2e-6)


@pytest.mark.parametrize("clip", [0, 0.5, 2.0])
def test_clipping_bounds_the_norm_of_the_whole_gradient(clip):
    def steep(*batch):
        outcome = standard(*batch)
        return outcome._replace(loss=100 * outcome.loss)

    split, network = small_split(), linear()
    start = [p.detach().numpy().astype(np.float64) for p in network.parameters()]
    config = Optimisation(1, lr=0.01, batch_size=40, weight_decay=0, clip_norm=clip)
    Trainer(network, steep, split, config).run()
    moved = [a - p.detach().numpy() for a, p in zip(start, network.parameters(), strict=True)]
    norm = math.sqrt(sum((change**2).sum() for change in moved)) / (0.01 * 1.9)  # Nesterov: 1 + 0.9
    whole = 100 * math.sqrt(sum((g**2).sum() for g in gradient(*start, split)))
    assert whole > 10
    assert norm == pytest.approx(clip or whole, rel=1e-3)


# The run


def run(network, config, split, **options):
    trainer = Trainer(network, standard, split, config, **options)
    trainer.run()
    return weights(network), without_clock(trainer.history)


def test_the_seed_decides():
    split, config = small_split(), Optimisation(2, 0.1, 16)
    one = run(with_dropout(), config, split)
    torch.rand(11)
    assert equal(one[0], run(with_dropout(), config, split)[0])
    assert not equal(one[0], run(with_dropout(), config, split, seed=1)[0])


def test_looking_at_the_test_split_changes_nothing():
    split, config = small_split(), Optimisation(2, 0.1, 16)

    def look(network):
        found = evaluate(network, split)
        return Metrics(found.loss, found.accuracy)

    unseen, seen = with_dropout(), with_dropout()
    assert equal(run(unseen, config, split)[0], run(seen, config, split, evaluate=look)[0])


class Stop(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("steps", [1, 3, 4, 8])  # three steps are an epoch
def test_resuming_ends_where_an_uninterrupted_run_ends(steps, optimizer, tmp_path):
    split = small_split(augmentation=data.SOURCES["mnist"].augmentation)
    config = Optimisation(4, 0.1, 16, optimizer=optimizer, clip_norm=1, warmup=2)

    def look(network):
        found = evaluate(network, split)
        return Metrics(found.loss, found.accuracy)

    def interrupt(trainer):
        if trainer.iteration == steps:
            checkpoints.write(tmp_path / "state.pt", trainer.state_dict())
            raise Stop

    whole = run(with_dropout(), config, split, evaluate=look)
    with pytest.raises(Stop):
        Trainer(with_dropout(), standard, split, config, look).run(interrupt)
    resumed = Trainer(with_dropout(seed=5), standard, split, config, look)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.rand(3)
    resumed.run()
    assert equal(weights(resumed.network), whole[0])
    assert without_clock(resumed.history) == whole[1]


def test_the_log_is_that_of_the_images_seen():
    split, seen = small_split(), []

    def noting(network, images, labels, iteration):
        outcome = standard(network, images, labels, iteration)
        seen.append((outcome.logits.detach().double().numpy(), labels.numpy()))
        return outcome

    config = Optimisation(1, 0.1, 16)
    (record,) = Trainer(linear(), noting, split, config).run()
    out, labels = (np.concatenate(part) for part in zip(*seen, strict=True))
    assert record.train_loss == pytest.approx(cross_entropy(out, labels), rel=1e-6)
    assert record.train_accuracy == pytest.approx((out.argmax(axis=1) == labels).mean())
    assert (record.epoch, record.iteration, record.test_loss) == (1, 3, None)


def cross_entropy(logits, labels):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(p[np.arange(len(labels)), labels]).mean()


@pytest.mark.parametrize("batch_size", [7, 40, 500])
def test_evaluate_is_numpys_and_restores_modes(batch_size):
    split, network = small_split(), with_dropout()
    network.train()
    network[2].eval()
    modes = [module.training for module in network.modules()]
    before = weights(network)
    found = evaluate(network, split, batch_size)
    assert [module.training for module in network.modules()] == modes
    assert equal(before, weights(network))

    network.eval()
    logits = network(split.images.float() / 255).detach().double().numpy()
    labels = split.labels.numpy()
    assert found.loss == pytest.approx(cross_entropy(logits, labels), rel=1e-5)
    assert found.accuracy == pytest.approx((logits.argmax(axis=1) == labels).mean())
    assert found.n_images == 40


@pytest.mark.parametrize("model, lr, reached", [("tiny10", 0.1, 0.75), ("lenet", 0.1, 0.8)])
def test_networks_learn(model, lr, reached, digits):
    train, test = digits
    mean, std = train.statistics()
    network = models.build(model, num_classes=10, in_channels=1, mean=mean, std=std)
    Trainer(network, standard, train, Optimisation(4, lr, 64, clip_norm=1)).run()
    assert evaluate(network, test).accuracy > reached


# Into a folder


PLAN = TrainPlan(
    model="lenet",
    dataset=DataRef("digits"),
    training=Optimisation(2, 0.05, 128, clip_norm=1),
    save_frequency=5,
)
FOLDER = "lenet/Digits/in0-gn0"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, train_network(PLAN, out, CPU)


def test_the_files_of_a_training(finished, digits):
    out, trained = finished
    assert trained.path == out / FOLDER / "model.pt"
    kept = ["10.pt", "15.pt", "20.pt", "5.pt", "model.pt", "training.json", "training_log.csv"]
    assert names(out / FOLDER) == kept
    loaded = checkpoints.load(trained.path)
    assert (loaded.model, loaded.dataset, loaded.classes) == ("lenet", "digits", 10)
    assert loaded.training["plan"]["training"]["lr"] == 0.05
    last = trained.history[-1]
    found = evaluate(loaded.network, digits[1])
    assert (found.accuracy, found.loss) == (last.test_accuracy, pytest.approx(last.test_loss))


def test_the_report_of_a_training_runs_it_again(finished, call_script, tmp_path):
    _, trained = finished
    report, kept = trained.path.with_name("training.json"), checkpoints.load(trained.path)
    told = strict_json(report)
    assert told["plan"] == kept.training["plan"]
    assert (told["kind"], told["precision"], told["notes"]) == ("standard", "float32", [])
    assert told["test_accuracy"] == trained.history[-1].test_accuracy
    assert "torch" in told["versions"] and "commit" in told
    done = call_script("train.py", "--plan", report, "-o", tmp_path, "--device", "cpu")
    assert done.status == 0, done.err
    again = checkpoints.load(tmp_path / FOLDER / "model.pt").network.state_dict()
    assert all(torch.equal(again[key], v) for key, v in kept.network.state_dict().items())
    done = call_script("train.py", "--plan", trained.path, "-o", tmp_path)
    assert done.status == 2 and done.err.count("\n") == 1
    assert re.search(r"model\.pt is no JSON .*; give a plan, as in training\.json beside", done.err)


def test_the_log_of_a_training(finished):
    out, trained = finished
    with (out / FOLDER / "training_log.csv").open() as file:
        log = list(csv.DictReader(file))
    assert [(int(line["epoch"]), int(line["iteration"])) for line in log] == [(1, 12), (2, 24)]
    assert list(log[0])[:3] == ["epoch", "iteration", "lr"]
    assert {"train_loss", "train_accuracy", "test_loss", "test_accuracy", *CLOCK} <= set(log[0])
    assert [float(line["test_loss"]) for line in log] == [r.test_loss for r in trained.history]


def test_another_initialisation_lands_elsewhere(finished, tmp_path):
    _, trained = finished
    other = train_network(
        replace(PLAN, init_noise=1, training=replace(PLAN.training, epochs=1)), tmp_path, CPU
    )
    assert other.path == tmp_path / "lenet/Digits/in1-gn0/model.pt"
    one, two = (checkpoints.load(path).network for path in (trained.path, other.path))
    assert not torch.equal(one.conv1.weight, two.conv1.weight)


def test_a_finished_training_is_not_overwritten(finished, tree):
    out, _ = finished
    before = tree(out)
    for resume in (False, True):
        with pytest.raises(UserError, match="exists already"):
            train_network(PLAN, out, CPU, resume=resume)
    assert tree(out) == before


def interrupted(step, plan, out):
    """A training with Ctrl-C in the middle of its `step`-th step."""

    class Bar(tqdm):
        steps = 0

        def update(self, n=1):
            self.steps += 1
            if self.steps == step:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_network(plan, out, CPU, Listener(lambda total, *rest: Bar(total=total, disable=True)))


@pytest.mark.parametrize("step", [1, 7, 12, 24])  # an epoch has 12
def test_resuming_a_training(step, finished, tmp_path):
    interrupted(step, PLAN, tmp_path)
    assert "resume.pt" in names(tmp_path / FOLDER)
    assert "model.pt" not in names(tmp_path / FOLDER)
    resumed = train_network(PLAN, tmp_path, CPU, resume=True)
    out, whole = finished
    assert names(tmp_path / FOLDER) == names(out / FOLDER)
    assert without_clock(resumed.history) == without_clock(whole.history)
    one, two = (checkpoints.load(t.path).network.state_dict() for t in (resumed, whole))
    assert equal(one, two)
    assert len((tmp_path / FOLDER / "training_log.csv").read_text().splitlines()) == 3


def test_an_interrupted_training_is_told_from_another(tmp_path, tree):
    interrupted(3, PLAN, tmp_path)
    before = tree(tmp_path)
    with pytest.raises(UserError, match="go on with `resume`"):
        train_network(PLAN, tmp_path, CPU)
    other = replace(PLAN, training=replace(PLAN.training, lr=0.5))
    with pytest.raises(UserError, match=r"lr` was 0\.05 and is 0\.5"):
        train_network(other, tmp_path, CPU, resume=True)
    assert tree(tmp_path) == before


def test_a_loss_that_is_no_number_names_the_epoch():
    config = Optimisation(3, 1e30, 10)
    with pytest.raises(Diverged, match="epoch 1"):
        Trainer(linear(), standard, small_split(), config).run()


def test_what_was_good_stays_when_a_training_diverges(tmp_path):
    plan = replace(PLAN, training=Optimisation(3, 1e6, clip_norm=0), save_frequency=1)
    with pytest.raises(UserError, match=r"epoch 1 .*1e\+06.*Kept in .*\.pt") as error:
        train_network(plan, tmp_path, CPU)
    assert isinstance(error.value, Diverged)
    kept = [name for name in names(tmp_path / FOLDER) if name.endswith(".pt")]
    assert "model.pt" not in kept
    for name in kept:
        state = checkpoints.load(tmp_path / FOLDER / name).network.state_dict()
        assert all(value.isfinite().all() for value in state.values())


def test_diverging_at_once_leaves_no_folder(tmp_path, tree):
    plan = replace(PLAN, training=Optimisation(1, 1e30, clip_norm=0))
    with pytest.raises(UserError, match="No snapshot"):
        train_network(plan, tmp_path, CPU)
    assert tree(tmp_path) == {}


def test_ctrl_c_and_resume(start_script, call_script, tmp_path):
    flags = ["-m", "lenet", "-d", "digits", "-e", "8", "-b", "64", "-s", "5"]
    process = start_script("train.py", *flags, "-o", tmp_path / "one", cwd=tmp_path)
    folder = tmp_path / "one" / FOLDER
    deadline = time.monotonic() + 120
    while not (folder / "5.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in err.splitlines()[-1]
    assert "Traceback" not in err
    kept = names(folder)
    assert {"resume.pt", "5.pt"} <= set(kept)
    assert "model.pt" not in kept
    assert not [name for name in kept if name.startswith(".")]

    assert call_script("train.py", *flags, "-o", tmp_path / "one", "--resume").status == 0
    assert call_script("train.py", *flags, "-o", tmp_path / "two").status == 0
    one, two = (checkpoints.load(tmp_path / out / FOLDER / "model.pt") for out in ("one", "two"))
    assert equal(one.network.state_dict(), two.network.state_dict())
    assert not (folder / "resume.pt").exists()
