"""What library functions are given: networks and images, as somebody has them."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.progress import Progress, shown, silent
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit
from robust_stitching.library.images import load_data
from robust_stitching.library.networks import network as as_network
from robust_stitching.plans import NetworkRef

IN_MEMORY = NetworkRef("in memory")
"""The network of plans that are made to check what was said besides."""

AnyNetwork = Checkpoint | nn.Module
"""What `network` or `load` returned, or a module of which everything can be found out."""

Splits = str | tuple[AnySplit, AnySplit]
"""A dataset by its name or folder, or a training and a test split."""


def bar(progress: bool) -> Progress:
    """What shows how far something is; nothing where nobody wants to see it."""
    return shown if progress else silent


def doubt(*notes: str) -> None:
    """Warn of what is to be doubted, as Python does: once for each place and text."""
    for note in notes:
        warnings.warn(note, stacklevel=4)  # where the function that is decorated was called


def _device_of(checkpoint: Checkpoint) -> torch.device:
    return next(checkpoint.network.parameters(), torch.empty(0)).device


def _networks(
    given: Sequence[AnyNetwork], dataset: str | None, size: int | None = None
) -> list[Checkpoint]:
    """Networks as they were given; of modules is found out what `network` can, from the images that
    they are about to be shown."""
    known = [n.network.input_shape[-1] for n in given if isinstance(n, Checkpoint)]
    size = size or (known[0] if known else None)
    return [
        n if isinstance(n, Checkpoint) else as_network(n, image_size=size, dataset=dataset)
        for n in given
    ]


def pair_of(
    images: Splits, given: Sequence[AnyNetwork]
) -> tuple[list[Checkpoint], tuple[AnySplit, AnySplit]]:
    """Networks, and the training and test images that they are about to be shown, on the device of
    the last."""
    if isinstance(images, str):
        checkpoints = _networks(given, images)
        splits = load_data(images, image_size=checkpoints[0].network.input_shape[-1])
    else:
        if not _are_splits(images):
            raise UserError(
                f"images are a dataset's name, or a training and a test split, not {images!r:.60}."
            )
        splits = images
        checkpoints = _networks(given, None, splits[0].image_size)
    device = _device_of(checkpoints[-1])
    return [c.to(device) for c in checkpoints], tuple(split.to(device) for split in splits)


def _are_splits(images: Any) -> bool:
    parts = images if isinstance(images, tuple | list) else ()
    return len(parts) == 2 and all(isinstance(part, AnySplit) for part in parts)


def looked_up(
    images: str | AnySplit, given: Sequence[AnyNetwork]
) -> tuple[list[Checkpoint], AnySplit]:
    """Networks, and the images that they are about to be shown: the test images of a dataset."""
    if isinstance(images, AnySplit):
        images = (images, images)
    checkpoints, (_, split) = pair_of(images, given)
    return checkpoints, split
