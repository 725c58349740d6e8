"""How networks lie in files, ours and those that others published, and how they are read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robust_stitching import data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints import claims, published
from robust_stitching.checkpoints.checkpoint import Checkpoint, name_of
from robust_stitching.checkpoints.code import made_by
from robust_stitching.checkpoints.constants import constants_for, normalise
from robust_stitching.checkpoints.fitting import fill, misfit, require_stored
from robust_stitching.checkpoints.storage import read, write
from robust_stitching.data import SOURCES
from robust_stitching.graphs.stitched import rebuild

FORMAT = "robust-stitching 1"
OURS = FORMAT.split()[0]


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

    Raises
    ------
    UserError : for a network of which only what lives in memory knows how it is made.
    """
    made = in_memory(network.architecture)
    if made:
        raise UserError(
            f"the network {made} was made in memory, and no file could say how; have a function in "
            "a file make it, and read its weights by "
            "`robust_stitching.load(weights, model='path/to/file.py:function')`."
        )
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


def in_memory(architecture: Mapping[str, Any]) -> str | None:
    """The name of a network, or of a part of a stitched one, of which only what lives in memory
    knows how it is made; None where files can say that."""
    if "front" in architecture:
        return in_memory(architecture["front"]) or in_memory(architecture["end"])
    return architecture["model"] if architecture.get("in_memory") else None


def is_ours(content: Any) -> bool:
    """Whether what `read` returned says itself what it is."""
    return isinstance(content, dict) and str(content.get("format")).startswith(OURS)


def load(
    path: Path,
    *,
    model: str | None = None,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    otherwise: str | None = None,
) -> Checkpoint:
    """A network from a file of ours, or from a bare state dict as published networks are.

    Parameters
    ----------
    model : of a bare state dict; read from its path ``…/<model>/<Dataset>/…`` if left out. A name
        of the registry, or a function of the user's that makes the network, ``path/nets.py:mine``;
        a file of ours whose network was made so needs it again. Of a stitched network there may be
        two, with a comma between them.
    dataset : what a bare state dict was made for, a key of `data.SOURCES` or the path of a folder
        of images; where `model` is read from ``…/<model>/<Dataset>/…`` that says it.
    mean, std : per channel, of images in [0, 1]; before those of the file.
    weights : which to take of several in a bare state dict's file, see `published.find`.
    image_size : of a bare state dict's images, where its dataset does not say.
    otherwise : what a bare state dict was made for where nothing else says it.

    Raises
    ------
    UserError : when the file is missing, damaged, no network, does not fit its model, or holds
        numbers that are not finite.
    """
    content = read(path)
    if not isinstance(content, dict | list | tuple):
        raise UserError(f"{path} holds no network but a {type(content).__name__}.")
    given = {"mean": mean, "std": std}
    if is_ours(content):
        if weights is not None:
            raise UserError(f"{path} holds one set of weights; leave weights={weights!r} out.")
        checkpoint = _load_ours(path, content, model)
        size = checkpoint.network.input_shape[-1]
        if image_size not in (None, size):
            raise UserError(
                f"{path} takes images of {size}×{size} pixels; leave image_size={image_size} out."
            )
        if checkpoint.stitched and any(given.values()):
            raise UserError(
                "mean and std are for networks, not for a stitched one; leave them out."
            )
        if any(given.values()):
            normalise(checkpoint.network, mean, std, str(path))
    else:
        checkpoint = _load_bare(
            *(path, content, given),
            model=model,
            dataset=dataset,
            weights=weights,
            image_size=image_size,
            otherwise=otherwise,
        )
    checkpoint.network.eval()
    return checkpoint


def _load_ours(path: Path, content: dict[str, Any], model: str | None) -> Checkpoint:
    if content["format"] != FORMAT:
        raise UserError(
            f"{path} has the format '{content['format']}', this version reads '{FORMAT}'; "
            "use the version that wrote it."
        )
    if "state_dict" not in content or "architecture" not in content:
        raise UserError(f"{path} holds no network; give a model.pt or an intermediate snapshot.")
    try:
        architecture, state, notes = content["architecture"], content["state_dict"], []
        if model is not None:
            architecture = made_by(architecture, model, path, notes)
        require_stored(state, path)
        network = rebuild(architecture)
        amiss = misfit(network, state)
        if amiss:
            raise UserError(
                f"the weights in {path} do not fit {name_of(network.architecture)}: {amiss}."
            )
        fill(network, state, path)
        _require_deviations(network, path)
        dataset, classes = str(content["dataset"]), classes_of(architecture)
        return Checkpoint(
            network=network,
            model=name_of(architecture),
            dataset=dataset,
            classes=classes,
            path=path,
            training=dict(content["training"]),
            class_names=_names(content.get("classes"), dataset, classes),
            notes=tuple(notes),
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
    names = SOURCES[dataset].classes if dataset in SOURCES else None
    return names if names and len(names) == classes else None


def classes_of(architecture: Mapping[str, Any]) -> int:
    """How many classes a network tells apart, a stitched one as many as its end."""
    while "end" in architecture:
        architecture = architecture["end"]
    return architecture["num_classes"]


def _load_bare(
    path: Path,
    content: Any,
    given: Mapping[str, Sequence[float] | None],
    *,
    model: str | None,
    dataset: str | None,
    weights: str | None,
    image_size: int | None,
    otherwise: str | None,
) -> Checkpoint:
    if isinstance(content, dict) and content.keys() >= {"weight", "bias", "history"}:
        raise UserError(
            f"{path} holds the map of a stitch, not a network; give the file in frank_model beside."
        )
    notes: list[str] = []
    claim = claims.claim_of(path)
    if dataset is not None and not data.looks_like_a_path(dataset):
        dataset = data.source_of(dataset)
    entry = claims.entry_for(path, model, claim, notes)
    made_for = claims.made_for(path, model, dataset, claim, notes, otherwise)
    source = SOURCES.get(made_for)

    def made(size: int | None) -> tuple[published.Weights, models.Network]:
        taken = published.find(path, content, entry, made_for, size, weights)
        return taken, taken.fit.build()

    if image_size is not None:
        taken, network = made(image_size)
    else:
        taken, network = models.at_a_size(entry, source and source.image_size, made)
        if entry.code and source and source.own_size:
            notes += _other_size(path, network, source)
    if taken.others:
        notes.append(
            f"{path} holds several sets of weights: {_named(taken.place)} was taken, not "
            f"{' or '.join(map(_named, taken.others))}; `weights` chooses."
        )
    notes += [f"{path}: {remark}" for remark in entry.remarks(taken.fit.options)]
    if any(v.is_floating_point() and v.dtype != torch.float32 for v in taken.fit.state.values()):
        notes.append(f"The weights in {path} were converted to float32.")
    fill(network, taken.fit.state, path)
    constants = constants_for(path, taken, made_for, given, notes)
    normalise(network, *constants, f"{path}, made for {made_for},")
    names = data.names_of(made_for)
    classes = network.architecture["num_classes"]
    return Checkpoint(
        network=network,
        model=entry.name,
        dataset=made_for,
        classes=classes,
        path=path,
        class_names=names if names and len(names) == classes else None,
        notes=tuple(notes),
    )


def _other_size(path: Path, network: models.Network, source: data.Source) -> list[str]:
    """A sentence where a network takes the images of its dataset at their own size as well."""
    (channels, size, _), own = network.input_shape, source.own_size
    if size == own or not models.takes(network, (channels, own, own)):
        return []
    return [
        f"{path} was taken for a network of {size}×{size} images, though it takes those of "
        f"{own}×{own} too, as {source.key} has them: `convert_checkpoint` takes `image_size`."
    ]


def _named(place: str) -> str:
    """A set of weights by its place in a file."""
    return f"'{place}'" if place else "the one without a prefix"


def _require_deviations(network: nn.Module, path: Path) -> None:
    """Raise UserError where a network of ours divides its images by nothing."""
    for name, value in network.state_dict().items():
        if name.endswith("normalize.std") and not bool((value > 0).all()):
            raise UserError(f"{name} in {path} is not above 0 everywhere; train it again.")
