"""State dicts as others publish them: what is wrapped around the weights, what they are of, and
what their place among folders, ``…/<model>/<Dataset>/…``, says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from robust_stitching import models
from robust_stitching.data import source_of
from robust_stitching.errors import UserError

WRAPPERS = ("state_dict", "model", "net", "model_state_dict")
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What data parallel training, packages for robustness and torch.compile put before every name."""

DUPLICATE = "attacker."
"""Before the names of a second copy of a network, which packages for robustness keep."""

CONSTANTS = {
    "mean": "normalize.mean",
    "mu": "normalize.mean",
    "normalizer.new_mean": "normalize.mean",
    "std": "normalize.std",
    "sigma": "normalize.std",
    "normalizer.new_std": "normalize.std",
}
"""What others call the mean and the deviation inside a network."""


def unwrapped(found: dict[str, Any]) -> dict[str, Any]:
    """The state dict itself: out of a wrapper, without prefixes and duplicates, with our names for
    mean and deviation."""
    for key in WRAPPERS:
        if isinstance(found.get(key), dict):
            found = found[key]
    state = {}
    for name, value in found.items():
        name = _without_prefixes(str(name))
        if name in CONSTANTS and isinstance(value, Tensor):
            state[CONSTANTS[name]] = value.reshape(-1, 1, 1)
        elif not name.startswith(DUPLICATE):
            state[name] = value
    return state


def _without_prefixes(name: str) -> str:
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return _without_prefixes(name.removeprefix(prefix))
    return name


def ends(path: Path, state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Channels of the images and number of classes: what the first convolution takes, and what the
    last layer gives, which in a few networks is a convolution, too."""
    convolutions = [value for value in state.values() if value.ndim == 4]
    linear = [value for value in state.values() if value.ndim == 2]
    if not convolutions:
        raise UserError(f"{path} holds no state dict of an image classifier.")
    return convolutions[0].shape[1], (linear or convolutions)[-1].shape[0]


def entry_in(path: Path) -> models.Entry:
    """The model that one of the folders above a file is named for; UserError where none is."""
    for part in reversed(path.absolute().parent.parts):
        try:
            return models.entry_of_folder(part)
        except UserError:
            continue
    raise UserError(
        f"{path} is a bare state dict and its path names no model; put it under "
        "<model>/<Dataset>/, or tell eval_net.py with -m."
    )


def dataset_in(path: Path) -> str | None:
    """The key of the dataset that one of the folders above a file is named for, if any."""
    for part in reversed(path.absolute().parent.parts):
        try:
            return source_of(part)
        except UserError:
            continue
    return None
