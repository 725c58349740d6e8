"""Stitches and comparisons that are interrupted, hung up, terminated or killed, and what the same
command does then."""

import os
import pkgutil
import re
import signal
import time
from functools import partial

import pytest

from left_behind import names, wait_for
from robust_stitching.basics.locks import locked
from robust_stitching.report import collected
from robust_stitching.report.collected import read
from robust_stitching.report.stitch import pdf

COLLECT = "robust_stitching.report.collected.collect"
STITCH = ["relu2", "relu2", "digits", "-b", "256", "--no-robustness", "--run-name", "run", "-o"]


def test_a_stitch_that_is_hung_up(process_of, lenets, tmp_path):
    out = tmp_path / "results"
    process = process_of("find_transform.py", *lenets, *STITCH, out, "-e", "9000")
    wait_for(out / ".run.unfinished" / ".lock")
    time.sleep(0.5)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == (
        "find_transform.py: interrupted; nothing was kept of this run; the same command begins it "
        "again.\n"
    )
    assert names(tmp_path) == []


def test_a_stitch_that_is_killed(process_of, call_script, lenets, tmp_path):
    """The same command begins it again; while it lived, it was refused."""
    process = process_of("find_transform.py", *lenets, *STITCH, tmp_path, "-e", "9000")
    wait_for(tmp_path / ".run.unfinished" / ".lock")
    again = ["find_transform.py", *lenets, *STITCH, tmp_path, "-e", "1"]
    done = call_script(*again)
    assert done.status == 2 and f"is being made by process {process.pid} on" in done.err
    process.kill()
    process.wait()
    assert names(tmp_path) == [".run.unfinished"]
    done = call_script(*again)
    assert done.status == 0 and "an earlier run run was broken off; it is begun again" in done.err
    assert names(tmp_path) == ["results.csv", "run"]
    assert names(tmp_path / "run") == ["frank_model", "json", "matrix", "pdf"]
    assert "exists already" in call_script(*again).err


SOMEWHERE = [
    "robust_stitching.stitching.run.find_map",
    "robust_stitching.stitching.run.measure_on",
    "robust_stitching.report.stitch.pdf.write_pdf",
    "robust_stitching.checkpoints.save",
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("where", SOMEWHERE)
def test_a_stitch_that_is_interrupted_somewhere(
    where, number, call_script, lenets, tmp_path, monkeypatch
):
    def interrupt(*args, **kwargs):
        if where.endswith("pdf"):
            args[0].write_bytes(b"%PDF half")
        signal.raise_signal(number)

    monkeypatch.setattr(where, interrupt)
    command = ["find_transform.py", *lenets, *STITCH, tmp_path / "results", "-e", "1"]
    done = call_script(*command)
    assert (done.status, done.out) == (130, "")
    assert done.err.count("\n") == 1
    if where.endswith("find_map"):
        assert "the same command begins it again" in done.err and names(tmp_path) == []
    else:
        assert "the same command goes on from where it was" in done.err
        assert names(tmp_path / "results" / ".run.unfinished") == ["plan.json", "state"]


@pytest.mark.parametrize("moment", ["robust_stitching.runs.unfinished.os.rename", COLLECT])
def test_a_stitch_that_is_interrupted_while_it_is_finished(
    moment, call_script, lenets, tmp_path, monkeypatch
):
    """It is whole, with its line."""
    module, name = moment.rsplit(".", 1)
    work = getattr(pkgutil.resolve_name(module), name)

    def interrupted(*args, **kwargs):
        monkeypatch.setattr(moment, work)
        signal.raise_signal(signal.SIGTERM)
        return work(*args, **kwargs)

    monkeypatch.setattr(pdf, "write_pdf", lambda path, *rest: path.write_bytes(b"%PDF"))
    monkeypatch.setattr(moment, interrupted)
    done = call_script("find_transform.py", *lenets, *STITCH, tmp_path, "-e", "1")
    assert done.status == 130 and f"interrupted; the run {tmp_path / 'run'} is whole" in done.err
    assert names(tmp_path) == ["results.csv", "run"]
    assert [line[0] for line in read(tmp_path / "results.csv").lines] == ["run"]


def test_an_interrupted_run_without_a_name_tells_it(call_script, lenets, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("robust_stitching.stitching.run.find_map", interrupt)
    command = ["find_transform.py", *lenets, "relu2", "relu2", "digits", "-o", tmp_path]
    assert re.search(r"with --run-name 20\S+ begins it again", call_script(*command).err)
    monkeypatch.setattr("robust_stitching.similarity.stream.NetworkStream.batches", interrupt)
    done = call_script("compare_nets.py", *lenets, "digits", "-o", tmp_path)
    assert done.status == 130 and re.search(r"with --run-name 20\S+ begins it again", done.err)
    assert names(tmp_path) == []


def test_a_stitch_whose_files_do_not_fit(call_script, lenets, tmp_path, monkeypatch):
    """Its numbers are printed all the same, and what could be written is told."""

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pdf, "write_pdf", full)
    command = ["find_transform.py", *lenets, *STITCH, tmp_path, "-e", "1"]
    done = call_script(*command)
    assert done.status == 2 and "stitched" in done.out and done.err.count("\n") == 2
    assert "what was whole by then stays in" in done.err
    assert re.search(r"\.pdf could not be written \(No space", done.err)
    kept = names(tmp_path / ".run.unfinished" / "json")
    assert len(kept) == 1 and names(tmp_path) == [".run.unfinished"]


def test_a_table_that_cannot_be_written(call_script, lenets, tmp_path, monkeypatch):
    """The run is whole, and the next one adds its line."""
    monkeypatch.setattr(pdf, "write_pdf", lambda path, *rest: path.write_bytes(b"%PDF"))
    monkeypatch.setattr(collected, "collect", partial(collected.collect, wait=0))
    command = ["find_transform.py", *lenets, *STITCH, tmp_path, "-e", "1"]
    with locked(tmp_path):
        done = call_script(*command)
    assert done.status == 2 and "stitched" in done.out
    assert re.search(r"the run is whole, but has no line in results\.csv yet: .*in use", done.err)
    assert names(tmp_path) == ["run"]
    assert call_script(*command, "--run-name", "second").status == 0
    assert [line[0] for line in read(tmp_path / "results.csv").lines] == ["run", "second"]


def test_a_comparison_that_is_interrupted_while_it_draws(
    call_script, lenets, tmp_path, monkeypatch
):
    def interrupt(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("robust_stitching.report.comparison.figure_of", interrupt)
    options = ["--measures", "procrustes", "--n-images", "20", "-o", tmp_path / "out"]
    done = call_script("compare_nets.py", *lenets, "digits", *options, "--run-name", "x")
    assert done.status == 130 and "the same command begins it again" in done.err
    assert names(tmp_path) == []


def test_a_comparison_that_is_interrupted_while_it_is_finished(
    call_script, lenets, tmp_path, monkeypatch
):
    rename = os.rename

    def interrupted(*args):
        signal.raise_signal(signal.SIGTERM)
        rename(*args)

    monkeypatch.setattr(os, "rename", interrupted)
    options = ["--measures", "agreement", "--n-images", "20", "-o", tmp_path]
    done = call_script("compare_nets.py", *lenets, "digits", *options, "--run-name", "x")
    assert done.status == 130 and f"the run {tmp_path / 'x'} is whole" in done.err
    assert names(tmp_path / "x") == ["csv", "json"]
