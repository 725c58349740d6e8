"""Mean and deviation of the images that a network was made with."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints.fitting import Fit
from robust_stitching.checkpoints.published import Weights
from robust_stitching.data import SOURCES

IDENTITY = ((0.0,), (1.0,))


def constants_for(
    path: Path,
    taken: Weights,
    made_for: str,
    given: Mapping[str, Sequence[float] | None],
    notes: list[str],
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation for a bare state dict: those given, else those of its file, else those
    that networks of its kind are published with, which is a guess and told."""
    values, whose = _usual(taken.fit, made_for)
    usual = dict(zip(given, values, strict=True))
    own = {kind: value.tolist() for kind, value in taken.constants.items()}
    lacking = [kind for kind in given if not given[kind] and kind not in own]
    if lacking:
        told = " and ".join(f"{kind} {_listed(usual[kind])}" for kind in lacking)
        notes.append(
            f"{path} brings no {' and '.join(lacking)}: {told} were taken, {whose}; if it was made "
            "with others, its numbers are wrong, and `mean` and `std` give them."
        )
    return tuple(given[kind] or own.get(kind) or usual[kind] for kind in given)


def _usual(fit: Fit, made_for: str) -> tuple[models.Constants, str]:
    """The constants that networks are published with, and whose they are."""
    entry = fit.entry
    own = entry.constants_for(fit.channels)
    if own:
        return own, f"those of {entry.name}"
    if made_for in entry.published_constants:
        return entry.published_constants[made_for], f"those of {entry.name} for {made_for}"
    if entry.published_normalised and made_for in SOURCES:
        return (SOURCES[made_for].mean, SOURCES[made_for].std), f"those of {made_for}"
    return IDENTITY, "which leaves images in [0, 1] as they are"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def normalise(
    network: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None, what: str
) -> None:
    """Give a network its constants; None leaves what it has. `what` is what errors call it."""
    channels = network.input_shape[0]
    for kind, given in (("mean", mean), ("std", std)):
        if given is not None:
            _check_constants(kind, given, channels, what)
    models.normalisation_of(network)[1].set(mean, std)


def _check_constants(kind: str, given: Sequence[float], channels: int, what: str) -> None:
    """Raise UserError for a mean or a deviation that images in [0, 1] cannot have."""
    try:
        given = [float(value) for value in given]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the {kind} of {what} is {given!r:.60}, which is no list of numbers; give one for "
            "each channel."
        ) from error
    if len(given) not in (1, channels):
        raise UserError(
            f"{what} takes images of {channels} channels, but the {kind} to normalise them by has "
            f"{len(given)} values; give {channels}."
        )
    if max(given) > 1:
        over = [value / 255 for value in given]
        hint = f"give it over 255, {_listed(over)}" if max(over) <= 1 else "give another"
        raise UserError(
            f"the {kind} of {what} is {_listed(given)}, but images are in [0, 1]; {hint}."
        )
    if not all(value > 0 or (value == 0 and kind == "mean") for value in given):
        least = "above 0" if kind == "std" else "0 or above"
        raise UserError(f"the {kind} of {what} has to be {least} everywhere, not {_listed(given)}.")
