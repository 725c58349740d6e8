"""Stitch every layer of one network to every layer of another, and draw what that shows.

    python src/bin/stitch_map.py archive/tiny10/Digits/in0-gn0/model.pt \\
        archive/tiny10/Digits/in1-gn1/model.pt digits --no-robustness --run-name map

All maps are trained in one pass over the data. Results go to results/<run-name>/: heat maps and
curves along the diagonal (figures), a report (pdf), the numbers (json, csv) and the maps themselves
(maps).
"""

import argparse
import shutil
from typing import Any

from robust_stitching.command_line import cli, networks, options, recipes
from robust_stitching.command_line.parser import Parser
from robust_stitching.plans import GridPlan, from_options

WIDTH = 120


def parser() -> Parser:
    p = Parser(__doc__, GridPlan)
    options.add_grid(p)
    p.add_argument(
        "--diagonal",
        action="store_true",
        help="stitch only layers of the same name or, where there are none, of the same depth",
    )
    p.setting(
        "seeds",
        metavar="N",
        help="make the whole map N times, with --seed and those that follow; what they vary stands "
        "in the report",
    )
    p.setting("measured.no_pinv", help="leave out CKA, direct matching and what follows from them")
    p.setting("no_bn", help="freeze the running statistics of the donors' batch norms too")
    p.setting(
        "attack_all",
        help="also attack direct matching, maps before training and controls, and see what "
        "transfers",
    )
    p.setting("frank_models", help="also leave every stitched network as a file of its own")
    options.add_runs(p, options.RESULTS)
    options.add_plan(p)
    options.add_device(p)
    options.add_adversary(p, "objective.adversary")
    options.add_robustness(p)
    return p


def plan_of(p: Parser, args: argparse.Namespace) -> GridPlan:
    """The plan that the arguments ask for."""
    from robust_stitching.command_line.misplaced import check_places

    check_places(args, "front_model", "end_model", "dataset")
    options.refuse_in_stitching(args)
    said = networks.settings_of(p, args) | {"cells": "diagonal" if args.diagonal else "all"}
    said = options.adversary(args, said, "objective.adversary")
    return from_options(GridPlan, recipes.left_to_the_recipe(p, args, said))


def main(argv: list[str]) -> None:
    p = parser()
    args, plan = cli.understood(p, argv, lambda args: plan_of(p, args))
    if plan.debug:
        cli.log_verbosely()
    from robust_stitching.report.grid.text import as_text
    from robust_stitching.runs import grid

    def text(record: dict[str, Any]) -> str:
        return as_text(record, max(80, shutil.get_terminal_size((WIDTH, 40)).columns))

    done = cli.carried_out(grid.run, p, plan, args, argv, text)
    failed = [cell for cell in done.record["cells"] if cell["error"]]
    if failed:
        raise SystemExit(1)
