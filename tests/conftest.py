"""What the tests share: digits, networks in files, and the scripts as their users run them."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import robust_stitching
from robust_stitching import checkpoints, data, models
from robust_stitching.plans import Optimisation
from robust_stitching.training import Trainer, standard

REPOSITORY = Path(robust_stitching.__file__).resolve().parents[2]
"""The clone that is tested; of a mutant, its copy."""

SCRIPTS = REPOSITORY / "src" / "bin"
LEAVE_OUT = ("PYTHONPATH", "DATASET_ROOT_PYTORCH", "COLUMNS")

# Networks this small gain nothing from threads, and lose much where others use the machine.
torch.set_num_threads(1)

# Under nohup hang-ups are ignored, and Ctrl-C in the background of a script, also by all that is
# started here.
for _number, _usual in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


@pytest.fixture(scope="session")
def digits():
    """The training and the test split of digits."""
    return data.load("digits")


def _trained_pair(model, digits, folder):
    train = digits[0]
    mean, std = train.statistics()
    paths = []
    for seed in (0, 1):
        network = models.build(model, num_classes=10, in_channels=1, mean=mean, std=std, seed=seed)
        config = Optimisation(epochs=2, lr=0.05, batch_size=64, clip_norm=1)
        Trainer(network, standard, train.between(0, 512), config, seed=seed).run()
        path = folder / model / "Digits" / f"in{seed}-gn{seed}" / "model.pt"
        checkpoints.save(path, network, "digits", {"kind": "standard"})
        paths.append(path)
    return paths


@pytest.fixture(scope="session")
def lenets(digits, tmp_path_factory):
    """The files of two LeNets that were trained for a moment."""
    return _trained_pair("lenet", digits, tmp_path_factory.mktemp("snapshots"))


@pytest.fixture(scope="session")
def tiny10s(digits, tmp_path_factory):
    """The files of two Tiny-10 networks that were trained for a moment."""
    return _trained_pair("tiny10", digits, tmp_path_factory.mktemp("snapshots"))


@pytest.fixture(scope="session")
def start_script():
    """Start a script as a process of its own, in another folder and without PYTHONPATH."""

    kept = {key: value for key, value in os.environ.items() if key not in LEAVE_OUT}

    def start(name, *args, cwd):
        return subprocess.Popen(
            [sys.executable, SCRIPTS / name, *map(str, args)],
            cwd=cwd,
            env=kept | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def process_of():
    """Start a script as a process that ignores some signals, as nohup and shells have it; it ends
    with the test."""
    started = []

    def start(name, *args, ignoring=()):
        process = subprocess.Popen(
            [sys.executable, SCRIPTS / name, *map(str, args)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in ignoring],
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def run_script(start_script):
    """The same, waited for: (status, out, err)."""

    def run(name, *args, cwd):
        process = start_script(name, *args, cwd=cwd)
        out, err = process.communicate(timeout=120)
        return SimpleNamespace(status=process.returncode, out=out, err=err)

    return run


@pytest.fixture
def call_script(monkeypatch, capsys):
    """Run a script in this process, which spares its start; the rest is as a user runs it."""
    monkeypatch.syspath_prepend(SCRIPTS)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def call(name, *args):
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS / name), *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        out, err = capsys.readouterr()
        return SimpleNamespace(status=left.value.code or 0, out=out, err=err)

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tree():
    """The content of everything below a folder, to be compared before and after."""

    def look(folder):
        return {
            path.relative_to(folder): path.read_bytes() if path.is_file() else None
            for path in folder.rglob("*")
        }

    return look
