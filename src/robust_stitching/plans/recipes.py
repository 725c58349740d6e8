"""Recipes: what is not said of a map and its training, all of it together.

A plan holds the name of its recipe beside what that stands for, so that whoever reads the plan
needs no recipe, and a recipe that changes does not change what was planned before.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from robust_stitching.basics.errors import UserError
from robust_stitching.plans.parts import LINEAR, NO_MASK, Adversary, Optimisation, Transform
from robust_stitching.plans.written import as_values, from_values


class Recipe(NamedTuple):
    """Defaults of the two parts of a plan that say how a map is found."""

    transform: Transform
    training: Optimisation


PAPER, FAST = "paper", "fast"
RECIPES = {
    PAPER: Recipe(Transform(), Optimisation(epochs=30, lr=1e-3, optimizer="adam")),
    FAST: Recipe(
        Transform(init="ps_inv", whiten=True, fit_images=5000),
        Optimisation(epochs=2, lr=1e-2, optimizer="adam", schedule="cosine"),
    ),
}
UNDER_ATTACK = {FAST: 3e-2}
"""Learning rates where images are attacked and they are others than without: a map that knows of no
attack has further to go in two epochs. Measured by `benchmarks/recipe.py --madry`."""


def completed(values: Mapping[str, Any], default: str) -> Mapping[str, Any]:
    """Settings of a stitch, parts nested, with those that are not said as the recipe among them has
    them; whitening only where a map can have it, the learning rate as it is under attack where
    there is one.

    Parameters
    ----------
    default : the recipe where none is said.
    """
    recipe = values.get("recipe", default)
    if recipe not in [*RECIPES]:  # which is refused when the plan is made
        return values
    parts = {name: as_values(part) for name, part in RECIPES[recipe]._asdict().items()}
    said = {name: values.get(name, {}) for name in parts}
    if isinstance(said["transform"], Mapping) and not may_be_white(said["transform"]):
        parts["transform"]["whiten"] = False
    if _is_attacked(values.get("objective"), parts["training"], said["training"]):
        parts["training"]["lr"] = UNDER_ATTACK.get(recipe, parts["training"]["lr"])
    filled = {
        name: part | said[name] for name, part in parts.items() if isinstance(said[name], Mapping)
    }
    return {**values, **filled}


def _is_attacked(objective: Any, usual: Mapping[str, Any], training: Any) -> bool:
    """Whether batches of a training by these settings, where they say none by the usual ones, have
    attacked images in them."""
    if not isinstance(objective, Mapping) or not isinstance(training, Mapping):
        return False
    adversary = objective.get("adversary")
    try:
        if isinstance(adversary, Mapping):
            adversary = from_values(Adversary, adversary)
        size = training.get("batch_size", usual["batch_size"])
        return isinstance(adversary, Adversary) and adversary.attacked(size) > 0
    except (UserError, TypeError):  # what is wrong is told when the plan is made
        return False


def may_be_white(transform: Mapping[str, Any]) -> bool:
    """Whether the inputs of a map with these settings can be whitened: a mask, a rank, the units of
    a flattened map and maps that are not linear are of channels as they are."""
    masked = transform.get("mask", NO_MASK) != NO_MASK
    other = transform.get("map", LINEAR) != LINEAR
    ranked = transform.get("low_rank") is not None
    return not (masked or ranked or other or transform.get("flatten"))
