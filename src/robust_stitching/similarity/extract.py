"""Activations of a network, written to a file of arrays batch by batch."""

import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import TEMPORARY, replacing
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.graphs.graph import graph_of
from robust_stitching.graphs.layout import Layout
from robust_stitching.similarity.deciding import clean_cuts
from robust_stitching.similarity.saved import IDS, LABELS
from robust_stitching.similarity.stream import Batch, NetworkStream


def extract(
    network: nn.Module,
    split: AnySplit,
    path: Path,
    layers: Sequence[str] | None = None,
    ids: Tensor | None = None,
    batch_size: int = 250,
    progress: Progress = silent,
) -> dict[str, tuple[int, ...]]:
    """Write what a network makes of images, for `saved.read` and for `numpy.load`.

    Each layer is an array float32 under its name, (n, d) or (n, C, H, W), tokens of which some are
    at no position of the image (n, C, tokens, 1); beside them stand ``ids`` and ``labels`` (n, …).
    A batch is in memory at a time; the disk holds everything twice until the file is whole.

    Parameters
    ----------
    layers : the clean cuts if left out.
    ids : of the images, (n,); their numbers from 0 on if left out.

    Returns
    -------
    shapes : of each array of activations, by its layer.

    Raises
    ------
    UserError : for unknown layers; NotWritten where the disk has no room.
    """
    traced = graph_of(network)
    names = clean_cuts(traced) if layers is None else list(dict.fromkeys(layers))
    for name in names:
        traced.node(name, "layer")
        if name in (IDS, LABELS):
            raise UserError(f"a layer called '{name}' has no place beside the {name} of images.")
    layouts = {name: traced.layers[name].layout for name in names}
    stream = NetworkStream([(network, layouts)], split, batch_size, answering=())
    shapes = {name: (len(split), *_shape(layout)) for name, layout in layouts.items()}
    beside = {
        IDS: torch.arange(len(split)) if ids is None else ids,
        LABELS: split.labels.cpu(),
    }
    with (
        replacing(path) as temporary,
        tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=temporary.parent) as named,
    ):
        folder = Path(named)
        with ExitStack() as opened:
            files = [
                opened.enter_context(_begun(folder / str(number), shape))
                for number, shape in enumerate(shapes.values())
            ]

            def take(batch: Batch) -> None:
                for file, layout, values in zip(
                    files, layouts.values(), batch.activations, strict=True
                ):
                    file.write(_as_saved(values, layout).tobytes())

            stream.gather([take], progress=progress, what="extracting")
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for number, name in enumerate(shapes):
                archive.write(folder / str(number), f"{name}.npy")
                (folder / str(number)).unlink()
            for name, values in beside.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, values.numpy())
    return shapes


def _begun(path: Path, shape: tuple[int, ...]) -> BinaryIO:
    """An array on the disk, of which the numbers are still to be written."""
    file = path.open("wb")
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file


def _shape(layout: Layout) -> tuple[int, ...]:
    if layout.prefix:
        tokens, channels = layout.shape
        return channels, tokens, 1
    return layout.shape


def _as_saved(values: Tensor, layout: Layout) -> np.ndarray:
    if layout.prefix:
        values = values.transpose(1, 2)[..., None]
    return values.float().cpu().contiguous().numpy()
