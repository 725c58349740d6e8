"""Trainings that are interrupted, hung up, terminated or killed, and how `resume` goes on."""

import re
import signal
import time
from dataclasses import replace

import pytest
import torch
from tqdm import tqdm

from killed import done_elsewhere, killed_before
from left_behind import names, wait_for
from robust_stitching import checkpoints, plans
from robust_stitching.basics.errors import UserError
from robust_stitching.plans import DataRef, Optimisation, TrainPlan
from robust_stitching.runs.listener import Listener
from robust_stitching.runs.train import run as train_network

CPU = torch.device("cpu")
PLAN = TrainPlan(
    model="lenet",
    dataset=DataRef("digits"),
    training=Optimisation(2, 0.05, 256, clip_norm=1),
    save_frequency=4,
)
FOLDER = "lenet/Digits/in0-gn0"
LONG_TRAINING = ["train.py", "-m", "lenet", "-d", "digits", "-e", "20", "-b", "64", "-s", "5"]


def weights_in(path):
    return checkpoints.load(path).network.state_dict()


def equal(one, other):
    return all(torch.equal(one[key], other[key]) for key in one.keys() | other.keys())


def interrupted(plan, out, number, step=3):
    """A training with a signal in the middle of its `step`-th step."""

    class Bar(tqdm):
        steps = 0

        def update(self, n=1):
            self.steps += 1
            if self.steps == step:
                signal.raise_signal(number)

    with pytest.raises(KeyboardInterrupt):
        train_network(plan, out, CPU, Listener(lambda total, *rest: Bar(total=total, disable=True)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return weights_in(train_network(PLAN, tmp_path_factory.mktemp("whole"), CPU).path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_training_keeps_its_state_and_goes_on(number, whole, tmp_path):
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    interrupted(PLAN, tmp_path, number)
    assert {n: signal.getsignal(n) for n in handlers} == handlers
    assert names(tmp_path / FOLDER) == ["resume.pt", "training_log.csv"]
    state = checkpoints.read(tmp_path / FOLDER / "resume.pt")
    assert state["trainer"]["iteration"] == 3
    assert equal(weights_in(train_network(PLAN, tmp_path, CPU, resume=True).path), whole)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_was_to_be_ignored_is_ignored(number, tmp_path):
    """By nohup, or by a shell for what runs in its background."""
    before = signal.signal(number, signal.SIG_IGN)

    class Bar(tqdm):
        def update(self, n=1):
            signal.raise_signal(number)

    try:
        train_network(PLAN, tmp_path, CPU, Listener(lambda total, *rest: Bar(disable=True)))
    finally:
        assert signal.signal(number, before) is signal.SIG_IGN
    assert (tmp_path / FOLDER / "model.pt").exists()


def test_the_second_signal_acts_at_once(tmp_path):
    class Bar(tqdm):
        def update(self, n=1):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        train_network(PLAN, tmp_path, CPU, Listener(lambda total, *rest: Bar(disable=True)))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "number, ignoring",
    [(signal.SIGHUP, ()), (signal.SIGTERM, (signal.SIGINT, signal.SIGHUP))],
    ids=["hung up", "terminated in the background"],
)
def test_train(number, ignoring, process_of, tmp_path):
    process = process_of(*LONG_TRAINING, "-e", "2000", "-o", tmp_path, ignoring=ignoring)
    folder = tmp_path / FOLDER
    wait_for(folder / "5.pt")
    for other in ignoring:
        process.send_signal(other)
        wait_for(folder / "100.pt")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("interrupted; the same command with --resume goes on from here.\n")
    assert "Traceback" not in err
    assert {"resume.pt", "training_log.csv"} <= set(names(folder))
    assert not [name for name in names(folder) if name.startswith(".")]


def test_two_trainings_in_one_folder(process_of, call_script, tmp_path):
    """The second is refused at once; when the first is killed, `resume` goes on."""
    process = process_of(*LONG_TRAINING, "-o", tmp_path)
    wait_for(tmp_path / FOLDER / "resume.pt")
    process.send_signal(signal.SIGSTOP)  # or it could be finished before we have looked
    for more in ([], ["--resume"], ["-lr", "0.5"]):
        done = call_script(*LONG_TRAINING, "-o", tmp_path, *more)
        assert done.status == 2 and done.out == "" and done.err.count("\n") == 1
        assert re.search(
            rf"in0-gn0 is being trained into by process {process.pid} on \S+, since 20\d\d-",
            done.err,
        )
    process.kill()
    process.wait()
    assert ".lock" in names(tmp_path / FOLDER)
    assert "--resume" in call_script(*LONG_TRAINING, "-o", tmp_path).err
    done = call_script(*LONG_TRAINING, "-o", tmp_path, "--resume")
    assert (done.status, done.err) == (0, "")
    found = names(tmp_path / FOLDER)
    assert {"model.pt", "training_log.csv"} <= set(found)
    assert not {"resume.pt", ".lock"} & set(found)
    assert len((tmp_path / FOLDER / "training_log.csv").read_text().splitlines()) == 21


def killed_training(change, out, resume=False):
    """The changes are those that make something visible, or that remove it."""
    kinds = {"os.rename", "os.remove"}
    work = lambda: train_network(PLAN, out, CPU, resume=resume)  # noqa: E731
    return killed_before(change, out, work, kinds)


def check_resumed(out, whole):
    folder = out / FOLDER
    for path in folder.glob("*.pt"):
        checkpoints.read(path)  # each is whole
    if not (folder / "model.pt").exists():
        done_elsewhere(out, lambda: train_network(PLAN, out, CPU, resume=True))
        assert not [name for name in names(folder) if name.startswith(".")]
    assert equal(weights_in(folder / "model.pt"), whole)
    assert plans.read(folder / "training.json", TrainPlan).save_frequency == PLAN.save_frequency
    assert len((folder / "training_log.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("change", [1, 3, 9, 12, 16, 21])
def test_a_training_that_is_killed_between_two_files_goes_on(change, whole, tmp_path):
    assert killed_training(change, tmp_path)
    check_resumed(tmp_path, whole)


@pytest.mark.slow
def test_a_training_that_is_killed_between_any_two_files_goes_on(whole, tmp_path):
    change = 1
    while killed_training(change, tmp_path / str(change)):
        check_resumed(tmp_path / str(change), whole)
        change += 1
    assert change > 15


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends(process_of, tmp_path):
    """At random moments; each time `resume` goes on."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "killed" / FOLDER
    kills = 0
    while not (folder / "model.pt").exists():
        process = process_of(*LONG_TRAINING, "-o", tmp_path / "killed", "--resume")
        if kills < 8:
            wait_for(folder / ".lock")
            time.sleep(2.5 * torch.rand((), generator=generator).item())
            process.kill()
            kills += 1
        process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL)
    process = process_of(*LONG_TRAINING, "-o", tmp_path / "whole")
    assert process.wait() == 0
    assert equal(
        weights_in(folder / "model.pt"), weights_in(tmp_path / "whole" / FOLDER / "model.pt")
    )
    assert not [name for name in names(folder) if name.startswith(".")]


def test_a_training_whose_folder_was_taken_over_writes_no_more(tmp_path, tree):
    """As when a machine slept for long, and another one went on."""
    folder, seen = tmp_path / FOLDER, {}

    def take_over(history):
        (folder / ".lock").write_text("{}")
        seen.update(tree(folder))

    with pytest.raises(UserError, match="was taken over by"):
        train_network(replace(PLAN, save_frequency=1000), tmp_path, CPU, after_epoch=take_over)
    assert tree(folder) == seen


def test_the_disk_is_full(tmp_path, monkeypatch):
    save = torch.save

    def full(values, file):
        if "trainer" in values and values["trainer"]["iteration"] > 6:
            raise OSError(28, "No space left on device")
        save(values, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError) as error:
        train_network(PLAN, tmp_path, CPU)
    assert re.search(
        r"resume\.pt could not be written \(No space .* `resume` goes on", str(error.value)
    )
    monkeypatch.undo()
    assert checkpoints.read(tmp_path / FOLDER / "resume.pt")["trainer"]["iteration"] == 6
    train_network(PLAN, tmp_path, CPU, resume=True)
