"""The units of a sweep in its folder: what each is, and what became of it, as the files there say.

Nothing else holds a state: whoever looks at the files knows what is left to do.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robust_stitching.basics import locks
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import write_json
from robust_stitching.plans import as_values, identity, read
from robust_stitching.plans.places import (
    LOGS,
    MODEL,
    NETWORKS,
    PLANS,
    RECORDS,
    UNITS,
    plan_in,
)
from robust_stitching.plans.settings import Settings

BUSY = 75
"""Exit status of a unit that another process works on."""

ENDS = {"seconds": int | float, "error": str}
"""What is kept of how a process ended."""


@dataclass(frozen=True)
class Unit:
    """A plan of a sweep, and where it is carried out.

    Attributes
    ----------
    sweep : the folder of the sweep.
    kind : `NETWORKS` or `UNITS`, the folder in it.
    name : of its own folder there.
    plan : None in one that was read from its file, which has it.
    needs : keys of the networks that have to be trained before.
    about : what the sweep calls it: `front`, `end`, `options`, and its `number` in the plan.
    parameters : of its networks, which tells how much of a GPU it fills.
    """

    sweep: Path
    kind: str
    name: str
    plan: Settings | None = field(default=None, compare=False)
    needs: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)
    parameters: int = field(default=0, compare=False)

    @property
    def folder(self) -> Path:
        return self.sweep / self.kind / self.name

    @property
    def plan_file(self) -> Path:
        return self.sweep / PLANS / self.kind / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return self.sweep / LOGS / f"{self.name}.log"

    def is_done(self) -> bool:
        return is_done(self.folder)

    def worker(self) -> locks.Holder | None:
        """Who works on it."""
        unfinished = self.folder.with_name(f".{self.name}.unfinished")
        return locks.holder(self.folder if self.kind == NETWORKS else unfinished)

    def ended(self) -> dict[str, Any]:
        """How its last process ended, see `note_end`; empty where none did by itself."""
        try:
            said = json.loads(_end(self.folder).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        said = said if isinstance(said, dict) else {}
        return {key: said[key] for key, kind in ENDS.items() if isinstance(said.get(key), kind)}

    def last_told(self) -> str:
        """The last line of its log; empty where there is none."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def plan_differs(self) -> bool:
        """Whether the file of its plan holds another one."""
        try:
            return identity(read(self.plan_file, type(self.plan))) != identity(self.plan)
        except UserError:
            return True

    def write(self) -> None:
        """Write the file of its plan."""
        about = {"needs": list(self.needs), "parameters": self.parameters, **self.about}
        write_json(self.plan_file, {"plan": as_values(self.plan), "unit": about})


def is_done(folder: Path) -> bool:
    """Whether the result of a unit is there. It appears whole, by one rename."""
    return (folder / MODEL).exists() or any(folder.glob(RECORDS))


def units_in(sweep: Path) -> list[Unit]:
    """Those whose plans lie in the folder of a sweep, networks first."""
    return [unit for kind in (NETWORKS, UNITS) for unit in _of_kind(sweep, kind)]


def _of_kind(sweep: Path, kind: str) -> Iterator[Unit]:
    for path in sorted((sweep / PLANS / kind).glob("[!.]*.json")):
        about = dict(plan_in(path, {"needs": [str], "parameters": int})["unit"])
        needs, parameters = tuple(about.pop("needs")), about.pop("parameters")
        yield Unit(sweep, kind, path.stem, None, needs, about, parameters)


def note_end(folder: Path, seconds: float, error: str | None) -> None:
    """Keep how the process of a unit ended, beside its folder."""
    write_json(_end(folder), {"seconds": round(seconds, 1), "error": error})


def forget_end(folder: Path) -> None:
    """Remove what an earlier process left."""
    _end(folder).unlink(missing_ok=True)


def _end(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.ended.json")
