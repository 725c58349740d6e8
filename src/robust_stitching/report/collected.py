"""results.csv: one line for each stitching run of a folder, gathered from the runs' JSON files.

The JSON files are the truth. A line that stands in the table stays as it is; a run that has no line
gets one; a column that is new goes behind the others. So the table can be deleted at any time, and
the next run, or `collect`, makes it again.
"""

import csv
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import replacing
from robust_stitching.basics.locks import locked
from robust_stitching.report.folders import CLOCK, finished_at, is_stitch
from robust_stitching.report.tables import flat
from robust_stitching.stitching.record import NETWORKS

NAME = "results.csv"
WAIT = 60.0
"""Seconds to wait for others who write the same table."""

RECORDS = "[!.]*/json/[!.]*.json"


@dataclass(frozen=True)
class Collected:
    """What became of a table.

    Attributes
    ----------
    added : the runs that got a line.
    unreadable : JSON files that could not be read.
    aside : where the earlier table was kept, if it was damaged or to be made anew.
    """

    path: Path
    added: list[str]
    unreadable: list[Path]
    aside: Path | None


@dataclass(frozen=True)
class Table:
    """Lines of words under a heading; `damaged` counts those that were left out, as they have more
    or fewer cells than the heading."""

    heading: list[str]
    lines: list[list[str]]
    damaged: int = 0

    def times(self) -> dict[str, list[str]]:
        """Run to the times of its lines."""
        run = self.heading.index("run")
        clock = self.heading.index("time") if "time" in self.heading else None
        times: dict[str, list[str]] = {}
        for line in self.lines:
            times.setdefault(line[run], []).append("" if clock is None else line[clock])
        return times

    def with_lines(self, more: Sequence[Mapping[str, str]]) -> "Table":
        """The same with lines at the end, and columns that are new behind the others. In a table
        that had none every column stands where the first line that has it has it."""
        heading = list(self.heading)
        for line in more:
            place = len(heading) if self.heading else 0
            for column in line:
                if column in heading:
                    place = max(place, heading.index(column) + 1)
                else:
                    heading.insert(place, column)
                    place += 1
        new = [""] * (len(heading) - len(self.heading))
        lines = [line + new for line in self.lines]
        lines += [[line.get(column, "") for column in heading] for line in more]
        return Table(heading, lines)


def collect(out: Path, anew: bool = False, wait: float = WAIT) -> Collected:
    """Bring the table of the runs below `out` up to date.

    Parameters
    ----------
    anew : put the earlier table aside and make it from the JSON files alone.
    wait : seconds to wait for others who write it.

    Raises
    ------
    UserError : when it cannot be written, see also `read`; Locked when others write for longer.
    """
    path = out / NAME
    unreadable: list[Path] = []
    with locked(out, wait):
        before = (None if anew else read(path)) or Table([], [])
        lines = _lines(out, before, unreadable)
        aside = _put_aside(path) if path.exists() and (anew or before.damaged) else None
        if lines or aside:
            _write(path, before.with_lines(lines))
    return Collected(path, [line["run"] for line in lines], unreadable, aside)


def read(path: Path) -> Table | None:
    """The table in a file; None where there is none, or nothing in it.

    Raises
    ------
    UserError : when something else is in it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise UserError(
            f"{path.parent} is a file, and results go into a folder; choose another (`out_dir`)."
        ) from error
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} is no table to add a line to ({error}); move it away.") from error
    if not lines:
        return None
    heading, *rest = lines
    if "run" not in heading or len(set(heading)) < len(heading):
        raise UserError(
            f"{path} is no table of runs: its first line has to name each column once, 'run' among "
            "them; move it away."
        )
    whole = [line for line in rest if len(line) == len(heading)]
    return Table(heading, whole, damaged=len(rest) - len(whole))


def _write(path: Path, table: Table) -> None:
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([table.heading, *table.lines])


def _put_aside(path: Path) -> Path:
    """Keep a copy of the table under another name."""
    aside = path.with_name(f"{path.stem}-{time.strftime('%Y-%m-%d_%H-%M-%S')}{path.suffix}")
    with replacing(aside) as temporary:
        temporary.write_bytes(path.read_bytes())
    return aside


def _lines(out: Path, table: Table, unreadable: list[Path]) -> list[dict[str, str]]:
    """Those of the finished stitches below `out` that `table` lacks, the oldest first; debugging
    runs have none. Files that cannot be read are put into `unreadable`."""
    known = table.times() if table.heading else {}
    lines = []
    paths = [(finished_at(path), path.parents[1].name, path) for path in out.glob(RECORDS)]
    for finished, name, path in sorted(paths):
        if not all(_is_before(time, finished) for time in known.get(name, [])):
            continue
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if is_stitch(record) and not record["params"].get("debug"):
                lines.append(line_of(record, name, finished))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            unreadable.append(path)  # damaged, or of another program
    return lines


def _is_before(line: str, finished: str) -> bool:
    """Whether a line is too old to be that of a run: it is of another, whose folder was removed and
    whose name was used again. A time that somebody wrote in another way tells nothing."""
    with suppress(ValueError):
        return time.strptime(line, CLOCK) < time.strptime(finished, CLOCK)
    return False


def line_of(record: Mapping[str, Any], name: str, finished: str) -> dict[str, str]:
    """A run as a line: column to word. What has no value has no column."""
    donors, params = record["donors"], flat(record["params"])
    params.pop("debug", None)  # it has no lines
    elsewhere = record.get("elsewhere") or {}
    first = {
        "run": name,
        "time": finished,
        "front": donors["front"]["path"],
        "end": donors["end"]["path"],
        "front_model": donors["front"]["model"],
        "end_model": donors["end"]["model"],
        **{key: params.pop(key, None) for key in ("front_layer", "end_layer")},
        "dataset": record["data"]["name"],
        "eval_dataset": elsewhere and elsewhere["data"]["name"],
        "seed": params.pop("seed", None),
        "n_images": record["data"]["n_images"],
    }
    numbers = _numbers(record, "") | _numbers(elsewhere, "elsewhere.")
    line = first | params | numbers | {"command": record["command"]}
    return {key: str(value) for key, value in line.items() if value not in (None, "", {}, [])}


def _numbers(record: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What was measured on one dataset, a column a number; two for an interval."""
    attacks = record.get("attacks") or {}
    values = {
        "cka": record.get("cka"),
        "debiased_cka": record.get("debiased_cka"),
        "l2": record.get("l2"),
        "attack_norm": attacks.get("norm"),
        "attack_epsilon": attacks.get("epsilon"),
        "attacked_images": attacks.get("n_images"),
    }
    if record.get("random_fronts"):
        values["random_fronts.mean"] = fmean(record["random_fronts"])
    measured = {name: record.get(name) or {} for name in NETWORKS}
    for key, value in flat(measured | {"ood": record.get("ood") or {}}).items():
        if not isinstance(value, list):
            values[key] = value
        elif len(value) == 2:
            values |= {f"{key}.low": value[0], f"{key}.high": value[1]}
    return {prefix + key: value for key, value in values.items()}
