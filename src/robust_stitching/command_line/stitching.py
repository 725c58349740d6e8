"""What both stitching commands do once their arguments are parsed: run, tell, print."""

import argparse
import gc
from collections.abc import Callable

from robust_stitching.command_line import cli, networks, options, recipes
from robust_stitching.command_line.parser import Parser
from robust_stitching.plans import from_options
from robust_stitching.plans.actions import StitchPlan


def plan_of(parser: Parser, args: argparse.Namespace) -> StitchPlan:
    """The plan that the arguments ask for."""
    from robust_stitching.command_line.misplaced import PLACES, check_places

    check_places(args, *(place for place in PLACES if hasattr(args, place)))
    options.refuse_in_stitching(args)
    said = options.adversary(args, networks.settings_of(parser, args), "objective.adversary")
    return from_options(StitchPlan, recipes.left_to_the_recipe(parser, args, said))


def stitch_and_print(make: Callable[[], Parser], argv: list[str]) -> None:
    """Stitch as a command line says, leave everything in the run's folder, print the numbers.

    Parameters
    ----------
    make : makes the command's parser.
    """
    parser = make()
    args, plan = cli.understood(parser, argv, lambda args: plan_of(parser, args))
    if plan.debug:
        cli.log_verbosely()
    from robust_stitching.report.stitch.text import as_text
    from robust_stitching.runs import stitch

    gc.freeze()  # what is imported stays; to look through it again and again takes 0.3 s
    done = cli.carried_out(stitch.run, parser, plan, args, argv, as_text)
    if done.amiss is not None:
        raise done.amiss
