"""Recipes: what is not said of a map and its training, all of it together.

A plan holds the name of its recipe beside what that stands for, so that whoever reads the plan
needs no recipe, and a recipe that changes does not change what was planned before.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from robust_stitching.plans.parts import LINEAR, NO_MASK, Adversary, Optimisation, Transform
from robust_stitching.plans.written import as_values


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
"""Learning rates of trainings under attack, where they are others: two epochs from a map that knows
of no attack have further to go, see `docs/maps.md`."""


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
    if is_attacked(values.get("objective", {})):
        parts["training"]["lr"] = UNDER_ATTACK.get(recipe, parts["training"]["lr"])
    filled = {
        name: part | said[name] for name, part in parts.items() if isinstance(said[name], Mapping)
    }
    return {**values, **filled}


def is_attacked(objective: Any) -> bool:
    """Whether a training by these settings of an objective shows attacked images at all."""
    adversary = objective.get("adversary") if isinstance(objective, Mapping) else None
    if isinstance(adversary, Adversary):
        adversary = as_values(adversary)
    return isinstance(adversary, Mapping) and adversary.get("attack_ratio", 1) != 0


def may_be_white(transform: Mapping[str, Any]) -> bool:
    """Whether the inputs of a map with these settings can be whitened: a mask, a rank, the units of
    a flattened map and maps that are not linear are of channels as they are."""
    masked = transform.get("mask", NO_MASK) != NO_MASK
    other = transform.get("map", LINEAR) != LINEAR
    ranked = transform.get("low_rank") is not None
    return not (masked or ranked or other or transform.get("flatten"))
