"""The folder that snapshots/, results/ and config/ lie in."""

from pathlib import Path


def checkout() -> Path | None:
    """The clone of the project that this code runs from; None where it is installed without one."""
    folder = Path(__file__).resolve().parents[2].parent
    is_ours = (folder / "pyproject.toml").is_file() and (folder / "src" / "bin").is_dir()
    return folder if is_ours else None


def root() -> Path:
    """The checkout where there is one, else the working directory, as a relative path."""
    return checkout() or Path()
