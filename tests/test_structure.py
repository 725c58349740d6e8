"""The house: what may stand on what."""

import ast
from collections import defaultdict
from pathlib import Path

import robust_stitching

ROOT = Path(robust_stitching.__file__).parent


def imports():
    """Package to the packages that its modules import, anywhere in their code."""
    found = defaultdict(set)
    for path in ROOT.rglob("*.py"):
        package, *inside = path.relative_to(ROOT).parts
        if not inside:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "robust_stitching":
                found[package] |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                library, _, rest = node.module.partition(".")
                found[package] |= (
                    {rest.partition(".")[0]} if library == "robust_stitching" else set()
                )
    return {package: others - {package, "__version__"} for package, others in found.items()}


def test_packages_form_no_circle():
    left = imports()
    while left:
        free = {package for package, others in left.items() if not others & left.keys()}
        assert free, f"a circle among {left}"
        left = {package: others for package, others in left.items() if package not in free}


def test_every_module_stands_in_a_package():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_the_library_does_not_know_the_commands():
    assert all("command_line" not in others for others in imports().values())
