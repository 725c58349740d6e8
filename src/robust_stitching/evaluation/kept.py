"""An evaluation under attack that keeps what it finds in a file, and goes on from there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from robust_stitching import checkpoints
from robust_stitching.data import AnySplit
from robust_stitching.errors import UserError
from robust_stitching.evaluation.robustness import Robustness, Suite, robustness
from robust_stitching.progress import Progress, silent


def attack_and_keep(
    network: nn.Module,
    split: AnySplit,
    attacks: Suite,
    settings: Mapping[str, Any],
    path: Path | None,
    *,
    seed: int,
    batch_size: int,
    progress: Progress = silent,
) -> Robustness:
    """`robustness`, kept after each batch in `path`, adversarial images included.

    Parameters
    ----------
    settings : all that the result depends on, as plain values.
    path : None keeps nothing.

    Raises
    ------
    UserError : when `path` was kept by a run with other settings.
    """
    known = None
    if path and path.exists():
        before = checkpoints.read(path)
        if not isinstance(before, dict) or before.get("settings") != settings:
            raise UserError(f"{path} was kept by a run with other settings; name another file.")
        known = Robustness(**before["found"])

    def keep(found: Robustness) -> None:
        if path:
            checkpoints.write(path, {"settings": settings, "found": found.state_dict()})

    return robustness(
        network,
        split,
        attacks,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
        known=known,
        after_batch=keep,
        keep_images=path is not None,
    )
