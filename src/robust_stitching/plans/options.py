"""Options as commands have them, by their names, as plans: read off the fields of these."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar

from robust_stitching.basics import arithmetic
from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.plans.actions import TrainPlan
from robust_stitching.plans.parts import (
    FROM_CORRELATIONS,
    FROM_DATA,
    HARD,
    INVARIANT,
    TARGETS,
    Adversary,
    Transform,
)
from robust_stitching.plans.recipes import PAPER
from robust_stitching.plans.settings import Kind, Settings, kind_of
from robust_stitching.plans.written import from_flat, leaves

Plan = TypeVar("Plan", bound=Settings)

ATTACKS = {"madry": "madry", "robust": "trades"}
"""Options that ask for adversarial training, to its kind."""

ATTACK_SETTINGS = tuple(own.name for own in fields(Adversary) if own.name != "kind")


class Idle(NamedTuple):
    """Options that say nothing beside some others.

    Attributes
    ----------
    beside : whether these are such.
    why : as the end of a sentence.
    """

    names: tuple[str, ...]
    beside: Callable[[Mapping[str, Any]], bool]
    why: str


def _nothing_in_closed_form(others: Mapping[str, Any]) -> bool:
    return (
        others.get("no_pinv") is True
        and others.get("recipe") == PAPER
        and others.get("init", Transform.init) not in FROM_DATA
        and others.get("mask", Transform.mask) not in FROM_CORRELATIONS
        and not others.get("whiten")
    )


IDLE = (
    Idle(
        ATTACK_SETTINGS,
        lambda others: not any(others.get(attack) for attack in ATTACKS),
        f"says how to attack; it needs {' or '.join(ATTACKS)} = true.",
    ),
    Idle(
        ("beta",),
        lambda others: others.get("madry") is True,
        "is the weight of the TRADES term; it needs `robust`.",
    ),
    Idle(
        ("robust_images", "eval_epsilon", "tier"),
        lambda others: others.get("no_robustness") is True,
        "says how to attack; leave out `no_robustness`.",
    ),
    Idle(
        ("attack_all",),
        lambda others: others.get("no_robustness") is True,
        "says what to attack; leave out `no_robustness`.",
    ),
    Idle(
        ("similarity_images",),
        lambda others: others.get("no_pinv") is True,
        "says what activations are compared on; leave out `no_pinv`.",
    ),
    Idle(
        ("fit_images",),
        _nothing_in_closed_form,
        "says what maps in closed form are computed from, of which there is none; leave it out.",
    ),
    Idle(
        ("temperature",),
        lambda others: others.get("target_type", HARD) == HARD,
        "is of soft targets, but the target type is hard; choose `target_type` "
        f"{', '.join(name for name in TARGETS if name != HARD)}.",
    ),
    Idle(
        ("random_fronts", "noise_sigmas"),
        lambda others: others.get("controls", False) is False,
        "is of the controls; it needs `controls`.",
    ),
    Idle(
        ("no_bn",),
        lambda others: others.get("images") == INVARIANT,
        "says nothing beside invariant images, with which these statistics are frozen in any case; "
        "leave it out.",
    ),
)


def idle_in(options: Mapping[str, Any]) -> dict[str, str]:
    """What says nothing beside options, said or not, to why."""
    return {name: own.why for own in reversed(IDLE) if own.beside(options) for name in own.names}


def options_of(owner: type[Settings]) -> dict[str, Kind]:
    """The options that there are for a plan, as its command has them, to what each holds; networks,
    data and what is hashed of them are none."""
    apart = [own.name for own in fields(owner) if hasattr(kind_of(owner, own.name).type, "hash")]
    found = {
        path.rpartition(".")[2]: kind_of(part, own.name)
        for path, part, own in leaves(owner)
        if path.partition(".")[0] not in (*apart, "code", "cells")
        and not (part is Adversary and own.name == "kind")
    }
    if any(part is Adversary for _, part, _ in leaves(owner)):
        found |= dict.fromkeys(ATTACKS, Kind(bool))
    return found


def check_keys(what: str, given: Mapping[str, Any], known: Mapping[str, Any] | tuple) -> None:
    for key in given:
        if key not in known:
            raise unknown(what, key, known)


def plan_of(owner: type[Plan], options: Mapping[str, Any]) -> Plan:
    """A plan from options as its command has them."""
    known = options_of(owner)
    said = {
        name: _number(value) if name in known and known[name].type is float else value
        for name, value in options.items()
    }
    attack = {name: said.pop(name) for name in ATTACK_SETTINGS if name in said}
    for name in ATTACKS:
        if not isinstance(said.get(name, False), bool):
            raise UserError(f"{name}={said[name]!r} is not true or false.")
    kinds = [kind for name, kind in ATTACKS.items() if said.pop(name, False)]
    if len(kinds) > 1:
        raise UserError(f"{' and '.join(ATTACKS)} exclude each other; choose one.")
    if kinds:
        said["adversary"] = {"kind": kinds[0], **attack}
    elif attack and owner is TrainPlan:
        raise UserError(f"{next(iter(attack))} says how to attack; it needs madry or robust.")
    return from_flat(owner, said)


def _number(value: Any) -> Any:
    """Fractions may be written as arithmetic, in quotes: "8/255"."""
    read = arithmetic.number(value) if isinstance(value, str) else None
    return value if read is None else read
