"""What numbers depend on beside their settings: versions, the device, the code."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from robust_stitching import __version__
from robust_stitching.basics.root import checkout


def versions(device: torch.device) -> dict[str, str]:
    """Versions of what the numbers depend on, and what they were computed on."""
    known = {"robust_stitching": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "scipy"):
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            known[package] = "unknown"
    cuda = device.type == "cuda"
    known["device"] = torch.cuda.get_device_name(device) if cuda else platform.machine()
    return known


def commit() -> str | None:
    """The commit of this checkout, with "+" where files differ from it; None outside git."""
    folder = checkout()
    if folder is None or not (folder / ".git").exists():
        return None  # git would tell of a repository around us
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None if run.returncode == 0 else None
