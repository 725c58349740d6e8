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

from robust_stitching import claims, class_names, data, harmless, models, published
from robust_stitching.class_names import Matching
from robust_stitching.constants import constants_for, normalise
from robust_stitching.data import SOURCES, AnySplit
from robust_stitching.errors import UserError
from robust_stitching.files import replacing
from robust_stitching.fitting import fill, misfit, require_stored
from robust_stitching.stitching.network import rebuild

FORMAT = "robust-stitching 1"
OURS = FORMAT.split()[0]


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
    class_names : of its answers, in their order; None where they are not known.
    notes : what a reader of its numbers has to know, in sentences: what was guessed.
    """

    network: nn.Module
    model: str
    dataset: str
    classes: int
    path: Path
    training: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def stitched(self) -> bool:
        """Whether it is a stitched network rather than a trained one."""
        return "front" in self.network.architecture

    def to(self, device: torch.device) -> "Checkpoint":
        """The same on another device, in the layout in which convolutions are fastest."""
        models.placed(self.network, device)
        return self

    def matching(self, split: AnySplit) -> Matching:
        """Which class of `split`, which has as many, each of the network's answers stands for: by
        name, or by number where the network does not know its names."""
        return class_names.matched(self.class_names or split.classes, split.classes)

    def shares_classes(self, split: AnySplit) -> bool:
        """Whether a class of `split`, which has as many, is called as one of the network's."""
        return len(self.matching(split).renamed) < self.classes

    def answerable(self, split: AnySplit) -> tuple[AnySplit, list[str]]:
        """`split` with its classes in the order of the network's answers, and a sentence where they
        could not all be matched by name.

        Raises
        ------
        UserError : unless the network can be asked about these images, and answers in as many
            classes.
        """
        self.require_fit(split)
        found, notes = self.matching(split), []
        if found.renamed:
            notes.append(
                f"The classes of {split.name} have other names than those of {self.path}: taken "
                f"were {found}. Its accuracy means something only where these are the same."
            )
        if self.class_names is None and self.dataset != split.source:
            notes.append(
                f"{self.path} does not say what its {self.classes} classes are called: they were "
                f"taken for those of {split.name} in their order."
            )
        in_order = found.order == tuple(range(self.classes))
        return split if in_order else split.relabelled(found.order), notes

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


def save(
    path: Path,
    network: nn.Module,
    dataset: str,
    training: Mapping[str, Any],
    classes: Sequence[str] | None = None,
) -> None:
    """Write a network, whole or not at all.

    Parameters
    ----------
    dataset : a key of `data.SOURCES`, or the path of a folder.
    training : plain values that say how the weights came about.
    classes : the names of the network's answers, in their order; None where they are not known.
    """
    write(
        path,
        {
            "format": FORMAT,
            "architecture": network.architecture,
            "dataset": dataset,
            "classes": None if classes is None else list(classes),
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
        with warnings.catch_warnings(), harmless.allowed():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any file may be given, and the unpickler raises what it likes
        raise _unreadable(path, error) from error


def is_ours(found: Any) -> bool:
    """Whether what `read` found says itself what it is."""
    return isinstance(found, dict) and str(found.get("format")).startswith(OURS)


def _unreadable(path: Path, error: Exception) -> UserError:
    with path.open("rb") as file:
        pickled = zipfile.is_zipfile(path) or file.read(1) == b"\x80"
    refused = isinstance(error, pickle.UnpicklingError) and any(
        word in str(error) for word in ("Unsupported", "GLOBAL", "protocol", "Can only")
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
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: str | None = None,
    image_size: int | None = None,
) -> Checkpoint:
    """A network from a file of ours, or from a bare state dict as published networks are.

    Parameters
    ----------
    model : of a bare state dict; read from its path ``…/<model>/<Dataset>/…`` if left out.
    dataset : what a bare state dict was made for, a key of `data.SOURCES` or the path of a folder
        of images; where `model` is read from ``…/<model>/<Dataset>/…`` that says it.
    mean, std : per channel, of images in [0, 1]; before those of the file.
    weights : which to take of several in a bare state dict's file, see `published.find`.
    image_size : of a bare state dict's images, where its dataset does not say.

    Raises
    ------
    UserError : when the file is missing, damaged, no network, does not fit its model, or holds
        numbers that are not finite.
    """
    found = read(path)
    if not isinstance(found, dict | list | tuple):
        raise UserError(f"{path} holds no network but a {type(found).__name__}.")
    given = {"mean": mean, "std": std}
    if is_ours(found):
        if model is not None:
            raise UserError(f"{path} says itself what model it is; leave -m {model} out.")
        if weights is not None:
            raise UserError(f"{path} holds one set of weights; leave --weights {weights} out.")
        checkpoint = _load_ours(path, found)
        size = checkpoint.network.input_shape[-1]
        if image_size not in (None, size):
            raise UserError(
                f"{path} takes images of {size}×{size} pixels; leave --image-size {image_size} out."
            )
        if checkpoint.stitched and any(given.values()):
            raise UserError(
                "mean and std are for networks, not for a stitched one; leave them out."
            )
        if any(given.values()):
            normalise(checkpoint.network, mean, std, str(path))
    else:
        checkpoint = _load_bare(path, found, model, dataset, given, weights, image_size)
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
        architecture, state = found["architecture"], found["state_dict"]
        require_stored(state, path)
        network = rebuild(architecture)
        amiss = misfit(network, state)
        if amiss:
            raise UserError(
                f"the weights in {path} do not fit {name_of(network.architecture)}: {amiss}."
            )
        fill(network, state, path)
        _require_deviations(network, path)
        dataset, classes = str(found["dataset"]), _classes(architecture)
        return Checkpoint(
            network=network,
            model=name_of(architecture),
            dataset=dataset,
            classes=classes,
            path=path,
            training=dict(found["training"]),
            class_names=_names(found.get("classes"), dataset, classes),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{path} does not hold what a network's file holds ({type(error).__name__}: {error}); "
            "copy or train it again."
        ) from error


def _names(kept: Any, dataset: str, classes: int) -> tuple[str, ...] | None:
    """What the answers of a network of ours are called: as its file says, or, where it is too old
    to, as its dataset calls them."""
    if kept is not None:
        if len(kept) != classes or not all(isinstance(name, str) for name in kept):
            raise ValueError(f"{len(kept)} names for {classes} classes")
        return tuple(kept)
    names = SOURCES[dataset].names if dataset in SOURCES else None
    return names if names and len(names) == classes else None


def _classes(architecture: Mapping[str, Any]) -> int:
    while "end" in architecture:
        architecture = architecture["end"]
    return architecture["num_classes"]


def _load_bare(
    path: Path,
    found: Any,
    model: str | None,
    dataset: str | None,
    given: Mapping[str, Sequence[float] | None],
    weights: str | None,
    image_size: int | None,
) -> Checkpoint:
    if isinstance(found, dict) and found.keys() >= {"weight", "bias", "history"}:
        raise UserError(
            f"{path} holds the map of a stitch, not a network; give the file in frank_model beside."
        )
    notes: list[str] = []
    claim = claims.claim_of(path)
    if dataset is not None and not data.looks_like_a_path(dataset):
        dataset = data.source_of(dataset)
    entry = claims.entry_for(path, model, claim, notes)
    made_for = claims.made_for(path, model, dataset, claim, notes)
    source = SOURCES.get(made_for)
    size = image_size or (source and source.image_size)
    taken = published.find(path, found, entry, made_for, size, weights)
    if taken.others:
        notes.append(
            f"{path} holds several sets of weights: {_named(taken.place)} was taken, not "
            f"{' or '.join(map(_named, taken.others))}; --weights chooses."
        )
    notes += [f"{path}: {remark}" for remark in entry.remarks(taken.fit.options)]
    network = taken.fit.build()
    fill(network, taken.fit.state, path)
    constants = constants_for(path, taken, made_for, given, notes)
    normalise(network, *constants, f"{path}, made for {made_for},")
    names = data.names_of(made_for)
    classes = taken.fit.classes
    return Checkpoint(
        network=network,
        model=entry.name,
        dataset=made_for,
        classes=classes,
        path=path,
        class_names=names if names and len(names) == classes else None,
        notes=tuple(notes),
    )


def _named(place: str) -> str:
    """A set of weights by its place in a file."""
    return f"'{place}'" if place else "the one without a prefix"


def _require_deviations(network: nn.Module, path: Path) -> None:
    """Raise UserError where a network of ours divides its images by nothing."""
    for name, value in network.state_dict().items():
        if name.endswith("normalize.std") and not bool((value > 0).all()):
            raise UserError(f"{name} in {path} is not above 0 everywhere; train it again.")
