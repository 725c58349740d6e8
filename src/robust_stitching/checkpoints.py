"""The one place that knows how networks lie in files: layout, format, loading with care.

A checkpoint holds tensors and plain values only, says what it is, and is loaded with
``weights_only=True``: a file cannot run code.
"""

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching import models, published
from robust_stitching.data import SOURCES, AnySplit
from robust_stitching.errors import UserError
from robust_stitching.files import replacing
from robust_stitching.stitching.network import rebuild

FORMAT = "robust-stitching 1"
NORMALISATION = {"normalize.mean", "normalize.std"}


@dataclass(frozen=True)
class Checkpoint:
    """A network read from a file.

    Attributes
    ----------
    network : with its weights, on the CPU, in evaluation mode.
    model : its name in the registry, or "front-end" of a stitched one.
    dataset : what it was trained on: a key of `data.SOURCES`, or the path of a folder.
    classes : how many it tells apart.
    training : how it was trained, plain values; empty where unknown.
    path : the file.
    """

    network: nn.Module
    model: str
    dataset: str
    classes: int
    path: Path
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def stitched(self) -> bool:
        """Whether it is a stitched network rather than a trained one."""
        return "front" in self.network.architecture

    def to(self, device: torch.device) -> "Checkpoint":
        """The same on another device, in the layout in which convolutions are fastest."""
        self.network.to(device, memory_format=torch.channels_last)
        return self

    def require_fit(self, split: AnySplit) -> None:
        """Raise UserError unless the network can be asked about the images of `split`, and answers
        in its classes."""
        self.require_images(split)
        if len(split.classes) != self.classes:
            raise UserError(
                f"{self.path} tells {self.classes} classes apart, but {split.name} has "
                f"{len(split.classes)}; choose a dataset with {self.classes} classes."
            )

    def require_images(self, split: AnySplit) -> None:
        """Raise UserError unless the network can be shown the images of `split`.

        Grey images fit a colour network, which spreads them over its channels.
        """
        channels, *_, size = self.network.input_shape
        if split.image_size != size:
            raise UserError(
                f"{self.path} takes images of {size}×{size} pixels, but those of {split.name} have "
                f"{split.image_size}×{split.image_size}; choose a dataset of its size, or train a "
                "network on this one with train.py."
            )
        if split.channels > channels:
            raise UserError(
                f"{self.path} takes grey images, but {split.name} is in colour; "
                "choose a grey dataset."
            )


def name_of(architecture: Mapping[str, Any]) -> str:
    """How a network is called in tables and file names."""
    if "model" in architecture:
        return architecture["model"]
    return f"{name_of(architecture['front'])}-{name_of(architecture['end'])}"


def save(path: Path, network: nn.Module, dataset: str, training: Mapping[str, Any]) -> None:
    """Write a network, whole or not at all.

    Parameters
    ----------
    dataset : a key of `data.SOURCES`, or the path of a folder.
    training : plain values that say how the weights came about.
    """
    write(
        path,
        {
            "format": FORMAT,
            "architecture": network.architecture,
            "dataset": dataset,
            "training": dict(training),
            "state_dict": {name: value.cpu() for name, value in network.state_dict().items()},
        },
    )


def fingerprint(*tensors: Tensor) -> str:
    """A short text that differs where any of the tensors does."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(values), file)  # into a file of Python's, which says why it cannot


def read(path: Path) -> Any:
    """What `write` wrote, or another file of tensors and plain values.

    Raises
    ------
    UserError : when the file is missing, damaged, or would run code.
    """
    if path.is_dir():
        raise UserError(f"'{path}' is a folder; give the file of a network inside, as model.pt.")
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any file may be given, and the unpickler raises what it likes
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    with path.open("rb") as file:
        pickled = zipfile.is_zipfile(path) or file.read(1) == b"\x80"
    refused = isinstance(error, pickle.UnpicklingError) and any(
        word in str(error) for word in ("Unsupported", "GLOBAL", "protocol")
    )
    if pickled and refused:
        return UserError(
            f"{path} holds more than tensors and plain values and could run code; it was refused, "
            "not run. Save its state_dict() alone and load that."
        )
    return UserError(f"{path} is no checkpoint, or not a whole one; copy or train it again.")


def load(
    path: Path,
    *,
    model: str | None = None,
    dataset: str | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> Checkpoint:
    """A network from a file of ours, or from a bare state dict as published networks are.

    Parameters
    ----------
    model : of a bare state dict; read from its path ``…/<model>/<Dataset>/…`` if left out.
    dataset : what a bare state dict was trained on, where its path does not say.
    mean, std : per channel; replace those of the file, or supply them where it has none.

    Raises
    ------
    UserError : when the file is missing, damaged, no network, or does not fit its model.
    """
    found = read(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no network but a {type(found).__name__}.")
    if "format" in found:
        if model is not None:
            raise UserError(f"{path} says itself what model it is; leave -m {model} out.")
        checkpoint = _load_ours(path, found)
    else:
        checkpoint = _load_bare(path, found, model, dataset, bool(mean or std))
    if mean or std:
        if checkpoint.stitched:
            raise UserError("--mean and --std are for networks, not for a stitched one.")
        _normalise(checkpoint.network, mean, std, str(path))
    checkpoint.network.eval()
    return checkpoint


def _load_ours(path: Path, found: dict[str, Any]) -> Checkpoint:
    if found["format"] != FORMAT:
        raise UserError(
            f"{path} has the format '{found['format']}', this version reads '{FORMAT}'; "
            "use the version that wrote it."
        )
    if "state_dict" not in found or "architecture" not in found:
        raise UserError(f"{path} holds no network; give a model.pt or an intermediate snapshot.")
    try:
        network = rebuild(found["architecture"])
        _fill(network, found["state_dict"], path)
        return Checkpoint(
            network=network,
            model=name_of(found["architecture"]),
            dataset=str(found["dataset"]),
            classes=_classes(found["architecture"]),
            path=path,
            training=dict(found["training"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{path} does not hold what a network's file holds ({type(error).__name__}: {error}); "
            "copy or train it again."
        ) from error


def _classes(architecture: Mapping[str, Any]) -> int:
    while "end" in architecture:
        architecture = architecture["end"]
    return architecture["num_classes"]


def _load_bare(
    path: Path, found: dict[str, Any], model: str | None, dataset: str | None, constants: bool
) -> Checkpoint:
    """A network from a bare state dict; `constants` says that mean and deviation are given."""
    if found.keys() >= {"weight", "bias", "history"}:
        raise UserError(
            f"{path} holds the map of a stitch, not a network; give the file in frank_model beside."
        )
    state = published.unwrapped(found)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict of a network.")
    entry = models.entry(model) if model else published.entry_in(path)
    state = dict(entry.renamed(state))
    dataset = published.dataset_in(path) or dataset
    if dataset is None:
        raise UserError(
            f"{path} is a bare state dict and its path names no dataset; put it under "
            "<model>/<Dataset>/, or tell eval_net.py with -d."
        )
    channels, classes = published.ends(path, state)
    network = models.build(
        entry.name,
        num_classes=classes,
        in_channels=channels,
        image_size=SOURCES[dataset].image_size if dataset in SOURCES else None,
        **entry.options_of(state),
    )
    constants = constants or state.keys() >= NORMALISATION or entry.constants_for(channels)
    if entry.published_normalised and dataset in SOURCES and not constants:
        source = SOURCES[dataset]
        _normalise(network, source.mean, source.std, f"{path}, made for {dataset},")
    _fill(network, state, path, may_lack=NORMALISATION)
    return Checkpoint(network, entry.name, dataset, classes, path)


def _normalise(
    network: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None, what: str
) -> None:
    channels = network.input_shape[0]
    for name, given in (("mean", mean), ("std", std)):
        if given is not None and len(given) not in (1, channels):
            raise UserError(
                f"{what} takes images of {channels} channels, but the {name} to normalise them by "
                f"has {len(given)} values; give {channels} with --{name}."
            )
    if std is not None and min(std) <= 0:
        raise UserError(f"the std of {what} has to be above 0 everywhere, not {min(std):g}.")
    network.normalize.set(mean, std)


def _fill(
    network: nn.Module, state: Mapping[str, Tensor], path: Path, may_lack: set[str] = frozenset()
) -> None:
    own = network.state_dict()
    missing = [name for name in own if name not in state and name not in may_lack]
    extra = [name for name in state if name not in own]
    bent = [n for n in own if n in state and own[n].shape != state[n].shape]
    if missing or extra or bent:
        told = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for what, names in (("missing", missing), ("not known", extra), ("misshapen", bent))
            if names
        ]
        raise UserError(
            f"the weights in {path} do not fit {name_of(network.architecture)}: {'; '.join(told)}."
        )
    network.load_state_dict(state, strict=False)
