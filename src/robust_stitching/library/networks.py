"""Networks: any module that lives in memory, and those in files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.modes import usual_settings
from robust_stitching.basics.own_lines import line_of_forward
from robust_stitching.basics.seeds import generators_kept
from robust_stitching.checkpoints import Checkpoint, name_of
from robust_stitching.checkpoints.constants import normalise
from robust_stitching.checkpoints.fitting import masks_of, require_finite
from robust_stitching.graphs.graph import Layer, graph_of
from robust_stitching.models.adopting import adopted
from robust_stitching.models.own import SIZES
from robust_stitching.models.probe import (
    channels_taken,
    failure_at,
    logits_at,
    require_logits,
    wanted_beside_images,
)
from robust_stitching.models.unwrapping import unwrapped_copy
from robust_stitching.runs.inputs import resolved

CHANNELS = (3, 1)
MOST_TOLD = 4


@usual_settings()
@generators_kept()
def network(
    module: nn.Module,
    *,
    image_size: int | None = None,
    in_channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dataset: str | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
) -> Checkpoint:
    """A network that lives in memory, ready to be stitched, compared, evaluated and attacked.

    It is a copy in evaluation mode: what becomes of `module` afterwards changes nothing. Layers
    keep the names that they have in `module`; only one that normalises stands before them.

    Parameters
    ----------
    module : turns images of shape (N, C, size, size) into logits (N, classes).
    image_size, in_channels : found out where the network takes images of one shape alone, or where
        `dataset` says them.
    mean, std : per channel, of the images in [0, 1] that it was made with, normalised by them; left
        out for one that takes images in [0, 1] as they are.
    dataset : what it was trained on, a key of `data.SOURCES` or the path of a folder.
    classes : the names of its answers, in their order; those of `dataset` if left out.
    name : what reports call it; that of its class if left out.

    Raises
    ------
    UserError : for anything but a module, one that was scripted, cannot be copied, takes no such
        images or images of several shapes, or does not answer with logits.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"a network is an nn.Module, not {module!r:.60}; give one.")
    _check_said(image_size, in_channels, classes)
    made = unwrapped_copy(module)
    made.eval()  # which need not return it
    if any(is_lazy(value) for value in (*made.parameters(), *made.buffers())):
        raise UserError(f"{type(made).__name__} has no weights yet; run it once on images first.")
    name, notes = name or type(made).__name__, []
    known = None if dataset is None else resolved(dataset)
    names = classes if classes is not None else known and data.names_of(known)
    require_finite(made.state_dict(), name, masks_of(made))
    if models.says_what_it_is(made):
        name = name_of(made.architecture)
    else:
        if _in_float32(made):
            notes.append(f"The weights of {name} were converted to float32.")
        wanted = wanted_beside_images(made)
        if wanted:
            raise UserError(
                f"{name} wants {' and '.join(wanted)} beside the images ({line_of_forward(made)}), "
                "which nobody tells it; give its forward defaults."
            )
        try:
            shape = _image_shape(made, name, in_channels, image_size, known)
            made = adopted(made, shape[0], logits_at(made, shape, names and len(names)))
            made.architecture, made.input_shape = {"model": name, "in_memory": True}, shape
            made.architecture |= {
                "num_classes": require_logits(made, None),
                "in_channels": shape[0],
                "image_size": shape[1],
            }
        except UserError as error:
            raise UserError(" ".join((str(error), *notes))) from error
        models.settle_format(made, models.normalisation_of(made)[1])
    if mean is not None or std is not None:
        normalise(made, *map(_listed_numbers, (mean, std)), name)
    count = checkpoints.classes_of(made.architecture)
    if classes is not None and len(classes) != count:
        raise UserError(
            f"{name} answers with {count} logits, but {len(classes)} classes are named."
        )
    return Checkpoint(
        network=made,
        model=name,
        dataset=known,
        classes=count,
        path=None,
        class_names=tuple(names) if names and len(names) == count else None,
        notes=tuple(notes),
    )


@usual_settings()
def load(path: str | Path, *, dataset: str | None = None, **how: Any) -> Checkpoint:
    """A network from a file of ours, or from a state dict that plain PyTorch has written.

    Parameters
    ----------
    dataset : what a state dict was made for.
    how : `model` ("resnet18", or "path/to/nets.py:mine" for a function of one's own), `mean`,
        `std`, `weights`, `image_size`: see `checkpoints.load`, which also has the errors.
    """
    return checkpoints.load(Path(path), dataset=dataset and resolved(dataset), **how)


def save(path: str | Path, network: Checkpoint, **training: Any) -> None:
    """Write a network to a file that every command reads, whole or not at all.

    Parameters
    ----------
    training : plain values that say how the weights came about.

    Raises
    ------
    UserError : where the file exists, and for a network that no file can describe, or whose
        dataset nobody said.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists already; choose another file, or remove it.")
    if network.dataset is None:
        raise UserError(f"nobody said what {network.called} was trained on; name its dataset.")
    about = network.training | training
    checkpoints.save(path, network.network, network.dataset, about, network.class_names)


@usual_settings()
@generators_kept()
def layers(network: Checkpoint | nn.Module) -> list[Layer]:
    """The layers at which a network can be cut, in the order of computation."""
    checkpoint = network if isinstance(network, Checkpoint) else _network(network)
    return list(graph_of(checkpoint.network).layers.values())


_network = network


def _check_said(size: Any, channels: Any, classes: Any) -> None:
    """Raise UserError for sizes and names that nothing can have."""
    for name, value in (("image_size", size), ("in_channels", channels)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{name}={value!r} is not a whole number of at least 1.")
    if channels not in (None, *CHANNELS):
        raise UserError(f"in_channels={channels}, but images have 1 channel or 3.")
    if classes is not None:
        names = list(classes) if isinstance(classes, tuple | list) else []
        texts = all(isinstance(name, str) for name in names)
        if not names or not texts or len(set(names)) < len(names):
            raise UserError(
                f"classes={classes!r:.60} is no list of different names, one for each answer."
            )


def _listed_numbers(values: Any) -> Sequence[float] | None:
    """One number stands for all channels."""
    return (float(values),) if isinstance(values, int | float) else values


def _in_float32(module: nn.Module) -> bool:
    """Convert weights of other precisions; returns whether there were any."""
    tensors = (*module.parameters(), *module.buffers())
    other = any(t.is_floating_point() and t.dtype != torch.float32 for t in tensors)
    if other:
        module.float()
    return other


def _image_shape(
    module: nn.Module, name: str, channels: int | None, size: int | None, dataset: str | None
) -> tuple[int, int, int]:
    """(C, H, W) of the images that a module takes; UserError where that cannot be found out."""
    source = data.SOURCES.get(dataset)
    usual = (source.image_size, source.own_size or source.image_size) if source else ()
    taken, tried = [], []
    for sizes in ((size,),) if size else (usual, SIZES):
        shapes = [(c, s, s) for s in dict.fromkeys(sizes) for c in CHANNELS]
        shapes = [shape for shape in shapes if channels in (None, shape[0])]
        tried += [shape for shape in shapes if shape not in tried]
        taken = taken or [shape for shape in shapes if models.takes(module, shape)]
    if len(taken) == 1:
        return taken[0]
    if not taken:
        if size:  # the error of the whole network says why
            return channels or channels_taken(module, size, CHANNELS[0]), size, size
        size = tried[0][-1]
        likely = channels or channels_taken(module, size, CHANNELS[0])
        raise UserError(
            f"{name} takes images of none of the shapes {_listed(tried)} (at {size}×{size} pixels: "
            f"{failure_at(module, (likely, size, size))}); say which it takes: `image_size` and "
            "`in_channels`."
        )
    wanting = "image_size" if len({s for _, s, _ in taken}) > 1 else "in_channels"
    otherwise = "" if dataset else ", or `dataset`"
    raise UserError(
        f"{name} takes images of several shapes, {_listed(taken)}; say which it was made for: "
        f"`{wanting}`{otherwise}."
    )


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    told = ["×".join(map(str, shape)) for shape in shapes]
    return ", ".join(told[:MOST_TOLD]) + (", …" if told[MOST_TOLD:] else "")
