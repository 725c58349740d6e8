"""Whether weights fit a network, and what is amiss where they do not: by names and shapes alone,
before any memory is taken for a network of their sizes."""

import warnings
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.models.layers import Normalize

State = Mapping[str, Tensor]

COUNTER = "num_batches_tracked"
"""Of a batch norm: of no use but in training, and unknown to torch before version 0.4.1."""

SMALL = 2**16
"""So many numbers a tensor may have without holding them: constants are spread over channels."""


@dataclass(frozen=True)
class Misfit:
    """What keeps weights from fitting a network; nothing does where all three are empty.

    Attributes
    ----------
    missing, unknown : names that only the network, or only the weights, have.
    bent : names of tensors of another shape.
    """

    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    bent: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unknown or self.bent)

    def __str__(self) -> str:
        kinds = {"missing": self.missing, "misshapen": self.bent, "not known": self.unknown}
        return "; ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for what, names in kinds.items()
            if names
        )


@dataclass(frozen=True)
class Fit:
    """Weights held against a network of the registry, with the sizes that follow from them.

    Attributes
    ----------
    state : the weights under the network's names.
    classes, channels, image_size, options : what `models.build` makes the network from; no
        classes where the network has its own number.
    """

    entry: models.Entry
    state: State
    classes: int | None
    channels: int
    image_size: int | None
    options: Mapping[str, Any]
    misfit: Misfit

    def build(self) -> models.Network:
        """The network, with weights that are still to be loaded."""
        return models.build(
            self.entry,
            num_classes=self.classes,
            in_channels=self.channels,
            image_size=self.image_size,
            **self.options,
        )


def fit(
    entry: models.Entry, state: State, path: Path, dataset: str | None, image_size: int | None
) -> Fit:
    """Hold published weights, without mean and deviation, against a network of the registry.

    Channels and classes are the lengths of the dimensions that follow the one and the other in the
    network, in whatever order the weights stand.

    Raises
    ------
    UserError : for weights that are not there to be loaded, see `require_stored`.
    """
    state = entry.renamed(state)
    require_stored(state, path)
    options = entry.options_of(state, dataset)
    make = partial(frame_of, entry, image_size, tuple(options.items()))
    classes = _size(make(2, 3), make(3, 3), state)
    own_number = classes is None and entry.code is not None  # that its function was told changes it
    classes = classes or 2
    channels = _size(make(2, 3), make(2, 1), state) or 3
    amiss = published_misfit(make(classes, channels), state)
    return Fit(entry, state, None if own_number else classes, channels, image_size, options, amiss)


@lru_cache(maxsize=8)
def frame_of(
    entry: models.Entry, image_size: int | None, options: tuple, classes: int, channels: int
) -> nn.Module:
    """`models.frame`, once for all sets of weights in a file: large networks take their time."""
    sizes = {"num_classes": classes, "in_channels": channels, "image_size": image_size}
    return models.frame(entry, **sizes, **dict(options))


def _size(one: nn.Module, other: nn.Module, state: State) -> int | None:
    """The length in `state` of the first dimension in which two networks differ."""
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    for name, value in one.state_dict().items():
        if name in constants_of(one) or name not in state or state[name].ndim != value.ndim:
            continue
        for length, again, stored in zip(value.shape, shapes[name], state[name].shape, strict=True):
            if length != again:
                return stored
    return None


def constants_of(network: nn.Module) -> tuple[str, str]:
    """The names of the mean and the deviation by which a network normalises its images."""
    name, _ = models.normalisation_of(network)
    return f"{name}.mean", f"{name}.std"


def misfit(network: nn.Module, state: State) -> Misfit:
    """What keeps `state` from fitting a network."""
    own = network.state_dict()
    return Misfit(
        missing=tuple(n for n in own if n not in state and not n.endswith(COUNTER)),
        unknown=tuple(name for name in state if name not in own),
        bent=tuple(n for n in own if n in state and own[n].shape != state[n].shape),
    )


def published_misfit(frame: nn.Module, state: State) -> Misfit:
    """The same of a state dict that may be an old one and has no mean and deviation.

    Parameters
    ----------
    frame : the network on the meta device, see `models.frame`.
    """
    amiss = misfit(frame, state)
    missing = [name for name in amiss.missing if name not in constants_of(frame)]
    unknown = amiss.unknown
    if missing and unknown:  # its modules may know names that they had in an earlier version
        shapes = {
            name: torch.empty(value.shape, dtype=value.dtype, device="meta")
            for name, value in state.items()
            if name not in amiss.bent
        }
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # nothing is copied here, and that is told
                left = frame.load_state_dict(shapes, strict=False)
        except (RuntimeError, ValueError):  # a module knows them, and of another shape
            pass
        else:
            missing = [name for name in missing if name in left.missing_keys]
            unknown = tuple(name for name in unknown if name in left.unexpected_keys)
    return Misfit(tuple(missing), unknown, amiss.bent)


def fill(network: nn.Module, state: State, path: Path) -> None:
    """Load weights that fit; what the state lacks stays as it is.

    Raises
    ------
    UserError : for a weight or a buffer that is NaN or infinite, a whole number where the network
        has none, as quantised weights without their scale, or one that torch cannot take.
    """
    own, state = network.state_dict(), OrderedDict(state)
    for name, value in state.items():
        if name in own and own[name].is_floating_point() and not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise UserError(
                f"{name} in {path} has whole numbers ({kind}), as quantised weights have, whose "
                "scale the file does not tell; give the weights before that."
            )
    if own.keys() >= state.keys():
        # Modules are told that the names are today's: some ask, and fail where nobody knows.
        state._metadata = own._metadata
    try:
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"the weights in {path} cannot be loaded ({reason}).") from error
    require_finite(network.state_dict(), path, masks_of(network))


def require_stored(state: State, path: Path) -> None:
    """Raise UserError for a tensor without values, or with a shape that would fill the memory
    although the file has hardly any of its numbers: a shape costs nothing to write."""
    for name, value in state.items():
        kind = None
        if value.is_meta:
            kind = "has a shape but no values"
        elif value.layout is not torch.strided or value.is_quantized or value.is_complex():
            kind = "is sparse, quantised or complex"
        else:
            stored = value.untyped_storage().nbytes() // value.element_size()
            if value.numel() > max(stored, SMALL):
                kind = (
                    f"is said to have {value.numel():,} numbers, of which the file has {stored:,}"
                )
        if kind:
            raise UserError(f"{name} in {path} {kind}; save the network's state dict again.")


def masks_of(network: nn.Module) -> frozenset[str]:
    """The names of the buffers that may be infinite, as masks of attention are: all but those of
    statistics, and of the constants by which images are normalised."""
    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if not isinstance(module, Normalize)
        for name, _ in module.named_buffers(recurse=False)
        if not name.startswith("running_")
    )


def require_finite(state: State, path: Path | str, masks: Collection[str] = ()) -> None:
    """Raise UserError for a number that is NaN or infinite, naming its tensor; one called as in
    `masks` may be infinite."""
    for name, value in state.items():
        if value.layout is not torch.strided:  # of most kinds nobody can ask what is finite
            value = value.to_dense()
        if not value.is_floating_point():
            continue
        wrong, kind = ~value.isfinite(), "NaN or infinite"
        if name in masks:
            wrong, kind = value.isnan(), "NaN"
        if bool(wrong.any()):
            raise UserError(
                f"{name} in {path} has {int(wrong.sum()):,} of {value.numel():,} numbers that are "
                f"{kind}: the network has diverged or the file is damaged; use another one."
            )
