"""--recipe: what is not said of a map and its training."""

import argparse
from typing import Any

from robust_stitching.command_line.parser import Parser
from robust_stitching.plans.recipes import RECIPES, UNDER_ATTACK, Recipe

FALLING = {"steps": "divided by 10 twice", "cosine": "falling to zero along a cosine"}


def add_recipe(parser: Parser, group: argparse._ActionsContainer) -> None:
    """The option, whose help says what each recipe stands for."""
    parser.setting(
        "recipe",
        group=group,
        help="what is not said of the map and its training. "
        + "; ".join(f"{name}: {_told(name)}" for name in RECIPES),
    )


def _told(name: str) -> str:
    transform, training = RECIPES[name]
    attacked = f" ({UNDER_ATTACK[name]:g} under attack)" if name in UNDER_ATTACK else ""
    white = " with whitened inputs (of full linear maps of channels)"
    of = f" of {transform.fit_images:,} images" if transform.fit_images else ""
    return (
        f"init {transform.init}{of}{white if transform.whiten else ''}, {training.optimizer} at "
        f"{training.lr:g}{attacked} {FALLING[training.schedule]}, {training.epochs} "
        f"epoch{'s' if training.epochs > 1 else ''}"
    )


def left_to_the_recipe(
    parser: Parser, args: argparse.Namespace, said: dict[str, Any]
) -> dict[str, Any]:
    """The settings without those of the map and its training that no argument gave: the recipe has
    them."""
    given = {parser.paths[name] for name in args.given if name in parser.paths}
    parts = tuple(f"{name}." for name in Recipe._fields)
    return {path: v for path, v in said.items() if path in given or not path.startswith(parts)}
