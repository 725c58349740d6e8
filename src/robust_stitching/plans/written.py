"""Plans as JSON: written whole, read strictly, told apart by what differs from their defaults."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from robust_stitching.basics.errors import UserError, first_line, unknown
from robust_stitching.plans.settings import Settings, kind_of

Plan = TypeVar("Plan", bound=Settings)
HEAD = ("kind", "format")


def as_values(plan: Settings) -> dict[str, Any]:
    """Every setting as plain values, parts nested; of an action also its kind and format."""
    return _head(type(plan)) | {own.name: _plain(getattr(plan, own.name)) for own in fields(plan)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return as_values(value)
    return list(value) if isinstance(value, tuple) else value


def _head(owner: type) -> dict[str, Any]:
    return {key: getattr(owner, key.upper()) for key in HEAD if hasattr(owner, key.upper())}


def from_values(
    owner: type[Plan], values: Any, where: str = "the plan", base: Plan | None = None
) -> Plan:
    """The plan that `as_values` wrote; what is not said has its default.

    Parameters
    ----------
    where : what errors call the values.
    base : has the defaults, where they differ from those of `owner`.

    Raises
    ------
    UserError : for unknown or missing keys, values that are none of their setting, another kind of
        plan, or a format that this version does not know.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} has to be a table of settings, not {values!r}.")
    head = _head(owner)
    for key, own in head.items():
        said = values.get(key, own)
        if said != own or type(said) is not type(own):
            raise UserError(f"{where} has the {key} {values[key]!r}, but {own!r} is needed here.")
    names = [own.name for own in fields(owner)]
    for key in values:
        if key not in names and key not in head:
            raise unknown(f"key in {where}:", str(key), names)
    values, given = owner.completed(values), {}
    for own in fields(owner):
        kind, default = kind_of(owner, own.name), getattr(base, own.name, own.default)
        value = values.get(own.name, default)
        if value is MISSING:
            raise UserError(f"{where} lacks '{own.name}'.")
        if is_dataclass(kind.type) and isinstance(value, Mapping):
            part = default if is_dataclass(default) else None
            value = from_values(kind.type, value, f"{where}, {own.name}", part)
        given[own.name] = value
    return owner(**given)


def leaves(owner: type, prefix: str = "") -> Iterator[tuple[str, type, Field]]:
    """Every setting below a class of settings: its path, with dots, the class that has it, and its
    field."""
    for own in fields(owner):
        kind = kind_of(owner, own.name)
        path = f"{prefix}{own.name}"
        if is_dataclass(kind.type):
            yield from leaves(kind.type, f"{path}.")
        else:
            yield path, owner, own


def default_of(owner: type, path: str) -> Any:
    """The default of the setting at a path; None where it has to be given."""
    base, *names = None, *path.split(".")
    for name in names:
        (own,) = (own for own in fields(owner) if own.name == name)
        base, owner = getattr(base, name, own.default), kind_of(owner, name).type
    return None if base is MISSING else base


def from_options(owner: type[Plan], options: Mapping[str, Any]) -> Plan:
    """A plan from the values at paths, with dots, of its settings. A part that may be left out is,
    where nothing is said of it."""
    nested = _nested(options)
    for own in fields(owner):
        said = nested.get(own.name)
        if kind_of(owner, own.name).optional and isinstance(said, Mapping):
            nested[own.name] = said if any(v is not None for v in said.values()) else None
    return from_values(owner, nested)


def with_values(plan: Plan, moved: Mapping[str, Any]) -> Plan:
    """The plan with other values at some paths, with dots, of its settings."""
    for path, value in moved.items():
        name, _, rest = path.partition(".")
        part = getattr(plan, name)
        if rest and part is None:
            raise UserError(f"the plan has no {name}; leave `{path}` out.")
        plan = replace(plan, **{name: with_values(part, {rest: value}) if rest else value})
    return plan


def value_at(plan: Settings, path: str) -> Any:
    """The value of the setting at a path, with dots; None in a part that is left out."""
    for name in path.split("."):
        plan = getattr(plan, name, None)
    return plan


def from_flat(owner: type[Plan], settings: Mapping[str, Any]) -> Plan:
    """A plan from settings by their own names, whichever part they stand in, as `flat` gives them.

    Raises
    ------
    UserError : for an unknown setting, with the closest ones.
    """
    places = _places(owner)
    for name in settings:
        if name not in places:
            raise unknown("setting", name, places)
    return from_values(owner, _nested({places[name]: v for name, v in settings.items()}))


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values at paths, with dots, as tables in tables."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        *parts, name = path.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[name] = value
    return nested


def _places(owner: type, prefix: str = "") -> dict[str, str]:
    """What `flat` calls the settings, to their paths."""
    places = {}
    for own in fields(owner):
        kind = kind_of(owner, own.name)
        if is_dataclass(kind.type) and not kind.optional and not hasattr(kind.type, "hash"):
            places |= _places(kind.type, f"{prefix}{own.name}.")
        else:
            places[own.name] = f"{prefix}{own.name}"
    return places


def flat(plan: Settings) -> dict[str, Any]:
    """Setting to value without the parts that they stand in; parts that may be left out stay whole,
    and networks and data, which are no settings, stay out."""
    values: dict[str, Any] = {}
    for own in fields(plan):
        value, kind = getattr(plan, own.name), kind_of(type(plan), own.name)
        if hasattr(kind.type, "hash"):
            continue
        if is_dataclass(value) and not kind.optional:
            values |= flat(value)
        else:
            values[own.name] = _plain(value)
    return values


def changed(plan: Settings) -> dict[str, Any]:
    """What differs from defaults and counts, nested: what the identity of a plan is made of."""
    values = {}
    for own in _counting(plan):
        value = getattr(plan, own.name)
        if value != own.default:
            values[own.name] = changed(value) if is_dataclass(value) else _plain(value)
    return values


def _counting(plan: Settings) -> Iterator[Field]:
    """The fields that make a plan another one."""
    for own in fields(plan):
        instead = own.metadata.get("unless")
        known = instead is not None and getattr(plan, instead) is not None
        if own.metadata.get("counts", True) and not known:
            yield own


def identity(plan: Settings) -> str:
    """A text that is the same for plans that ask for the same: SHA-256 of canonical JSON of the
    kind, the format and what differs from defaults. Files count by their content once it was read,
    not by where they lie."""
    canonical = json.dumps(_head(type(plan)) | changed(plan), sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def differences(before: Settings, now: Settings) -> list[str]:
    """What two plans of one kind differ in and what counts: "`epochs` was 3 and is 5"."""
    earlier, later = (dict(_values_of(plan)) for plan in (before, now))
    return [
        f"`{path}` was {earlier.get(path)} and is {later.get(path)}"
        for path in dict.fromkeys((*earlier, *later))
        if earlier.get(path) != later.get(path)
    ]


def _values_of(plan: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting that counts, by its path."""
    for own in _counting(plan):
        value, path = getattr(plan, own.name), f"{prefix}{own.name}"
        if is_dataclass(value):
            yield from _values_of(value, f"{path}.")
        else:
            yield path, value


def read(path: Path, owner: type[Plan]) -> Plan:
    """The plan in a file: a plan alone, or that in the JSON of a result.

    Raises
    ------
    UserError : where there is none, or see `from_values`.
    """
    return from_values(owner, _values_in(path), f"the plan in {path}")


def kind_in(path: Path) -> Any:
    """Of which kind the plan in a file is; None where it does not say. Errors as `read`."""
    values = _values_in(path)
    return values.get("kind") if isinstance(values, Mapping) else None


def _values_in(path: Path) -> Any:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"the plan {path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        beside = [other.name for other in path.parent.glob("*.json")]
        which = f", as in {beside[0]} beside it" if len(beside) == 1 else ""
        told = f"{path} is no JSON ({first_line(error)}); give a plan{which}."
        raise UserError(told) from error
    if isinstance(values, Mapping) and isinstance(values.get("plan"), Mapping):
        return values["plan"]
    return values
