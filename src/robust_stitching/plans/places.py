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

from robust_stitching.basics.files import read_json

PLAN, PLANS, NETWORKS, UNITS, LOGS = "plan.toml", "plans", "networks", "units", "logs"
MODEL = "model.pt"
RECORDS = "json/[!.]*.json"
"""The results of a unit, below its folder."""


def plan_in(path: Path) -> dict[str, Any]:
    """The plan of a unit, and what the sweep calls it; UserError where its file is damaged."""
    return read_json(path, "remove it, and run the sweep again", "plan", "unit")


def record_in(path: Path) -> dict[str, Any]:
    """One of the `RECORDS`; UserError where its file is damaged."""
    return read_json(path, f"remove {path.parents[1]}, and run the sweep again")
