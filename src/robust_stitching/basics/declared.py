"""Names that modules declare, found without importing them, so that help starts quickly."""

import ast
from pathlib import Path


def declared(folder: Path, function: str) -> list[str]:
    """The first argument of every call of a function in the modules of a folder, where it is a text
    as it stands: ``register("lenet", …)`` declares "lenet"."""
    names = []
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _is_called(node, function) and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    names.append(first.value)
    return names


def _is_called(node: ast.Call, function: str) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == function
