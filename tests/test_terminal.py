"""What is printed arrives: on terminals without all signs, without columns, and without readers."""

import fcntl
import io
import os
import pty
import re
import runpy
import select
import struct
import subprocess
import sys
import termios

import pytest
from tqdm import tqdm

from conftest import SCRIPTS
from robust_stitching.basics import progress
from robust_stitching.basics.errors import UserError
from robust_stitching.command_line import process, terminal

C_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
ALL_SCRIPTS = sorted(path.name for path in SCRIPTS.glob("[!_]*.py"))


@pytest.fixture
def call_on(monkeypatch, call_script):
    """Run a script in this process on a terminal of some encoding; returns (status, out, err)."""

    def call(encoding, script, *args):
        out, err = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS / script), *map(str, args)])
        for name, stream in (("stdout", out), ("stderr", err)):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding=encoding))
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        return left.value.code or 0, out.getvalue(), err.getvalue()

    return call


# Signs


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437"])
@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_every_help_can_be_read_everywhere(script, encoding, call_on):
    status, out, err = call_on(encoding, script, "--help")
    assert (status, err) == (0, b"")
    text = out.decode(encoding)
    assert "--help" in text and "\\u" not in text
    assert len(text) > 200


def test_a_table_without_its_signs(call_on, lenets, tmp_path):
    whole = ["-e", "1", "-b", "256", "--no-robustness", "-o", tmp_path]
    command = ["find_transform.py", *lenets, "relu2", "relu2", "digits", *whole, "--run-name"]
    status, out, err = call_on("ascii", *command, "a")
    assert (status, err) == (0, b"")
    lines = out.decode("ascii").splitlines()
    heading = next(i for i, line in enumerate(lines) if line.startswith("network "))
    assert re.fullmatch(r"-+(  -+)+", lines[heading + 1])
    rows = lines[heading : heading + 7]
    assert len({len(line) for line in rows}) == 1  # the columns still line up
    assert "pdf" in out.decode("ascii")


@pytest.mark.parametrize(
    "sign, plain",
    [("─", b"-"), ("–", b"-"), ("×", b"x"), ("→", b"->"), ("∞", b"inf"), ("…", b"..."),
     ("é", b"e"), ("ﬁ", b"fi"), ("²", b"2"), ("日", b"?"), ("😀", b"?"), ("\udce9", b"?")],
)  # fmt: skip
def test_what_stands_for_a_sign(sign, plain):
    terminal.prepare()
    assert f"a{sign}b".encode("ascii", terminal.ERRORS) == b"a" + plain + b"b"


def test_signs_that_are_there_stay():
    terminal.prepare()
    text = "─–×→∞é日"
    assert text.encode("utf-8", terminal.ERRORS).decode("utf-8") == text
    assert "–×é→".encode("cp1252", terminal.ERRORS) == "–×é->".encode("cp1252")
    assert "\udce9".encode("utf-8", terminal.ERRORS) == b"?"  # of a file's name that is no text


def in_a_process(script, *args, environment=(), **streams):
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *args],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment),
        stderr=subprocess.PIPE,
        timeout=120,
        **{"stdout": subprocess.PIPE, **streams},
    )


def test_a_process_of_an_ascii_locale():
    done = in_a_process("layer_info.py", "lenet", environment=C_LOCALE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.search(rb"^conv1 +Conv2d +6x28x28 +clean$", done.stdout, re.MULTILINE)


# Readers


def test_nobody_reads():
    """A pipe whose reader is gone: status 1 and silence, also where all fits into the buffer."""
    reader, writer = os.pipe()
    os.close(reader)
    done = in_a_process("layer_info.py", "lenet", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_full_device():
    with open("/dev/full", "wb") as full:
        done = in_a_process("layer_info.py", "lenet", stdout=full)
    assert done.returncode == 2
    assert done.stderr == b"layer_info.py: the system refused: No space left on device.\n"


def test_streams_that_are_closed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["some.py"])
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)

    def main(argv):
        print("said")
        tqdm.write("said")
        raise UserError("no")

    with pytest.raises(SystemExit) as left:
        process.run(main)
    assert left.value.code == 2


def test_a_terminal_that_was_closed_is_no_reason_to_stop(monkeypatch):
    class Gone(io.StringIO):
        def __init__(self, number):
            super().__init__()
            self.number = number

        def write(self, text):
            raise OSError(self.number, os.strerror(self.number))

    monkeypatch.setattr(sys, "stdout", Gone(5))
    progress.tell_above_bars("epoch 1")
    monkeypatch.setattr(sys, "stdout", Gone(28))
    with pytest.raises(OSError, match="No space"):
        progress.tell_above_bars("epoch 1")


# Bars


@pytest.mark.parametrize("lines, columns", [(0, 0), (0, 60), (24, 0), (24, 60)])
def test_a_bar_on_a_terminal_of_some_size(lines, columns, monkeypatch):
    """Some terminals say that they have no lines and no columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
    monkeypatch.delenv("COLUMNS", raising=False)
    with os.fdopen(theirs, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setattr(progress, "DELAY", 0)
        with progress.shown(10, "training") as bar:
            bar.update(5)
            bar.refresh()
        seen = ""
        while "5/10" not in seen and select.select([ours], [], [], 5)[0]:
            seen += os.read(ours, 10_000).decode(errors="replace")
    os.close(ours)
    assert "training" in seen and "5/10" in seen
