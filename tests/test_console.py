"""The commands as `robust-stitching …` and `python -m robust_stitching …`, beside the scripts."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest

from conftest import SCRIPTS
from robust_stitching import __version__
from robust_stitching.command_line import calling, console
from robust_stitching.command_line.calling import COMMANDS, CONSOLE, MODULE, as_called, spoken

WAYS = (CONSOLE, MODULE)


@pytest.fixture
def call(monkeypatch, capsys):
    """Call `robust-stitching`, or what does the same, in this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def called(*args, way=CONSOLE):
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/robust-stitching", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            console.main(way)
        out, err = capsys.readouterr()
        return SimpleNamespace(status=left.value.code or 0, out=out, err=err)

    yield called
    for number, handler in before.items():
        signal.signal(number, handler)


# The list of all


def test_every_script_is_a_command_and_every_command_a_script():
    assert {path.stem for path in SCRIPTS.glob("[!_]*.py")} == set(COMMANDS)
    assert len(set(COMMANDS)) == len(COMMANDS)


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_the_list_of_all_has_a_sentence_for_each(args, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = call(*args)
    assert (done.status, done.err) == (0, "")
    listed = dict(re.findall(r"^  (\S+)  +(\S.*)$", done.out.split("commands:\n")[1], re.M))
    assert listed == {
        spoken(name): import_module(f"robust_stitching.command_line.{name}").__doc__.splitlines()[0]
        for name in COMMANDS
    }


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_list_fits_the_terminal(columns, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = call().out.splitlines()
    assert columns / 2 < max(map(len, lines)) <= columns


def test_the_list_comes_without_anything_heavy():
    """Importing torch takes seconds."""
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS.parent)!r})\n"
        "from robust_stitching.command_line import console\n"
        "try: console.main()\n"
        "except SystemExit: sys.exit(len({'torch', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    for args, told in (([], b"commands:"), (["trian"], b"did you mean train")):
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True)
        assert done.returncode == 0 and told in done.stdout + done.stderr


def test_the_version(call):
    assert call("--version").out == f"robust-stitching {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trian", "train"),
        ("find_transform", "find-transform"),
        ("layer_info.py", "layer-info"),
        ("eval", "eval-net"),
        ("compare", "compare-nets"),
    ],
)
def test_an_unknown_command_gets_the_closest(typed, meant, call):
    done = call(typed, "--help")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"robust-stitching: unknown command '{typed}'; did you mean ")
    assert meant in done.err.split("did you mean ")[1].split("?")[0]
    assert done.err.count("\n") == 1


# What a command says of itself


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("way", WAYS)
def test_help_speaks_of_no_script_where_none_is_called(command, way, call):
    done = call(spoken(command), "--help", way=way)
    assert (done.status, done.err) == (0, "")
    usage, rest = done.out.split("\n\n", 1)
    assert " ".join(usage.split()).startswith(f"usage: {way} {spoken(command)} [-h]")
    assert f"{way} {spoken(command)}" in rest  # the examples
    assert not re.search(r"\w\.py\b(?!:)", done.out)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_script_speaks_of_scripts(command, call_script):
    out = call_script(f"{command}.py", "--help").out
    assert out.startswith(f"usage: {command}.py [-h]")
    assert f"python src/bin/{command}.py" in out
    assert CONSOLE not in out


@pytest.mark.parametrize("way", WAYS)
def test_an_error_says_what_was_called(way, call):
    done = call("eval-net", "--no-such-option", way=way)
    assert done.status == 2
    assert done.err.startswith(f"{way} eval-net: ")
    assert done.err.endswith(f"; {way} eval-net --help lists the options.\n")


def test_an_error_names_the_commands_as_they_are_called(call, call_script):
    train = "-m lenet -d digits'"
    assert f"'robust-stitching train {train}" in call("eval-net", "lenet").err
    assert f"'python src/bin/train.py {train}" in call_script("eval_net.py", "lenet").err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("as layer_info.py lists them", "as robust-stitching layer-info lists them"),
        ("(train.py --image-size)", "(robust-stitching train --image-size)"),
        ("'python src/bin/train.py -m x'", "'robust-stitching train -m x'"),
        ("by eval_net_robustness.py.", "by robust-stitching eval-net-robustness."),
        *((same, same) for same in ("my/train.py", "./train.py", "my_train.py", "train.pyc")),
        *((same, same) for same in ("'train.py' is none", "train.py:net", "tests/test_train.py")),
    ],
)  # fmt: skip
def test_which_words_are_commands(text, told, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"{CONSOLE} train"])
    assert as_called(text) == told
    monkeypatch.setattr(sys, "argv", ["/a/clone/src/bin/train.py"])
    assert as_called(text) == text


def test_a_process_of_its_own(tmp_path):
    source = str(SCRIPTS.parent)
    done = subprocess.run(
        [sys.executable, "-m", "robust_stitching", "layer-info", "lenet", "--clean"],
        env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^conv1 +Conv2d +6×28×28 +clean$", done.stdout, re.MULTILINE)


# What reports keep


def reported(done, folder):
    """The commands that reports in a folder say they come from, by the names of the runs."""
    assert done.status == 0, done.err
    return [json.loads(path.read_text())["command"] for path in sorted(folder.rglob("json/*.json"))]


MEASURED = {
    "find_transform": "relu2 relu2 digits -e 1 -b 256 --no-robustness --no-pinv",
    "find_cross_dataset_transform": "relu2 relu2 digits digits -e 1 -b 256 --no-robustness",
    "compare_nets": "digits --measures disagreement --n-images 50",
}


@pytest.mark.parametrize("command", MEASURED)
def test_a_report_keeps_what_was_typed(command, call, call_script, lenets, tmp_path):
    args = [*map(str, lenets), *MEASURED[command].split(), "-o", str(tmp_path / "two words")]
    (kept,) = reported(call(spoken(command), *args, "--run-name", "a"), tmp_path)
    assert shlex.split(kept) == ["robust-stitching", spoken(command), *args, "--run-name", "a"]
    *_, kept = reported(call_script(f"{command}.py", *args, "--run-name", "b"), tmp_path)
    script = str(SCRIPTS / f"{command}.py")
    assert shlex.split(kept) == ["python", script, *args, "--run-name", "b"]


def test_what_was_typed(monkeypatch):
    argv = ["a b.pt", "--l1", "1/2"]
    monkeypatch.setattr(sys, "argv", ["../src/bin/eval_net.py", *argv])
    assert calling.typed(argv) == "python ../src/bin/eval_net.py 'a b.pt' --l1 1/2"
    monkeypatch.setattr(sys, "argv", [f"{MODULE} eval-net", *argv])
    assert calling.typed(argv) == "python -m robust_stitching eval-net 'a b.pt' --l1 1/2"
