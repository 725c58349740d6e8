"""Files that are whole or not there, and what is said where the system refuses to write them."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from matplotlib.figure import Figure

from conftest import REPOSITORY
from left_behind import names
from robust_stitching import checkpoints
from robust_stitching.basics import files
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import NotWritten, json_file, replacing, write_json


@pytest.fixture
def little_room():
    """Files may not grow beyond 20 kB: as a full disk or a quota, writing fails in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def earlier(tmp_path):
    path = tmp_path / "file"
    path.write_text("earlier")
    return path


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, UserError])
def test_whatever_ends_the_writing_leaves_the_earlier_file(error, earlier):
    with pytest.raises(error), replacing(earlier) as temporary:
        temporary.write_text("half")
        raise error
    assert earlier.read_text() == "earlier" and names(earlier.parent) == ["file"]


def test_the_content_is_on_the_disk_before_the_name_changes(earlier, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace

    def note(what, call):
        return lambda *args: (done.append(what), call(*args))[1]

    monkeypatch.setattr(os, "fsync", note("fsync", fsync))
    monkeypatch.setattr(os, "replace", note("replace", replace))
    with replacing(earlier) as temporary:
        temporary.write_text("new")
    assert done == ["fsync", "replace"] and earlier.read_text() == "new"


@pytest.mark.parametrize("number, refused", [(28, True), (122, True), (5, True), (22, False)])
def test_a_quota_that_is_told_late(number, refused, earlier, monkeypatch):
    """Network file systems take what is written and refuse when it has to be on the disk; EINVAL
    says that a file system does not know the question."""

    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    try:
        with replacing(earlier) as temporary:
            temporary.write_text("new")
        assert not refused and earlier.read_text() == "new"
    except NotWritten as error:
        assert refused and os.strerror(number) in str(error)
        assert earlier.read_text() == "earlier"
    assert names(earlier.parent) == ["file"]


def test_a_link_stays_a_link(earlier, tmp_path):
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(earlier)
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and earlier.read_text() == "new"


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "-", ".hidden"])
def test_names_of_every_length(name, tmp_path):
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == [name]


# Full disks


@pytest.mark.parametrize("kind", ["checkpoint", "json", "text", "figure"])
def test_what_does_not_fit_is_told_in_a_sentence(kind, earlier, little_room):
    write = {
        "checkpoint": lambda: checkpoints.write(earlier, {"weights": torch.zeros(100_000)}),
        "json": lambda: write_json(earlier, list(range(100_000))),
        "text": lambda: checkpoints.write(earlier, {"words": "x" * 100_000}),
        "figure": lambda: draw(earlier),
    }[kind]
    with pytest.raises(NotWritten) as error:
        write()
    assert str(error.value).startswith(f"{earlier} could not be written (")
    assert "\n" not in str(error.value) and "make room" in str(error.value)
    assert earlier.read_text() == "earlier" and names(earlier.parent) == ["file"]


def draw(path):
    """matplotlib's writer of PDF stumbles over its own stream where the system refuses more."""
    figure = Figure()
    figure.subplots().imshow(torch.rand(300, 300).numpy())
    with replacing(path) as temporary:
        figure.savefig(temporary, format="pdf")


def test_other_mistakes_are_told_from_a_full_disk(earlier):
    with pytest.raises(ZeroDivisionError), replacing(earlier):
        try:
            raise FileNotFoundError(2, "is looked for and handled")
        except OSError:
            raise ZeroDivisionError from None
    try:
        raise OSError(28, "of something else")
    except OSError:
        with pytest.raises(ZeroDivisionError), replacing(earlier):
            raise ZeroDivisionError from None
    assert earlier.read_text() == "earlier" and names(earlier.parent) == ["file"]


def test_what_torch_says_of_other_mistakes_stays(tmp_path):
    with pytest.raises(RuntimeError, match="mine"):
        checkpoints.write(tmp_path / "x.pt", {"bad": Bad()})


class Bad:
    def __reduce__(self):
        raise RuntimeError("mine")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        path = disk / "model.pt"
        checkpoints.write(path, {"weights": torch.ones(100)})
        with pytest.raises(NotWritten, match="No space left on device"):
            checkpoints.write(path, {"weights": torch.zeros(100_000)})
        assert checkpoints.read(path)["weights"].sum() == 100 and names(disk) == ["model.pt"]
    finally:
        subprocess.run(["umount", disk], check=True)


# JSON that goes to a device or a pipe


def test_json_to_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    with json_file(pipe):
        write_json(pipe, {"a": 1})
    assert json.loads(reader.communicate()[0]) == {"a": 1}
    assert names(tmp_path) == ["pipe"]


def test_json_to_a_full_device():
    with json_file(files.Path("/dev/full")), pytest.raises(NotWritten, match=r"^/dev/full .*No sp"):
        write_json(files.Path("/dev/full"), {"a": 1})
    assert not files.Path("/dev/full").is_file()


@pytest.mark.parametrize("there", ["words", b"\0\xff", "[1", None])
def test_json_replaces_nothing_but_json(there, tmp_path):
    path = tmp_path / "x.json"
    path.mkdir() if there is None else path.write_bytes(
        there if isinstance(there, bytes) else there.encode()
    )
    with pytest.raises(UserError, match="is no JSON report"), json_file(path):
        pass
    assert names(tmp_path) == ["x.json"]


def test_json_where_the_locale_is_ascii(tmp_path):
    """A report with other signs in it is still taken for a report."""
    path = tmp_path / "x.json"
    path.write_text('{"é": "→"}', encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from robust_stitching.basics.files import *\n"
        r"with json_file(Path(sys.argv[1])): write_json(Path(sys.argv[1]), {'\xfc': '\u2192'})"
    )
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    source = str(REPOSITORY / "src")
    done = subprocess.run(
        [sys.executable, "-c", code, path], env={**environment, "PYTHONPATH": source}
    )
    assert done.returncode == 0
    assert json.loads(path.read_text(encoding="utf-8")) == {"ü": "→"}


def test_a_folder_that_is_claimed_and_not_used_is_gone(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.claimed(tmp_path / "a" / "b"):
        assert names(tmp_path / "a") == ["b"]
        signal.raise_signal(signal.SIGINT)
    assert names(tmp_path) == []
