"""What is done with the units of a sweep, whatever carries them out."""

import io
import json
from collections import Counter
from contextlib import ExitStack

import pytest

from robust_stitching.basics.files import write_json
from robust_stitching.basics.locks import locked
from robust_stitching.plans.places import NETWORKS, UNITS
from robust_stitching.runs import work
from robust_stitching.runs.engines import Ended, ended, local
from robust_stitching.runs.engines.local import Local
from robust_stitching.runs.standing import diverged, standing
from robust_stitching.runs.units import BUSY, Unit, note_end
from robust_stitching.runs.work import Work


class Pretended:
    """An engine whose units are done at once, but for those that fail so many times.

    Attributes
    ----------
    fail, busy : name to how often it fails, or is worked on by somebody else.
    given : the names of all that it was given, in order.
    """

    def __init__(self, places=1, orders=False, fail=(), busy=()):
        self.places, self.orders = places, orders
        self.fail, self.busy, self.given, self.stopped = Counter(fail), Counter(busy), [], False
        self._now = []

    def room(self):
        return self.places - len(self._now)

    def submit(self, units):
        assert len(units) <= self.room()
        self._now += units
        self.given += [unit.name for unit in units]

    def wait(self, seconds):
        unit = self._now.pop(0)
        if self.busy[unit.name]:
            self.busy[unit.name] -= 1
            return [ended(unit, BUSY)]
        lacks = any(not Unit(unit.sweep, NETWORKS, key).is_done() for key in unit.needs)
        if self.fail[unit.name] or lacks:
            self.fail[unit.name] -= self.fail[unit.name] > 0
            note_end(unit.folder, 1, f"{unit.name} went wrong")
            return [ended(unit, 1)]
        make(unit)
        return [Ended(unit)]

    def stop(self):
        self.stopped = True
        return "it goes on."


class Noted:
    """Notes what it hears."""

    def __init__(self):
        self.lines = []

    def done(self, unit):
        self.lines.append(f"done {unit.name}")

    def again(self, unit, error):
        self.lines.append(f"again {unit.name}")

    def failed(self, unit, error):
        self.lines.append(f"failed {unit.name}: {error}")

    def elsewhere(self, unit):
        self.lines.append(f"elsewhere {unit.name}")


def make(unit):
    path = unit.folder / ("model.pt" if unit.kind == NETWORKS else "json/x.json")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    note_end(unit.folder, 2, None)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "PUT_OFF", 0.01)
    for kind in (NETWORKS, UNITS):
        (tmp_path / kind).mkdir()
    network = Unit(tmp_path, NETWORKS, "R")
    return [network, *(Unit(tmp_path, UNITS, f"u{i}", needs=("R",) * (i < 2)) for i in range(4))]


def carried_out(units, engine, retries=2):
    noted = Noted()
    return Work(engine, retries, noted).carry_out(units), noted.lines


@pytest.mark.parametrize("places", [1, 2, 99])
def test_units_wait_for_their_networks(places, sweep):
    engine = Pretended(places)
    assert carried_out(sweep, engine)[0] == {}
    order = engine.given
    assert sorted(order) == ["R", "u0", "u1", "u2", "u3"]
    if places == 99:
        assert order == ["R", "u2", "u3", "u0", "u1"]


def test_what_is_done_is_not_done_again(sweep):
    make(sweep[1])
    engine = Pretended()
    _, lines = carried_out(sweep, engine)
    assert engine.given == ["R", "u1", "u2", "u3"] and "done u0" in lines


def test_what_fails_is_tried_again_and_the_others_are_unharmed(sweep):
    engine = Pretended(fail={"u0": 2, "u1": 9})
    failed, lines = carried_out(sweep, engine)
    assert {unit.name: error for unit, error in failed.items()} == {"u1": "u1 went wrong"}
    assert Counter(engine.given) == {"R": 1, "u0": 3, "u1": 3, "u2": 1, "u3": 1}
    assert lines.count("again u0") == lines.count("again u1") == 2
    assert all(unit.is_done() for unit in sweep if unit.name != "u1")


def test_units_of_a_network_that_fails_fail_with_its_name(sweep):
    failed, _ = carried_out(sweep, Pretended(fail={"R": 9}), retries=1)
    told = {unit.name: error for unit, error in failed.items()}
    lost = "its network R failed"
    assert told == {"R": "R went wrong", "u0": lost, "u1": lost}


@pytest.mark.parametrize("times", [1, 9])
def test_an_engine_that_orders_them_is_given_all(times, sweep):
    """Those whose network fails there are waited with, and not counted as failed."""
    engine = Pretended(99, orders=True, fail={"R": times})
    failed, _ = carried_out(sweep, engine)
    assert engine.given[:5] == ["R", "u0", "u1", "u2", "u3"]
    assert {unit.name for unit in failed} == (set() if times == 1 else {"R", "u0", "u1"})
    assert Counter(engine.given)["u0"] == (2 if times == 1 else 1)


def test_what_others_work_on_is_waited_for(sweep):
    engine = Pretended(busy={"u2": 3})
    failed, lines = carried_out(sweep, engine, retries=0)
    assert failed == {} and lines.count("elsewhere u2") == 1


def test_what_others_have_locked_is_not_begun(sweep, monkeypatch):
    unit = sweep[3]
    with locked(unit.folder.with_name(f".{unit.name}.unfinished")) as lock:
        assert unit.worker() == lock.holder
        now = standing([unit])
        assert list(now.running) == [unit]

        def others_are_through(seconds):
            lock.release()
            make(unit)

        monkeypatch.setattr(work.time, "sleep", others_are_through)
        engine = Pretended()
        failed, _ = carried_out([unit], engine)
    assert failed == {} and engine.given == []


def test_an_interruption_stops_the_engine(sweep, monkeypatch):
    engine = Pretended()

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt, match="it goes on"):
        carried_out(sweep, engine)
    assert engine.stopped


def test_how_far_it_is(sweep):
    network, first, second, *rest = sweep
    for unit in (network, first):
        make(unit)
    note_end(second.folder, 3, "no room")
    now = standing(sweep)
    assert (now.done, now.failed, now.left) == ([network, first], {second: "no room"}, rest)
    assert now.seconds == 2 and now.seconds_left == 2 * 3
    ends = json.loads((second.folder.parent / ".u1.ended.json").read_text())
    assert ends == {"seconds": 3, "error": "no room"}
    assert standing([first, second]).seconds_left == 2  # what failed takes its time, too
    assert standing([first]).seconds_left is None and standing(rest).seconds_left is None


def test_as_many_go_on_at_once_as_do_now(sweep):
    _, done, *busy, waiting = sweep
    make(done)
    with ExitStack() as held:
        for unit in busy:
            held.enter_context(locked(unit.folder.with_name(f".{unit.name}.unfinished")))
        now = standing([done, *busy, waiting])
    assert (list(now.running), now.left) == (busy, [waiting])
    assert now.seconds_left == 2 * 3 / 2


def test_cells_that_diverged_are_named(sweep):
    for unit, error in zip(sweep[1:], (None, "it diverged", None), strict=False):
        cell = {"front_layer": "a", "end_layer": "b", "error": error}
        write_json(unit.folder / "json" / "x.json", {"cells": [cell]})
    assert diverged(sweep) == ["u1, a to b: it diverged"]


# Processes here


def test_each_process_has_one_of_several_gpus(sweep, monkeypatch):
    started = []

    class Process:
        stdin = io.BytesIO()

        def __init__(self, command, env, **more):
            started.append((command, env))
            self.returncode = None

        def poll(self):
            return self.returncode

    monkeypatch.setattr(local.subprocess, "Popen", Process)
    engine = Local(3, 2, ["0", "GPU-5"])
    engine.submit(sweep[:3])
    assert engine.room() == 0
    assert [env["CUDA_VISIBLE_DEVICES"] for _, env in started] == ["0", "GPU-5", "0"]
    assert {env["OMP_NUM_THREADS"] for _, env in started} == {"2"}
    assert started[0][0][-3:] == ["--threads", "2", "--attached"]
    engine._begun[1].process.returncode = -9
    (over,) = engine.wait(0)
    assert (over.unit, over.error) == (sweep[1], "its process was ended by SIGKILL")
    engine.submit(sweep[3:4])
    assert started[3][1]["CUDA_VISIBLE_DEVICES"] == "GPU-5"


@pytest.mark.parametrize("devices", [[], ["0"]])
def test_one_gpu_is_shared(devices, sweep, monkeypatch):
    environments = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(
        local.subprocess, "Popen", lambda *args, env, **more: environments.append(env)
    )
    Local(2, 1, devices).submit(sweep[:2])
    assert not any("CUDA_VISIBLE_DEVICES" in env for env in environments)
