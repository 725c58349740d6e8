"""Images: datasets by name or folder, and arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from robust_stitching import data
from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.basics.modes import usual_settings
from robust_stitching.basics.progress import shown, silent
from robust_stitching.data import AnySplit, Split
from robust_stitching.runs.inputs import resolved

CHANNELS = (1, 3)


@usual_settings()
def load_data(
    name: str,
    *,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> tuple[AnySplit, AnySplit]:
    """The training and the test split of a dataset, by its name or its folder; see `data.load`."""
    return data.load(resolved(name), device, shown if progress else silent, image_size)


@usual_settings()
def split(
    images: Any, labels: Any, *, classes: Sequence[str] | None = None, name: str = "images"
) -> Split:
    """A split of one's own images.

    Parameters
    ----------
    images : NumPy array or Tensor of shape (N, C, size, size), (N, size, size, C) or (N, size,
        size), C 1 or 3; uint8, or fractions in [0, 1], not normalised, which are kept as 256
        levels.
    labels : whole numbers of shape (N,), from 0; or (N, A) of 0 and 1 for attributes.
    classes : their names in the order of the numbers, or those of the attributes; the numbers if
        left out.

    Raises
    ------
    UserError : for other shapes, values out of these ranges, numbers without a class.
    """
    pixels, numbers = _pixels(_tensor(images, "images")), _tensor(labels, "labels")
    whole = not numbers.is_floating_point() and not numbers.is_complex()
    if numbers.ndim not in (1, 2) or len(numbers) != len(pixels) or not whole:
        raise UserError(
            f"labels of shape {tuple(numbers.shape)} and kind {numbers.dtype} do not fit "
            f"{len(pixels)} images; give one whole number for each, or one for each attribute."
        )
    numbers, attributes = numbers.long(), numbers.ndim == 2
    if not len(pixels):
        raise UserError("there are no images; give one at least.")
    if attributes and numbers.shape[1] > 1 and len(numbers) > 1 and _one_hot(numbers):
        raise UserError(
            f"labels of shape {tuple(numbers.shape)} are attributes, but every image has exactly "
            "one; where these are classes, give labels.argmax(1)."
        )
    low, high = int(numbers.min()), int(numbers.max())
    count = numbers.shape[1] if attributes else high + 1
    names = tuple(map(str, range(count))) if classes is None else tuple(classes)
    most = 1 if attributes else len(names) - 1
    if low < 0 or high > most or (attributes and len(names) != count):
        raise UserError(
            f"labels run from {low} to {high}, but {len(names)} "
            f"{'attributes are' if attributes else 'classes are'} named; number them from 0."
        )
    return Split(name=name, images=pixels, labels=numbers, classes=names)


def _tensor(values: Any, what: str) -> torch.Tensor:
    """An array as a tensor; UserError for what is no array of numbers."""
    if isinstance(values, torch.Tensor):
        values = values.detach()
        return values.clone() if values.is_inference() else values
    try:
        return torch.from_numpy(np.array(values))  # which also puts negative strides in order
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} are no array of numbers ({first_line(error)}).") from error


def _one_hot(labels: torch.Tensor) -> bool:
    return bool(((labels == 0) | (labels == 1)).all()) and bool((labels.sum(dim=1) == 1).all())


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 of shape (N, C, size, size)."""
    shape = tuple(images.shape)
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and shape[1] not in CHANNELS and shape[-1] in CHANNELS:
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in CHANNELS or images.shape[2] != images.shape[3]:
        raise UserError(
            f"images of shape {shape} are none of (N, C, size, size) with 1 or 3 channels; cut or "
            "scale them to squares."
        )
    if images.dtype == torch.uint8:
        return images.clone(memory_format=torch.contiguous_format)
    if not images.is_floating_point():
        raise UserError(f"images of kind {images.dtype} are neither uint8 nor fractions in [0, 1].")
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        raise UserError(
            f"images run from {images.min():.3g} to {images.max():.3g}, but have to be in [0, 1], "
            "not normalised; the network's `mean` and `std` do that."
        )
    return (images * 255).round().to(torch.uint8).contiguous()
