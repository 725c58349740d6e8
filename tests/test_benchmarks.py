"""The benchmarks are run by hand; what they use of the library has to be there."""

import importlib.util
import sys

import pytest

from robust_stitching.files import REPOSITORY

SCRIPTS = sorted(path for path in (REPOSITORY / "benchmarks").glob("*.py") if path.stem[0] != "_")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_uses(script, monkeypatch):
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))  # names such as "cka" are common
    spec = importlib.util.spec_from_file_location(f"benchmark_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.main)
