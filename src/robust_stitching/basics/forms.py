"""What values that come from a file have to look like."""

from collections.abc import Mapping
from types import UnionType
from typing import Any, TypeAlias

Form: TypeAlias = type | UnionType | list | Mapping
"""A type; the form of each item of a list, in one; those of the keys that a table has to have."""


def amiss(value: Any, form: Form, name: str = "it") -> str | None:
    """What is wrong with a value, as a sentence; None where it has the form.

    Parameters
    ----------
    name : of the value.
    """
    if isinstance(form, Mapping):
        if not isinstance(value, Mapping):
            return f"{name} is no table"
        if lacking := [key for key in form if key not in value]:
            return f"{name} lacks {lacking[0]!r}"
        told = (amiss(value[key], inner, repr(key)) for key, inner in form.items())
    elif isinstance(form, list):
        if not isinstance(value, list):
            return f"{name} is no list"
        told = (amiss(item, form[0], f"{name}[{number}]") for number, item in enumerate(value))
    else:
        told = (f"{name} is {value!r:.60}" for _ in [value] if not isinstance(value, form))
    return next(filter(None, told), None)
