"""The benchmarks are run by hand; what they use of the library has to be there."""

import importlib.util
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from conftest import REPOSITORY

SCRIPTS = sorted(path for path in (REPOSITORY / "benchmarks").rglob("*.py") if path.stem[0] != "_")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_a_benchmark_finds_what_it_uses(script, monkeypatch):
    monkeypatch.syspath_prepend(script.parent)
    spec = importlib.util.spec_from_file_location(f"benchmark_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    spec.loader.exec_module(module)
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == script.parent:
            del sys.modules[name]  # names such as "cka" are common
    assert callable(module.main)


SMALL = "import {0}; {0}.SIZE, {0}.ROUNDS, {0}.STEPS = 2, 1, 1; {0}.main('bn7')"


@pytest.mark.parametrize("name", ["stitch_step", "attack_step"])
def test_a_benchmark_of_steps_runs(name):
    command = [sys.executable, "-c", SMALL.format(name)]
    done = subprocess.run(command, cwd=SCRIPTS[0].parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ratio " in done.stdout


@pytest.mark.skipif(bool(find_spec("torchattacks")), reason="the peer is there")
def test_a_peer_that_is_not_installed_is_a_sentence():
    done = subprocess.run(
        [sys.executable, SCRIPTS[0].parent / "peers/pgd.py"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("torchattacks cannot be imported; install it by pip install")
