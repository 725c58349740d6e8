"""Settings: values of a kind and within limits, wherever they come from."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from robust_stitching.basics.errors import UserError, unknown


class Limits(NamedTuple):
    """Which values a setting may have, and what those are in words."""

    hold: Callable[[Any], bool]
    told: str


AT_LEAST_ONE = Limits(lambda n: n >= 1, "a whole number of at least 1")
ENOUGH = Limits(lambda n: n >= 1, "a whole number of at least 1, auto or all")
COUNT = Limits(lambda n: n >= 0, "a whole number of at least 0")
PERMUTATIONS = Limits(lambda n: n == 0 or n >= 19, "0 or a whole number of at least 19")
SEED = Limits(lambda n: 0 <= n < 2**63, "a whole number from 0 to 2^63 - 1")
POSITIVE = Limits(lambda x: x > 0, "a number above 0")
AT_LEAST_ZERO = Limits(lambda x: x >= 0, "a number of at least 0")
SHARE = Limits(lambda x: 0 <= x <= 1, "a number from 0 to 1")
NOT_NEGATIVE = Limits(lambda xs: all(x >= 0 for x in xs), "a list of numbers of at least 0")
SOME = Limits(lambda values: len(values) > 0, "a list with something in it")
TEMPERATURE = Limits(lambda x: 0 < x <= 1e18, "a number above 0 and at most 1e18")
"""Its square, too, is a number in float32."""
RADIUS = Limits(lambda x: 0 < x <= 1, "a radius above 0 and at most 1")
KINDS = {
    bool: "true or false",
    int: "a whole number below 2^63",
    float: "a finite number of at most 1e30",
    str: "a text that a file could be called",
    tuple: "a list",
}
LARGEST = 1e30
"""So large are numbers, up to their sign, at most: float32 has them, too."""

MOST_SHOWN = 80
"""Signs of a value in an error."""


def setting(
    default: Any = MISSING,
    limits: Limits | None = None,
    *,
    choices: Sequence[str] = (),
    counts: bool = True,
    unless: str | None = None,
) -> Any:
    """A field of a plan.

    Parameters
    ----------
    choices : all values that it may have; of a number, the words that may stand in its place.
    counts : whether plans that differ in it are different plans.
    unless : the field that, once it is known, counts in place of this one, as the hash of what was
        read in place of where it lies and how it is read.
    """
    about = {"limits": limits, "choices": tuple(choices), "counts": counts, "unless": unless}
    return field(default=default, metadata=about)


class Settings:
    """What frozen dataclasses of settings share: values are checked when they are made.

    Whole numbers given for fractions become fractions and lists become tuples, so that equal plans
    are written alike.
    """

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Settings that were said, with those that follow from them and differ from defaults."""
        return values

    def __post_init__(self):
        for own in fields(self):
            value = _checked(own, kind_of(type(self), own.name), getattr(self, own.name))
            object.__setattr__(self, own.name, value)


class Kind(NamedTuple):
    """What a field holds: values of a type, or lists of them; None too where `optional`. What holds
    a number or one of some words is of the number's type."""

    type: type
    optional: bool = False
    items: type | None = None


@cache
def _hints(owner: type) -> dict[str, Any]:
    return get_type_hints(owner)


def kind_of(owner: type, name: str) -> Kind:
    """What the field of that name in a class of settings holds."""
    hint, optional = _hints(owner)[name], False
    if get_origin(hint) in (Union, UnionType):
        parts = get_args(hint)
        hint, optional = parts[0], NoneType in parts
    if get_origin(hint) is tuple:
        return Kind(tuple, optional, get_args(hint)[0])
    return Kind(hint, optional)


def _checked(own: Field, kind: Kind, value: Any) -> Any:
    if value is None and kind.optional:
        return None
    choices, limits = own.metadata.get("choices"), own.metadata.get("limits")
    if choices and kind.type is not str:  # a number, or a word in its place
        if value in choices:
            return value
        if type(value) is not int:
            raise UserError(f"{own.name}={_shown(value)} is not {limits.told}.")
    elif choices and not isinstance(value, str):
        raise UserError(f"{own.name}={_shown(value)} is none of {', '.join(choices)}.")
    value = _as(kind.type, own.name, value)
    if kind.items:
        value = tuple(_as(kind.items, own.name, item) for item in value)
    if choices and kind.type is str and value not in choices:
        raise unknown(own.name.replace("_", " "), value, choices)
    if limits and not limits.hold(value):
        raise UserError(f"{own.name}={_shown(value)} is not {limits.told}.")
    return value


def _as(kind: type, name: str, value: Any) -> Any:
    """`value` as a `kind`, where it is one; UserError where it is not."""
    given = value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        value = float(value) + 0.0 if abs(value) <= LARGEST else None  # + 0: no minus before zero
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not right or (kind is int and abs(value) >= 2**63) or (kind is str and not _is_name(value)):
        raise UserError(f"{name}={_shown(given)} is not {KINDS.get(kind, f'a {kind.__name__}')}.")
    return value


def _is_name(text: str) -> bool:
    """Whether a file could be called so."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
