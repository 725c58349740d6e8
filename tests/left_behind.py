"""What tests look at of what a command left behind."""

import json
import time
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


def names(folder: Path) -> list[str]:
    """What lies in a folder, in order."""
    return sorted(path.name for path in folder.iterdir())


def wait_for(path: Path, seconds: float = 120) -> None:
    """Wait until another process has made `path`."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.005)
