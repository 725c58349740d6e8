"""Locks: one at a time, on this machine and on others, and none for ever."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from multiprocessing import get_context

import pytest

from killed import done_elsewhere, killed_before
from left_behind import names
from robust_stitching.basics import locks
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import replacing
from robust_stitching.basics.locks import Lock, Locked, LockLost, locked


def left_by(folder, untouched=0.0, **changed):
    """Put the lock of some process into `folder`, with some facts of its own."""
    holder = replace(Lock(folder).holder, **changed)
    path = folder / ".lock"
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - untouched,) * 2)
    return holder


@pytest.fixture
def ended():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_second_is_refused_and_told_who_has_it(tmp_path):
    with locked(tmp_path) as lock:
        with pytest.raises(Locked, match=f"in use by process {os.getpid()} on .+, since 20"):
            Lock(tmp_path).acquire()
        assert names(tmp_path) == [".lock"]
        found = json.loads((tmp_path / ".lock").read_text())
        assert (found["pid"], found["token"]) == (os.getpid(), lock.holder.token)
        assert found["host"] and found["started"]
    assert names(tmp_path) == []
    with locked(tmp_path):
        pass


def test_whoever_waits_gets_it(tmp_path):
    entered = []

    def wait():
        with locked(tmp_path, wait=20):
            entered.append(time.monotonic())

    with locked(tmp_path):
        other = threading.Thread(target=wait)
        other.start()
        with pytest.raises(Locked):
            Lock(tmp_path).acquire(wait=0.5)
        left = time.monotonic()
    other.join()
    assert entered[0] >= left


def test_a_lock_makes_its_folder(tmp_path):
    with locked(tmp_path / "new" / "folder"):
        assert (tmp_path / "new" / "folder" / ".lock").exists()


# Stale ones


def test_a_process_that_ended_holds_nothing(tmp_path, ended):
    left = left_by(tmp_path, pid=ended)
    with locked(tmp_path) as lock:
        assert lock.left_behind == left
    assert names(tmp_path) == []


def test_another_process_of_the_same_number_holds_nothing(tmp_path):
    left = left_by(tmp_path, started="an hour ago")
    with locked(tmp_path) as lock:
        assert lock.left_behind == left
    assert names(tmp_path) == []


def test_one_that_only_waits_to_be_noticed_holds_nothing(tmp_path):
    """A killed child whose parent does not look, as the first process of many containers."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    left_by(tmp_path, pid=child.pid, started=locks._start_of(child.pid))
    with pytest.raises(Locked):
        Lock(tmp_path).acquire()
    child.kill()
    with locked(tmp_path, wait=5):
        assert child.returncode is None
    child.wait()


def test_one_that_sleeps_still_holds(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child.send_signal(signal.SIGSTOP)
    left_by(tmp_path, untouched=1e5, pid=child.pid, started=locks._start_of(child.pid))
    with pytest.raises(Locked):
        Lock(tmp_path).acquire()
    child.kill()
    child.wait()


@pytest.mark.parametrize("where", [{"host": "node7"}, {"system": "another boot, or container"}])
def test_on_other_machines_the_time_since_it_was_touched_counts(where, tmp_path, ended):
    left_by(tmp_path, 170, pid=ended, **where)
    with pytest.raises(Locked):
        Lock(tmp_path).acquire()
    left_by(tmp_path, 190, pid=os.getpid(), **where)
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": -1}', "\0", "somebody's"])
def test_what_is_no_lock_of_ours_counts_by_its_time(text, tmp_path):
    (tmp_path / ".lock").write_text(text)
    with pytest.raises(Locked, match="by somebody who left no name, since 20"):
        Lock(tmp_path).acquire()
    os.utime(tmp_path / ".lock", (time.time() - 190,) * 2)
    with locked(tmp_path):
        pass


def test_a_folder_in_the_place_of_a_lock(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"\.lock is in the way"):
        Lock(tmp_path).acquire()


def test_a_lock_is_touched_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "TOUCHED_EVERY", 0.05)
    path = tmp_path / ".lock"
    with locked(tmp_path):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > time.time() - 60


# Taken over by one


def take(folder, go, taken):
    go.wait()
    try:
        with locked(folder, wait=60):
            inside = folder / "inside"
            inside.open("x").close()  # fails where two are inside
            time.sleep(0.002)
            inside.unlink()
            taken.put(os.getpid())
    except BaseException as error:
        taken.put(repr(error))


@pytest.mark.parametrize("links", [True, False])
def test_of_many_who_find_a_stale_lock_one_takes_it(tmp_path, ended, links, monkeypatch):
    if not links:  # as on some file systems
        monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError(95, "no")))
    monkeypatch.setattr(locks, "LOOKED_EVERY", 0.001)
    context = get_context("fork")
    for _ in range(5):
        left_by(tmp_path, pid=ended)
        go, taken = context.Event(), context.Queue()
        crowd = [context.Process(target=take, args=(tmp_path, go, taken)) for _ in range(6)]
        for process in crowd:
            process.start()
        go.set()
        assert {taken.get() for _ in crowd} == {process.pid for process in crowd}
        for process in crowd:
            process.join()
        assert names(tmp_path) == []


def test_none_takes_what_another_has_just_taken(tmp_path, ended, monkeypatch):
    left_by(tmp_path, pid=ended)
    first, judge = Lock(tmp_path), locks._is_stale

    def slowly(*args):
        found = judge(*args)
        monkeypatch.setattr(locks, "_is_stale", judge)
        first.acquire()
        return found

    monkeypatch.setattr(locks, "_is_stale", slowly)
    with pytest.raises(Locked):
        Lock(tmp_path).acquire()
    first.check()
    first.release()


def test_killed_at_any_moment_it_blocks_nobody(tmp_path, ended):
    def work():
        with locked(tmp_path):
            pass

    for stale in (False, True):
        step = 0
        while True:
            step += 1
            if stale:
                left_by(tmp_path, pid=ended)
            if not killed_before(step, tmp_path, work):
                break
            done_elsewhere(tmp_path, work)
        assert step > 3


# Lost ones


def test_nothing_is_replaced_below_a_lost_lock(tmp_path):
    with locked(tmp_path / "mine"):
        path = tmp_path / "mine" / "deeper" / "file"
        with replacing(path) as temporary:
            temporary.write_text("first")
        taker = left_by(tmp_path / "mine", host="node7", pid=77)
        with (
            pytest.raises(LockLost, match="taken over by process 77 on node7"),
            replacing(path) as temporary,
        ):
            temporary.write_text("second")
        assert path.read_text() == "first"
        with replacing(tmp_path / "elsewhere") as temporary:
            temporary.write_text("is nobody's")
    assert json.loads((tmp_path / "mine" / ".lock").read_text())["token"] == taker.token
    assert names(path.parent) == ["file"]


def test_a_lock_that_somebody_removed_is_made_again(tmp_path):
    with locked(tmp_path) as lock:
        (tmp_path / ".lock").unlink()
        lock.check()
        with pytest.raises(Locked):
            Lock(tmp_path).acquire()
