"""What carries out the units of a sweep: processes here, a Ray cluster, or SLURM.

An engine is given units and says which have ended; it holds no state that the files of the units do
not have. Each unit is a process of its own, see `runs.unit`.
"""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import robust_stitching
from robust_stitching.runs.units import BUSY, Unit


@dataclass(frozen=True)
class Ended:
    """A unit whose process has ended.

    Attributes
    ----------
    error : why it did not do what it should, as far as the process could not tell itself.
    busy : whether another process works on it.
    again : whether it makes sense to try it again: not where the engine has done so.
    """

    unit: Unit
    error: str = "it ended without a result"
    busy: bool = False
    again: bool = True


class Engine(Protocol):
    """What carries out units.

    Attributes
    ----------
    orders : whether it can be given units that need others before those are done.
    """

    orders: bool

    def room(self) -> int:
        """How many more units it takes now."""

    def submit(self, units: Sequence[Unit]) -> None:
        """Carry out units."""

    def wait(self, seconds: float) -> list[Ended]:
        """Those that have ended, once there are some, or after so many seconds."""

    def stop(self) -> str:
        """Leave off; returns what becomes of units that were begun, as a sentence's end."""


def arguments(unit: Unit, threads: int) -> list[str]:
    """What stands behind the Python that carries out a unit."""
    files = (str(unit.plan_file), str(unit.folder))
    return ["-m", "robust_stitching.runs.unit", *files, "--threads", str(threads)]


def environment(threads: int) -> dict[str, str]:
    """What a unit's process has to find in its environment: this library, and how many cores."""
    source = str(Path(robust_stitching.__file__).resolve().parents[1])
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([source, before] if before else [source])
    return {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}


def ended(unit: Unit, status: int) -> Ended:
    """What the exit status of a unit's process says."""
    if status < 0:
        return Ended(unit, f"its process was ended by {signal.Signals(-status).name}")
    told = with_last_words(unit, f"its process ended with status {status}")
    return Ended(unit, told, busy=status == BUSY)


def with_last_words(unit: Unit, told: str) -> str:
    """What is told of a unit's end, with the last line of its log."""
    last = unit.last_told()
    return f"{told}, and said last: {last}" if last else told
