"""Where things lie in the folder of a sweep.

::

    <out>/<name>/plan.toml                  the sweep
                 plans/<kind>/<unit>.json   the plan of each unit, and what the sweep calls it
                 networks/<key>/            a trained network
                 units/<unit>/              the results of a pair by one choice of options
                 logs/<unit>.log            what its process told
"""

from pathlib import Path
from typing import Any

from robust_stitching.basics.files import read_json, require_form
from robust_stitching.basics.forms import Form

PLAN, PLANS, NETWORKS, UNITS, LOGS = "plan.toml", "plans", "networks", "units", "logs"
MODEL = "model.pt"
RECORDS = "json/[!.]*.json"
"""The results of a unit, below its folder."""

GRID = {"cells": [{"front_layer": str, "end_layer": str}]}


def plan_in(path: Path, unit: Form = dict) -> dict[str, Any]:
    """The plan of a unit, and what the sweep calls it; UserError where its file is damaged.

    Parameters
    ----------
    unit : what of the latter there has to be.
    """
    return read_json(path, "remove it, and run the sweep again", {"plan": dict, "unit": unit})


def record_in(path: Path, grid: Form = GRID, comparison: Form = dict) -> dict[str, Any]:
    """One of the `RECORDS`; UserError where its file is damaged.

    Parameters
    ----------
    grid, comparison : what there has to be in those of grids, and of comparisons.
    """
    otherwise = f"remove {path.parents[1]}, and run the sweep again"
    values = read_json(path, otherwise)
    for key, form in (("cells", grid), ("measures", comparison)):
        if key in values:
            require_form(values, form, path, otherwise)
    return values
