"""How far a sweep is, as the files in its folder say."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from robust_stitching.basics.locks import Holder
from robust_stitching.plans.places import RECORDS, UNITS, record_in
from robust_stitching.runs.units import Unit


@dataclass(frozen=True)
class Standing:
    """How far some units are.

    Attributes
    ----------
    running : units that a process works on, to whose it is.
    failed : those whose last process told an error, to that.
    left : those that wait, among them those whose process was killed.
    seconds : what a unit that is done took on average; None before the first.
    """

    done: list[Unit]
    running: dict[Unit, Holder]
    failed: dict[Unit, str]
    left: list[Unit]
    seconds: float | None

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes, those that failed too, if as many go on at once as do now; None
        where nobody can tell, or nothing is left."""
        rest = len(self.left) + len(self.running) + len(self.failed)
        if self.seconds is None or not rest:
            return None
        return self.seconds * rest / max(1, len(self.running))


def standing(units: Sequence[Unit]) -> Standing:
    """How far units are now."""
    done, running, failed, left, seconds = [], {}, {}, [], []
    for unit in units:
        end = unit.ended()
        if unit.is_done():
            done.append(unit)
            seconds += [end["seconds"]] if "seconds" in end else []
        elif (worker := unit.worker()) is not None:
            running[unit] = worker
        elif end.get("error"):
            failed[unit] = end["error"]
        else:
            left.append(unit)
    return Standing(done, running, failed, left, fmean(seconds) if seconds else None)


def diverged(units: Sequence[Unit]) -> list[str]:
    """The cells of grids that are done whose stitch diverged, each with its error."""
    told = []
    for unit in units:
        for path in unit.folder.glob(RECORDS) if unit.kind == UNITS else ():
            told += [
                f"{unit.name}, {cell['front_layer']} to {cell['end_layer']}: {cell['error']}"
                for cell in record_in(path).get("cells") or ()
                if cell.get("error")
            ]
    return told
