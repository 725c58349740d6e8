"""The results of a sweep as they lie in its folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.plans.places import PLANS, RECORDS, UNITS, plan_in, record_in

COMPARE = "compare."
"""Before the options and the numbers of a comparison, which are not those of the stitches; but a
seed is a seed."""

UNIT = {"number": int, "front": str, "end": str, "options": dict}
"""What a file says of a unit."""

ACCURACY = {"accuracy": int | float | None}
CELL = {"front_layer": str, "end_layer": str, "seed": int, "error": str | None, "notes": list}
GRID = {
    "front_layers": [str],
    "end_layers": [str],
    "seeds": [int],
    "notes": [str],
    "donors": {side: {"model": str} for side in ("front", "end")},
    "data": {"name": str, "n_images": int, "n_train_images": int},
    "params": {"epochs": int},
    "cells": [CELL | dict.fromkeys(("front", "end"), ACCURACY)],
}
COMPARISON = {"measures": dict, "layers1": [str], "layers2": [str]}
"""What is read of the records of units."""


@dataclass(frozen=True)
class Asked:
    """What a unit is to measure.

    Attributes
    ----------
    front, end : what the sweep calls its networks.
    options : what the lists of the sweep say for it.
    """

    front: str
    end: str
    options: Mapping[str, Any]

    @property
    def pair(self) -> str:
        return f"{self.front} → {self.end}"

    @property
    def combination(self) -> str:
        """All options but the seed, as people read them."""
        told = {name: plain(value) for name, value in self.options.items() if name != "seed"}
        return ", ".join(f"{name}={value}" for name, value in told.items())


@dataclass(frozen=True)
class Result(Asked):
    """What a unit has measured.

    Attributes
    ----------
    path, record : its JSON.
    """

    path: Path
    record: Mapping[str, Any]

    @property
    def is_grid(self) -> bool:
        return "cells" in self.record


@contextmanager
def reading(*results: Result) -> Iterator[None]:
    """Tell in a sentence that a record, be it whole, does not hold what is looked for in it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        paths = " or ".join(str(result.path) for result in results)
        raise UserError(
            f"{paths} does not hold what a unit leaves ({first_line(error)}); remove "
            f"{results[0].path.parents[1]}, and run the sweep again."
        ) from error


def plain(value: Any) -> Any:
    """The value of an option, a list as a text."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def results_in(sweep: Path) -> tuple[list[Result], list[Asked]]:
    """The results that are there, and all that were asked for, both in the order of the plan.

    Raises
    ------
    UserError : for a file that cannot be read.
    """
    paths = sorted((sweep / PLANS / UNITS).glob("[!.]*.json"))
    plans = sorted(((path.stem, plan_in(path, UNIT)) for path in paths), key=_number)
    asked = {name: _asked(values) for name, values in plans}
    found = [
        Result(one.front, one.end, one.options, path, _record(path))
        for name, one in asked.items()
        for path in (sweep / UNITS / name).glob(RECORDS)
    ]
    together = dict.fromkeys((one.pair, one.combination) for one in asked.values())
    order = {key: number for number, key in enumerate(together)}
    found.sort(key=lambda result: order[result.pair, result.combination])
    return found, list(asked.values())


def _record(path: Path) -> dict[str, Any]:
    values = record_in(path, GRID, COMPARISON)
    if not (values.get("cells") or values.get("measures")):
        raise UserError(
            f"{path} is no result of a unit; remove {path.parents[1]}, and run the sweep again."
        )
    return values


def _number(plan: tuple[str, Mapping[str, Any]]) -> int:
    return plan[1]["unit"]["number"]


def _asked(values: Mapping[str, Any]) -> Asked:
    about = values["unit"]
    before = COMPARE if values["plan"].get("kind") == "compare" else ""
    options = {
        name if name == "seed" else f"{before}{name}": value
        for name, value in about["options"].items()
    }
    return Asked(about["front"], about["end"], options)
