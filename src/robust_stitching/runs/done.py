"""Finished runs: what lies in a folder of results, and by which plan it was made."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robust_stitching.basics.errors import UserError
from robust_stitching.plans import from_values, identity
from robust_stitching.plans.settings import Settings


@dataclass(frozen=True)
class Done:
    """A finished run.

    Attributes
    ----------
    folder : where it lies.
    record : what its JSON file says.
    paths : kind of file to where that lies.
    reused : whether it was there before.
    amiss : what is to be told besides, where the table of all runs could not take it in.
    """

    folder: Path
    record: dict[str, Any]
    paths: dict[str, Path]
    reused: bool = False
    amiss: UserError | None = None

    def plan(self, kind: type[Settings]) -> Settings | None:
        """The plan that it was made by; None where it is of another kind, or does not say."""
        try:
            return from_values(kind, self.record.get("plan"))
        except UserError:
            return None


def done_in(folder: Path) -> Done | None:
    """The finished run in a folder; None where there is none that can be read."""
    for path in sorted(folder.glob("json/*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            return Done(folder, record, {"json": path, **_others(folder)})
    return None


def _others(folder: Path) -> dict[str, Path]:
    """The other files of a run by their kind, which is what the folder that they lie in is called;
    of several the folder itself."""
    others = {}
    for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(inside.iterdir())
        if inside.name != "json" and files:
            others[inside.name] = files[0] if len(files) == 1 else inside
    return others


def done_below(out: Path) -> Iterator[Done]:
    """All finished runs in a folder of results, the latest first."""
    folders = [path for path in out.glob("[!.]*") if path.is_dir()] if out.is_dir() else []
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        if (done := done_in(folder)) is not None:
            yield done


def same_plan(out: Path, name: str | None, plan: Settings) -> Done | None:
    """The finished run of a plan: that of a name, or any one where no name is given."""
    for done in done_below(out) if name is None else [done_in(out / name)]:
        before = done and done.plan(type(plan))
        if before and identity(before) == identity(plan):
            return replace(done, reused=True)
    return None
