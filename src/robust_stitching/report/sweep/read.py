"""The results of a sweep as they lie in its folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.plans.places import PLANS, RECORDS, UNITS


@dataclass(frozen=True)
class Result:
    """What a unit has measured.

    Attributes
    ----------
    front, end : what the sweep calls its networks.
    options : what the lists of the sweep say for it.
    record : its JSON.
    """

    front: str
    end: str
    options: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def is_grid(self) -> bool:
        return "cells" in self.record


def results_in(sweep: Path) -> tuple[list[Result], int]:
    """The results that are there, and how many there will be.

    Raises
    ------
    UserError : for a file that cannot be read.
    """
    found, plans = [], sorted((sweep / PLANS / UNITS).glob("[!.]*.json"))
    for plan in plans:
        for path in (sweep / UNITS / plan.stem).glob(RECORDS):
            about = _json(plan)["unit"]
            found.append(Result(about["front"], about["end"], about["options"], _json(path)))
    return found, len(plans)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}); remove that unit, and run the sweep "
            "again."
        ) from error
