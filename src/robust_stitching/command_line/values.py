"""Values on a command line: checked while they are parsed, told in words when they are wrong."""

import argparse
from collections.abc import Callable
from typing import Any

from robust_stitching.basics import arithmetic
from robust_stitching.plans.settings import KINDS, Kind, Limits


def number(text: str) -> float:
    """A number, or arithmetic on numbers: "8/255", "0.5*8/255"."""
    result = arithmetic.number(text)
    if result is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number or arithmetic such as 8/255")
    return result


READERS: dict[type, Callable[[str], Any]] = {int: int, float: number, str: str}


def reader(kind: Kind, limits: Limits | None = None) -> Callable[[str], Any]:
    """What argparse calls to read a setting of a kind within limits."""
    if kind.items is float:
        return numbers
    told = limits.told if limits else KINDS[kind.type]

    def read(text: str) -> Any:
        try:
            value = READERS[kind.type](text)
        except ValueError:
            value = None
        if value is None or (limits and not limits.hold(value)):
            raise argparse.ArgumentTypeError(f"'{text}' is not {told}")
        return value

    return read


def weights(text: str) -> str:
    """Names with weights, which may be arithmetic, as plans have them: "name=0.5"."""
    parts = [part.partition("=") for part in text.split(",")]
    return ",".join(f"{n}={number(weight)!r}" if weight else n for n, _, weight in parts)


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    return tuple(number(part) for part in text.split(","))


def over_255(value: float) -> str:
    """A number of steps of 8-bit pixels, as people write it: "8/255"."""
    return f"{value * 255:g}/255"
