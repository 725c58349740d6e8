"""The file that keeps what an evaluation finds: it grows, and stays whole whatever happens."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from conftest import REPOSITORY
from robust_stitching import checkpoints
from robust_stitching.attacks import Threat
from robust_stitching.basics.errors import UserError
from robust_stitching.evaluation import kept
from robust_stitching.evaluation.kept import MAGIC, adversarial_images, attack_and_keep
from robust_stitching.evaluation.robustness import robustness, suite

LENET = REPOSITORY / "archive/lenet/Digits/in0-gn0/model.pt"
SETTINGS = {"what": "a test", "epsilon": 0.1, "n": 60}
ATTACKS = suite("quick", Threat(0.1), 10, steps=5)


@pytest.fixture(scope="module")
def lenet():
    return checkpoints.load(LENET).network


@pytest.fixture(scope="module")
def split(digits):
    return digits[1].sample(60)


@pytest.fixture(scope="module")
def unkept(lenet, split):
    return robustness(lenet, split, ATTACKS, seed=0, batch_size=25)


def keep(lenet, split, path, *, settings=SETTINGS, batch_size=25):
    return attack_and_keep(lenet, split, ATTACKS, settings, path, seed=0, batch_size=batch_size)


def same(one, other):
    assert one.warnings == other.warnings and one.done == other.done
    assert torch.equal(one.right, other.right)
    assert all(torch.equal(steps, other.steps[name]) for name, steps in one.steps.items())


@pytest.fixture
def stopping(monkeypatch):
    """Make the evaluation stop when it is about to attack the batch after so many."""
    inner = kept.robustness

    def stop_after(batches):
        def interrupted(*args, after_batch, **options):
            seen = []

            def note(part):
                after_batch(part)
                seen.append(part)
                if len(seen) == batches:
                    raise KeyboardInterrupt

            return inner(*args, after_batch=note, **options)

        monkeypatch.setattr(kept, "robustness", interrupted)

    yield stop_after


def begun(stopping, lenet, split, path, batches=1):
    stopping(batches)
    with pytest.raises(KeyboardInterrupt):
        keep(lenet, split, path)
    stopping(99)


# What is in it


def test_only_what_is_new_is_appended(lenet, split, unkept, tmp_path, stopping):
    path = tmp_path / "kept"
    begun(stopping, lenet, split, path)
    first = path.read_bytes()
    begun(stopping, lenet, split, path)
    second = path.read_bytes()
    same(keep(lenet, split, path), unkept)
    third = path.read_bytes()
    assert third.startswith(second) and second.startswith(first) and first.startswith(MAGIC)
    pixels = 4 * unkept.images[0].numel()
    fooled = [len(places) for places, _ in adversarial_images(path)]
    sizes = [len(first), len(second) - len(first), len(third) - len(second)]
    for count, size in zip(fooled, sizes, strict=True):
        assert count * pixels < size < count * pixels + 8000  # one image each, little besides
    same(keep(lenet, split, path), unkept)
    assert path.read_bytes() == third


def test_the_adversarial_images_are_there(lenet, split, unkept, tmp_path):
    keep(lenet, split, tmp_path / "kept")
    originals = next(split.batches(60))[0].clone()
    changed = originals.clone()
    for places, images in adversarial_images(tmp_path / "kept"):
        assert (images != originals[places]).flatten(1).any(dim=1).all()
        changed[places] = images
    assert torch.equal(changed, unkept.images)


def test_nothing_of_all_images_is_in_memory(lenet, split, tmp_path):
    assert keep(lenet, split, tmp_path / "kept").images is None


@pytest.mark.parametrize("batch_size", [7, 60])
def test_other_batches_go_on(batch_size, lenet, split, tmp_path, stopping):
    begun(stopping, lenet, split, tmp_path / "kept")
    same(
        keep(lenet, split, tmp_path / "kept", batch_size=batch_size),
        robustness(lenet, split, ATTACKS, seed=0, batch_size=batch_size),
    )


# Interruptions and full disks


@pytest.mark.parametrize("cut", [1, 5, 13, 500, 20_000])
def test_half_a_record_is_written_again(cut, lenet, split, unkept, tmp_path, stopping):
    """As a process that is killed, or a machine without power, leaves it."""
    path = tmp_path / "kept"
    begun(stopping, lenet, split, path, batches=2)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    same(keep(lenet, split, path), unkept)
    again = path.read_bytes()
    assert again.startswith(content[: -cut - 1])
    path.write_bytes(content + bytes(cut))  # blocks that were never written read as zeros
    same(keep(lenet, split, path), unkept)
    assert path.read_bytes() == again


def test_every_beginning_of_a_file_can_be_gone_on_with(lenet, split, tmp_path):
    path = tmp_path / "kept"
    path.write_bytes(b"")
    whole = keep(lenet, split.between(0, 3), path)
    content = path.read_bytes()
    for size in [0, 5, 23, 24, 25, 35, 36, 40, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:size])
        same(keep(lenet, split.between(0, 3), path), whole)
        assert path.read_bytes() == content


def test_what_is_damaged_is_not_written_over(lenet, split, tmp_path):
    path = tmp_path / "kept"
    keep(lenet, split, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"kept is damaged at byte \d+"):
        keep(lenet, split, path)
    assert path.read_bytes() == bytes(content)


def test_an_interruption_before_the_first_batch_leaves_nothing(lenet, split, tmp_path, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(kept, "robustness", interrupt)
    with pytest.raises(KeyboardInterrupt):
        keep(lenet, split, tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


COMMAND = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({{limit}}, {{limit}}))
sys.path.insert(0, {str(REPOSITORY / "src" / "bin")!r})
sys.argv = ["eval_net_robustness.py", {str(LENET)!r}, *{{flags}}]
import runpy
runpy.run_path({str(REPOSITORY / "src" / "bin" / "eval_net_robustness.py")!r}, run_name="__main__")
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limits on files here")
def test_a_full_disk_keeps_what_was_whole(tmp_path, call_script):
    """A file that may not grow beyond 60,000 bytes stands for the disk."""
    path = tmp_path / "kept"
    flags = ["--tier", "quick", "--steps", "3", "--epsilon", "0.1", "--n-images", "60", "-b", "10"]
    flags += ["--keep", str(path)]
    run = COMMAND.format(limit=60_000, flags=flags)
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert f"cannot write {path}" in done.stderr and "goes on from there" in done.stderr
    before = path.read_bytes()
    assert before[: len(MAGIC)] == MAGIC and 10_000 < len(before) <= 60_000
    count = len(list(adversarial_images(path)))
    assert 1 <= count < 6
    done = call_script("eval_net_robustness.py", LENET, *flags)
    assert (done.status, done.err) == (0, "")
    assert path.read_bytes().startswith(before)
    assert len(list(adversarial_images(path))) == 6


def test_a_killed_process_is_gone_on_after(tmp_path, start_script, call_script):
    path = tmp_path / "kept"
    flags = ["--tier", "quick", "--epsilon", "0.1", "--n-images", "60", "-b", "1"]
    flags += ["--keep", path]
    process = start_script("eval_net_robustness.py", LENET, *flags, cwd=tmp_path)
    while process.poll() is None and not (path.exists() and path.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(list(adversarial_images(path)))
    done = call_script("eval_net_robustness.py", LENET, *flags)
    assert done.status == 0, done.err
    assert 1 <= before < 60 == len(list(adversarial_images(path)))
    plain = call_script("eval_net_robustness.py", LENET, *flags[:-2])
    assert plain.out == done.out


# What cannot be gone on with


def test_other_settings_are_refused(lenet, split, tmp_path):
    path = tmp_path / "kept"
    keep(lenet, split, path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="kept by a run with other settings"):
        keep(lenet, split, path, settings=SETTINGS | {"epsilon": 0.2})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"words", b"PK\x03\x04", MAGIC[:-1] + b"x"])
def test_something_else_is_refused(content, lenet, split, tmp_path):
    path = tmp_path / "kept"
    path.write_bytes(content)
    with pytest.raises(UserError, match="kept by no evaluation under attack"):
        keep(lenet, split, path)
    assert path.read_bytes() == content


@pytest.fixture
def unattacked(monkeypatch):
    """An evaluation that fails when it is begun."""

    def attack(*args, **options):
        raise AssertionError("images were attacked")

    monkeypatch.setattr(kept, "robustness", attack)


def test_what_cannot_be_written_is_refused_before_any_attack(
    lenet, split, tmp_path, unattacked, monkeypatch
):
    (tmp_path / "file").write_text("")
    cases = {tmp_path: "is no file", "/dev/full": "is no file"}
    cases |= {tmp_path / "file" / "kept": "cannot write", "/proc/kept": "cannot write"}
    for path, told in cases.items():
        with pytest.raises(UserError, match=told):
            keep(lenet, split, type(tmp_path)(path))
    refused = PermissionError(13, "Permission denied")  # which root, who may run this, never sees
    monkeypatch.setattr(os, "open", lambda *args, **options: (_ for _ in ()).throw(refused))
    with pytest.raises(UserError, match=r"cannot write .*kept \(Permission denied\)"):
        keep(lenet, split, tmp_path / "kept")


def test_two_runs_do_not_mix(lenet, split, tmp_path):
    path, parts = tmp_path / "kept", []
    robustness(lenet, split.between(0, 5), ATTACKS, after_batch=parts.append)
    with kept._Journal.open(path, SETTINGS, 0) as journal:
        keep(lenet, split, path)
        whole = path.read_bytes()
        with pytest.raises(UserError, match="another run writes to"):
            journal.append(parts[0])
    assert path.read_bytes() == whole


def test_one_file_for_two_purposes_is_refused(tmp_path, call_script):
    flags = ["--json", tmp_path / "x", "--keep", tmp_path / "." / "x"]
    done = call_script("eval_net_robustness.py", LENET, *flags)
    assert done.status == 2 and "--json and --keep both name" in done.err
    assert list(tmp_path.iterdir()) == []
