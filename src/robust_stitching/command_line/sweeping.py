"""What a sweep shows: what it would do, how far it is, what happens, what has failed."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.progress import shown, tell_above_bars
from robust_stitching.command_line.process import say
from robust_stitching.plans.places import NETWORKS, UNITS
from robust_stitching.runs.units import Unit, units_in

if TYPE_CHECKING:
    from robust_stitching.runs.engines import Engine
    from robust_stitching.runs.sweep import Resolved

HEADING = ["", "done", "running", "failed", "left", "time left"]


def outline(resolved: "Resolved") -> str:
    """What a sweep comes to, a line a unit, and how much of it is there."""
    from robust_stitching.report.tables import aligned

    units = resolved.units
    rows = [[unit.name, unit.plan.KIND, _about(unit), _state(unit)] for unit in units]
    networks = sum(unit.plan.KIND == "train" for unit in units)
    done = sum(unit.is_done() for unit in units)
    told = f"{_counted(len(units) - networks, 'unit')} and {_counted(networks, 'training')}"
    return (
        f"{resolved.folder}: {told} of networks before them, {done} of all done\n\n"
        f"{aligned([['unit', 'kind', 'options', ''], *rows])}"
    )


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _state(unit: Unit) -> str:
    return "done" if unit.is_done() else "to do"


def _about(unit: Unit) -> str:
    options = unit.about.get("options") or {}
    return ", ".join(f"{name}={_plain(value)}" for name, value in options.items()) or "–"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def status(folder: Path) -> str:
    """How far a sweep is, with those that failed and why."""
    from robust_stitching.report.tables import aligned
    from robust_stitching.runs.standing import standing

    units = _units_in(folder)
    table, told = [HEADING], []
    for kind in (NETWORKS, UNITS):
        of_kind = [unit for unit in units if unit.kind == kind]
        now = standing(of_kind)
        lists = (now.done, now.running, now.failed, now.left)
        left = "–" if now.seconds_left is None else duration(now.seconds_left)
        if of_kind:
            table.append([kind, *(str(len(units)) for units in lists), left])
        told += [f"{unit.name} is being made by {worker}" for unit, worker in now.running.items()]
        told += [f"{unit.name} failed: {error}" for unit, error in now.failed.items()]
    return "\n".join([aligned(table), *(["", *told] if told else [])])


def gather(folder: Path) -> None:
    """Make the tables and figures of a sweep from what is there, and print where they are."""
    from robust_stitching.report.sweep import write_files

    _units_in(folder)
    for kind, path in write_files(folder).items():
        print(f"{kind:12} {path}")


def _units_in(folder: Path) -> list[Unit]:
    units = units_in(folder)
    if not units:
        raise UserError(f"{folder} holds no sweep yet; start it, without --status or --gather.")
    return units


def carry_out(resolved: "Resolved", engine: "Engine", retries: int, wait: bool) -> bool:
    """Let an engine do what is missing; returns whether any of it failed."""
    from robust_stitching.runs.standing import diverged
    from robust_stitching.runs.work import Work

    units = resolved.units
    missing = [unit for unit in units if not unit.is_done()]
    if len(missing) < len(units):
        say(f"{len(units) - len(missing)} of {len(units)} are done already.")
    if not wait:
        engine.submit(missing)
        return False
    with shown(len(missing), resolved.folder.name, " units") as bar:
        failed = Work(engine, retries, Lines(len(missing), bar)).carry_out(missing)
    for unit, error in failed.items():
        say(f"failed: {unit.name}: {error} (its log is {unit.log})")
    print(f"{len(units) - len(failed)} of {len(units)} done  {resolved.folder}")
    lost = []
    try:
        lost = diverged(units)
        for cell in lost:
            say(f"diverged: {cell}")
        if any(unit.is_done() and unit.kind == UNITS for unit in units):
            gather(resolved.folder)
    except (UserError, OSError) as error:
        if not (failed or lost):
            raise
        say(error)  # what failed counts
    return bool(failed or lost)


class Lines:
    """A line for whatever happens to a unit, and a bar below them.

    Parameters
    ----------
    total : how many units there are.
    """

    def __init__(self, total: int, bar: tqdm):
        self.total, self.bar = total, bar
        self._done, self._began = 0, time.monotonic()

    def done(self, unit: Unit) -> None:
        self._done += 1
        self.bar.update()
        took, left = unit.ended().get("seconds"), self.total - self._done
        after = "" if took is None else f" in {duration(took)}"
        pace = (time.monotonic() - self._began) / self._done
        rest = f", about {duration(pace * left)} left" if left else ""
        tell_above_bars(f"{self._done}/{self.total}  {unit.name} done{after}{rest}")

    def again(self, unit: Unit, error: str) -> None:
        tell_above_bars(f"{unit.name} is tried again: {error}")

    def failed(self, unit: Unit, error: str) -> None:
        tell_above_bars(f"{unit.name} failed: {error}")

    def elsewhere(self, unit: Unit) -> None:
        tell_above_bars(f"{unit.name} is being made by {unit.worker() or 'somebody else'}")


def duration(seconds: float) -> str:
    """As people say it: "12 s", "3 min", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
