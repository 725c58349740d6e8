"""Processes that read images and die: one sentence, wherever the main process is just then."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from conftest import REPOSITORY
from robust_stitching import checkpoints, data
from robust_stitching.data import streamed
from robust_stitching.plans import DataRef, Optimisation, TrainPlan
from robust_stitching.runs.train import run as train_network
from robust_stitching.training import Trainer
from streamed_files import write_celeba, write_imagenet

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="needs signals of children")


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Twenty-four faces, which two processes read."""
    write_celeba(tmp_path / "faces", monkeypatch)
    monkeypatch.setattr(streamed, "WORTH_WORKERS", 1)
    return replace(data.load("celeba")[0], workers=2)


def kill_workers():
    """End the processes that read; the last of them has been waited for when this returns."""
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)


def wait():
    """Compute for a moment, in Python, where a handler of a signal would raise."""
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        torch.rand(100).sum().item()


@pytest.mark.parametrize("after", [0, 1, 3])
def test_killed_while_the_main_process_computes(train, after):
    batches = train.batches(1)
    for _ in range(after + 1):
        next(batches)
    kill_workers()
    wait()  # nothing is raised here
    with pytest.raises(data.Unreadable, match="set DATASET_WORKERS to fewer than 2") as error:
        list(batches)
    assert "celeba" in str(error.value).lower()
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("what", ["a death", "a broken file"])
def test_whoever_keeps_the_error_keeps_no_process(train, what):
    if what == "a broken file":
        train.paths[20:].fill(b"nowhere.jpg")
    batches = train.batches(1)
    next(batches)
    if what == "a death":
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(data.Unreadable) as error:
        list(batches)
    assert error.value.__traceback__
    assert not multiprocessing.active_children()


def test_killed_and_no_longer_needed(train, capfd):
    batches = train.batches(1)
    next(batches)
    kill_workers()
    wait()
    batches.close()
    assert not multiprocessing.active_children()
    assert capfd.readouterr().err == ""


def test_two_streams_at_once(train):
    """Each notices its own."""
    for one, other in zip(train.batches(2), train.epoch(2, seed=0, epoch=0), strict=True):
        assert len(one[1]) == len(other[1]) == 2
    assert len(list(train.batches(5))) == 5


@pytest.fixture
def first_loader(monkeypatch):
    """As if no loader had been used in this process: torch sets its handler of the signal once."""
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, before)


def test_handlers_of_others_stay(train, first_loader):
    """Whoever asks for the signal of a child's death still gets it."""
    noted = []

    def note(*_):
        noted.append(1)

    signal.signal(signal.SIGCHLD, note)
    next(train.batches(4))
    assert signal.getsignal(signal.SIGCHLD) is note
    noted.clear()
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert noted


@pytest.mark.parametrize("theirs", [True, False])
def test_torch_does_not_raise_in_our_steps(train, first_loader, theirs):
    """Neither where a loader of somebody else's has set its handler."""
    if theirs:
        list(DataLoader(torch.arange(4), num_workers=1))
        assert signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL
    test_killed_while_the_main_process_computes(train, 1)
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


def test_a_mistake_of_ours_in_a_worker_is_no_death(train, monkeypatch):
    def fail(self, batch):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(streamed.Decoder, "__getitem__", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        list(train.batches(4))


def test_a_training_that_never_began_leaves_nothing(train, tmp_path, monkeypatch):
    def fail(self, images, labels):
        raise data.Unreadable("an image is gone.")

    monkeypatch.setattr(Trainer, "step", fail)
    plan = TrainPlan(
        model="tiny10", dataset=DataRef("celeba"), training=Optimisation(epochs=1, lr=0.1)
    )
    with pytest.raises(data.Unreadable) as error:
        train_network(plan, tmp_path / "nets", torch.device("cpu"))
    assert str(error.value) == "an image is gone."
    assert not (tmp_path / "nets").exists()


def test_a_training_whose_worker_is_killed(tmp_path):
    """It keeps what it has, says one sentence, and goes on from there."""
    root = write_imagenet(tmp_path / "pictures", train=2, val=2)
    for part in root.glob("train/*"):
        (one, *_) = part.iterdir()
        for i in range(170):
            shutil.copy(one, part / f"more_{i}.JPEG")
    command = "-m tiny10 -d imagenet --image-size 32 -e 1 -b 8 -s 3 -o nets"
    script = REPOSITORY / "src" / "bin" / "train.py"
    options = {
        "cwd": tmp_path,
        "env": os.environ
        | {"DATASET_ROOT_IMAGENET": str(root), "DATASET_WORKERS": "2", "OMP_NUM_THREADS": "1"},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    process = subprocess.Popen([sys.executable, script, *command.split()], **options)
    folder = tmp_path / "nets" / "tiny10" / "ImageNet" / "in0-gn0"
    wait_for(lambda: (folder / "3.pt").exists(), process)
    os.kill(children(process.pid).pop(), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "Traceback" not in err and "Exception ignored" not in err
    (said,) = [line for line in err.splitlines() if "note: " not in line]
    assert "a process that reads ImageNet was ended by the system" in said
    assert "--resume goes on from there" in said
    assert checkpoints.read(folder / "resume.pt")["trainer"]["iteration"] >= 3
    done = subprocess.run([sys.executable, script, *command.split(), "--resume"], **options)
    assert done.returncode == 0, done.stderr
    assert len((folder / "training_log.csv").read_text().splitlines()) == 2


def children(pid):
    """The processes that a process has started."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return set(map(int, file.read().split()))


def wait_for(holds, process, seconds=60):
    end = time.monotonic() + seconds
    while not holds() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
