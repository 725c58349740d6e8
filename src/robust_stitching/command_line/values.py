"""Values on a command line: checked while they are parsed, told in words when they are wrong."""

import argparse
import ast
import math
import operator
from collections.abc import Callable
from typing import Any

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def number(text: str) -> float:
    """A number, or arithmetic on numbers: "8/255", "0.5*8/255"."""

    def value(node: ast.AST) -> float:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return float(node.value)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.operand))
        raise ValueError

    try:
        result = value(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, SyntaxError, ArithmeticError, RecursionError, MemoryError):
        result = math.nan
    if not math.isfinite(result):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number or arithmetic such as 8/255")
    return result


def _checked(
    parse: Callable[[str], float], holds: Callable[[float], bool], what: str
) -> Callable[[str], Any]:
    def check(text: str) -> Any:
        try:
            found = parse(text)
        except ValueError:
            found = None
        if found is None or not holds(found):
            raise argparse.ArgumentTypeError(f"'{text}' is not {what}")
        return found

    return check


positive_int = _checked(int, lambda n: n >= 1, "a whole number of at least 1")
seed = _checked(int, lambda n: 0 <= n < 2**63, "a whole number of at least 0")
iterations = _checked(int, lambda n: n >= 0, "a whole number of at least 0")
positive = _checked(number, lambda x: x > 0, "a number above 0")
at_least_zero = _checked(number, lambda x: x >= 0, "a number of at least 0")
share = _checked(number, lambda x: 0 <= x <= 1, "a number from 0 to 1")
radius = _checked(number, lambda x: 0 < x <= 1, "a radius above 0 and at most 1")


def numbers(text: str) -> list[float]:
    """Numbers with commas between them."""
    return [number(part) for part in text.split(",")]
