"""What tests look at of what a command left behind."""

import json
from pathlib import Path
from typing import Any


def strict_json(path: Path) -> Any:
    """The values in a JSON file that holds no NaN and no infinity."""

    def refuse(constant):
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


def only(folder: Path) -> Path:
    """The one thing in a folder."""
    (path,) = folder.iterdir()
    return path
