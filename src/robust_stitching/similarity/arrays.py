"""Measures on plain arrays: what is checked and converted before a measure sees them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_stitching.graphs.layout import Layout
from robust_stitching.similarity.forms import OUTPUTS, POSITIONS, Settings
from robust_stitching.similarity.gathering import NotFinite
from robust_stitching.similarity.measure import SCALE, Measure
from robust_stitching.similarity.stream import ArrayStream
from robust_stitching.similarity.values import values_of

Array = np.ndarray | Tensor


def between(measure: Measure, x: Array, y: Array, **settings: Any) -> float:
    """The value of `measure` for two representations of the same images, NaN where it has none.

    It is the number of `compare` for the same activations, of float32 ones; float64 and integers
    are worked with in float64.

    Parameters
    ----------
    x, y : NumPy arrays or Tensors of real numbers, of any device, of shape (n, d) or (n, C, H, W),
        for measures of answers (n, answers).
    settings : those of `Settings` that differ from the default.

    Raises
    ------
    ValueError : for other shapes, other numbers of images, values that are not finite, too few
        images, and no more rows than channels where the measure then means nothing.
    """
    asked = Settings(**settings)
    if asked.positions not in POSITIONS:
        raise ValueError(f"positions are {' or '.join(POSITIONS)}, not {asked.positions!r}")
    for name in ("batch_size", "k", "seed"):
        if not isinstance(getattr(asked, name), int):
            raise ValueError(f"{name} is a whole number, not {getattr(asked, name)!r}")
    if asked.batch_size < 1:
        raise ValueError(f"batches of {asked.batch_size} images are none; take 1 at least")
    x, y = _representation(x, "x", measure), _representation(y, "y", measure)
    dtype, n = torch.promote_types(x.dtype, y.dtype), len(x)
    x, y = x.to(dtype), y.to(x.device, dtype)
    if n != len(y):
        raise ValueError(f"x has {n} images and y {len(y)}; {measure.name} needs the same ones")
    if n < 2 and not measure.of_outputs:
        raise ValueError(f"{measure.name} needs at least 2 images, not {n}")
    lacking = measure.too_few(n, asked)
    if lacking:
        raise ValueError(lacking)
    if measure.of == OUTPUTS and x.shape != y.shape:
        raise ValueError(f"x has {x.shape[1]} answers for an image and y {y.shape[1]}")
    if SCALE in measure.ignores:
        x, y = _of_usual_size(x), _of_usual_size(y)
    layouts = tuple((Layout.of(side.shape[1:]),) for side in (x, y))
    try:
        values = values_of([measure], ArrayStream([x, y], asked.batch_size), layouts, asked)
    except NotFinite as error:
        raise ValueError(
            f"values of x or y are too large for {measure.name}; scale them"
        ) from error
    if values.short:
        raise ValueError(
            f"{measure.name} needs more rows than channels, but x is {_shape(x)} and y {_shape(y)}"
        )
    if measure.of_outputs:
        return values.outputs[measure.name]
    return float(values.layerwise[measure.name])


def _representation(values: Array, name: str, measure: Measure) -> Tensor:
    """`values` as a tensor without gradient, floating: integers as float64."""
    if not isinstance(values, Tensor):
        values = np.asarray(values)
        if values.dtype.kind not in "fiub":
            raise ValueError(f"{name} holds no real numbers but {values.dtype}")
        if values.dtype not in (np.float16, np.float32):
            values = values.astype(np.float64)
        native = values.astype(values.dtype.newbyteorder("="), copy=not values.flags.writeable)
        values = torch.from_numpy(np.ascontiguousarray(native))
    if values.is_complex():
        raise ValueError(f"{name} holds no real numbers but {values.dtype}")
    values = values.detach() if values.is_floating_point() else values.double()
    if values.ndim != 2 and (values.ndim != 4 or measure.of == OUTPUTS):
        shapes = "(n, answers)" if measure.of == OUTPUTS else "(n, d) or (n, C, H, W)"
        raise ValueError(f"{name} is of shape {_shape(values)}; {measure.name} takes {shapes}")
    if not values.numel():
        raise ValueError(f"{name} is empty: its shape is {_shape(values)}")
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} holds values that are NaN or infinite")
    return values


def _of_usual_size(values: Tensor) -> Tensor:
    """`values` times a power of two, which changes no digit, so that squares are numbers, too."""
    exponent = -int(torch.frexp(values.abs().max()).exponent)
    half = exponent // 2  # at once it may be no number of their kind
    return values * 2.0**half * 2.0 ** (exponent - half)


def _shape(values: Tensor) -> str:
    return f"({', '.join(map(str, values.shape))})"
