"""Runs in the making: whole or not there, whatever happens, and begun again by the same command."""

import os
import re
import signal
import threading

import pytest

from killed import done_elsewhere, killed_before
from records import record_of
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import NotWritten, write_json
from robust_stitching.basics.locks import Lock, LockLost
from robust_stitching.basics.signals import uninterrupted
from robust_stitching.plans import EvaluatePlan, NetworkRef
from robust_stitching.report.collected import collect, read
from robust_stitching.runs import unfinished

PLAN = EvaluatePlan(checkpoint=NetworkRef("a.pt"))


def begun(out, name, tell=lambda text: None):
    return unfinished.begun(out, name, PLAN, tell=tell)


def write(run):
    path = run.folder / "json" / "lenet-tiny10_2026-01-02_03-04-05.json"
    write_json(path, record_of())
    write_json(run.folder / "more" / "x.json", [1])
    return {"json": path}


def make(out, name="run"):
    """All that a stitching command does with files."""
    with begun(out, name) as run:
        paths = write(run)
        with uninterrupted():
            paths = run.finish(paths)
            collect(out)
    return paths


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


WHOLE = ["run", "run/json", "run/json/lenet-tiny10_2026-01-02_03-04-05.json"]
WHOLE += ["run/more", "run/more/x.json"]


def test_a_run_is_there_at_once(tmp_path):
    with begun(tmp_path / "out", "run") as run:
        paths = write(run)
        assert everything(tmp_path / "out")[0] == ".run.unfinished"
        assert not (tmp_path / "out" / "run").exists()
        found = run.finish(paths)
        assert everything(tmp_path / "out") == WHOLE
    assert everything(tmp_path / "out") == WHOLE
    assert found == {"json": tmp_path / "out" / WHOLE[2]}


def test_killed_at_any_moment_it_is_whole_or_not_there(tmp_path):
    step = 0
    while True:
        step += 1
        out = tmp_path / str(step)
        killed = killed_before(step, out, lambda out=out: make(out))
        seen = [name for name in everything(out) if not name.startswith(".")]
        lines = [name for name in seen if not name.startswith("run")]
        # The plan goes last: whoever looks for the run next removes it.
        own = [n for n in seen if n not in lines and ".lock" not in n and n != "run/plan.json"]
        assert own in ([], WHOLE)
        if (out / "run").exists():  # it is refused, and another one adds its line
            with pytest.raises(UserError, match="exists already"):
                make(out)
            assert not (out / "run" / "plan.json").exists()
            done_elsewhere(out, lambda out=out: make(out, "second"))
        else:
            done_elsewhere(out, lambda out=out: make(out))
        runs = ["run", "second"] if (out / "second").exists() else ["run"]
        assert sorted(line[0] for line in read(out / "results.csv").lines) == runs
        if not killed:
            break
    assert step > 30


def test_what_a_killed_one_left_is_begun_again_and_that_is_said(tmp_path):
    told = []
    assert killed_before(12, tmp_path, lambda: make(tmp_path))
    assert everything(tmp_path)[0] == ".run.unfinished"
    (tmp_path / ".run.unfinished" / "json").mkdir(exist_ok=True)
    (tmp_path / ".run.unfinished" / "json" / "half").write_text("{")
    with begun(tmp_path, "run", told.append) as run:
        run.finish(write(run))
    assert everything(tmp_path) == WHOLE
    assert told == ["an earlier run run was broken off; it is begun again."]
    with begun(tmp_path, "other", told.append):
        pass
    assert len(told) == 1


def test_one_that_lives_is_not_disturbed(tmp_path):
    with begun(tmp_path, "run") as run:
        paths = write(run)
        before = everything(tmp_path)
        with (
            pytest.raises(UserError, match=f"being made by process {os.getpid()} on .*, since"),
            begun(tmp_path, "run"),
        ):
            pass
        assert everything(tmp_path) == before
        run.finish(paths)


def test_one_that_is_finished_in_the_last_moment_is_seen(tmp_path, monkeypatch):
    """Between the first look at its folder and the lock, which its process has just let go."""
    acquire = Lock.acquire

    def late(lock):
        monkeypatch.setattr(Lock, "acquire", acquire)
        make(tmp_path)
        acquire(lock)

    monkeypatch.setattr(Lock, "acquire", late)
    with pytest.raises(UserError, match="exists already"), begun(tmp_path, "run"):
        pass
    assert everything(tmp_path) == ["results.csv", *WHOLE]


def test_what_others_tried_is_not_part_of_a_run(tmp_path):
    """A process that looks whether the run can be begun has a file in its folder for a moment."""
    with begun(tmp_path, "run") as run:
        (run.folder / ".lock.another").touch()
        run.finish(write(run))
    assert everything(tmp_path) == WHOLE


def test_runs_without_a_name_that_begin_in_the_same_second(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda *args: "2026-01-02_03-04-05")
    with begun(tmp_path, None) as first, begun(tmp_path, None) as second:
        first.finish({})
        with begun(tmp_path, None) as third:
            third.finish({})
        second.finish({})
    names = [f"2026-01-02_03-04-05{ending}" for ending in ("", "_2", "_3")]
    assert everything(tmp_path) == names


def test_a_folder_that_appears_meanwhile_is_left_alone(tmp_path):
    with begun(tmp_path, "run") as run:
        paths = write(run)
        (tmp_path / "run").mkdir()
        (tmp_path / "run_2").write_text("somebody's")
        (tmp_path / "run_3").symlink_to(tmp_path / "nowhere")
        paths = run.finish(paths)
    assert paths["json"].parents[1] == run.final == tmp_path / "run_4"
    assert paths["json"].exists() and everything(tmp_path / "run") == []


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "a b", "a\0b", "/", "-\n"])
def test_names_that_are_none(name, tmp_path):
    with pytest.raises(UserError, match="is no plain folder name"), begun(tmp_path / "out", name):
        pass
    assert everything(tmp_path) == []


# Ended before


@pytest.mark.parametrize("error", [ValueError, UserError, SystemExit])
def test_an_error_before_anything_is_written_leaves_nothing(error, tmp_path):
    with pytest.raises(error), begun(tmp_path / "a" / "b", "run", pytest.fail):
        raise error
    assert everything(tmp_path) == []


def test_an_interruption_leaves_nothing_and_says_how_to_begin_again(tmp_path):
    with pytest.raises(KeyboardInterrupt) as error, begun(tmp_path / "out", "run") as run:
        write(run)
        signal.raise_signal(signal.SIGINT)
    assert str(error.value) == ("nothing was kept of this run; the same command begins it again.")
    with pytest.raises(KeyboardInterrupt) as error, begun(tmp_path / "out", None):
        raise KeyboardInterrupt
    assert re.search(r"the same command with run_name='20\d\d-\S+ begins it", str(error.value))
    assert everything(tmp_path) == []


def test_an_interruption_while_it_is_finished_waits(tmp_path, monkeypatch):
    rename = os.rename

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        rename(*args)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"the run .*run is whole\."):
        make(tmp_path)
    assert everything(tmp_path) == ["results.csv", *WHOLE]


@pytest.mark.parametrize("error", [NotWritten, ValueError])
def test_what_was_written_stays_after_an_error(error, tmp_path):
    """The work of hours, of which only the last file did not fit on the disk."""
    told = []
    with pytest.raises(error), begun(tmp_path, "run", told.append) as run:
        write(run)
        raise error
    folder = tmp_path / ".run.unfinished"
    assert told == [f"what was whole by then stays in {folder} until it is begun again."]
    assert everything(folder) == [*(name[4:] for name in WHOLE[1:]), "plan.json"]
    make(tmp_path)
    assert everything(tmp_path) == ["results.csv", *WHOLE]


def test_what_was_written_stays_where_it_cannot_be_renamed(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(NotWritten, match=r"run could not be written \(No space"):
        make(tmp_path)
    written = [name[4:] for name in WHOLE[1:]]
    assert everything(tmp_path / ".run.unfinished") == [*written, "plan.json"]


def test_a_run_that_was_taken_over_is_left_to_the_other(tmp_path):
    with pytest.raises(LockLost), begun(tmp_path, "run") as run:
        paths = write(run)
        (run.folder / ".lock").write_text("{}")
        run.finish(paths)
    assert {".lock", "json", "more", "plan.json"} == {path.name for path in run.folder.iterdir()}
    assert not (tmp_path / "run").exists()


def test_outside_the_main_thread(tmp_path):
    thread = threading.Thread(target=make, args=(tmp_path,))
    thread.start()
    thread.join()
    assert everything(tmp_path) == ["results.csv", *WHOLE]
