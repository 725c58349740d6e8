"""A folder of one's own images: ``train/`` and ``test/`` (or ``val/``), one folder per class."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import slug
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data.config import dataset_workers
from robust_stitching.data.decoding import shown_size
from robust_stitching.data.listing import class_folders, list_parts
from robust_stitching.data.pictures import Square
from robust_stitching.data.source import NATURAL, Files
from robust_stitching.data.split import MOST_IN_MEMORY, AnySplit
from robust_stitching.data.streamed import StreamedSplit

LOOKS = 1000
"""Images of a part whose heads are read to tell their size."""


def read_folder(
    folder: Path, size: int, device: torch.device | str = "cpu", progress: Progress = silent
) -> list[AnySplit]:
    """The training and the test split of a folder of images.

    They are in memory, or streamed where all images at this size would take more than
    `MOST_IN_MEMORY`. Both ways an image is turned upright, scaled to `size` pixels on its shorter
    side and cropped to its centre. Where all images of both parts are grey there is one channel,
    else three.

    Raises
    ------
    UserError : when the folder is not there or not built like that, or an image cannot be read.
    """
    parts = _find(folder)
    note = _note_on_sizes(slug(folder.name), parts, size)
    train, test = (
        StreamedSplit(
            name=slug(folder.name),
            paths=part.paths,
            labels=part.labels.to(device),
            classes=part.classes,
            square=Square(size),
            source=str(folder),
            workers=dataset_workers(),
            upright=True,
            notes=(*part.notes, *note),
        )
        for part in parts
    )
    train = replace(train, augmentation=NATURAL)
    splits, pixels = [train, test], (len(train) + len(test)) * size**2
    if 3 * pixels > MOST_IN_MEMORY:
        channels = 1 if all(split.is_grey(progress) for split in splits) else 3
        splits = [replace(split, channels=channels) for split in splits]
        if channels * pixels > MOST_IN_MEMORY:
            return splits
    splits = [split.in_memory(progress) for split in splits]
    if all(split.is_grey() for split in splits):
        splits = [replace(split, images=split.images[:, :1].contiguous()) for split in splits]
    return splits


def _find(folder: Path) -> list[Files]:
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise UserError(f"the dataset folder {folder} {what}; give an existing one.")
    test = next((name for name in ("test", "val") if (folder / name).is_dir()), None)
    if test is None or not (folder / "train").is_dir():
        raise UserError(
            f"the dataset folder {folder} needs train/ and test/ (or val/) inside, "
            "each with one folder per class."
        )
    return list_parts(folder, ("train", test))


def class_names(folder: Path) -> tuple[str, ...] | None:
    """The names of the classes of such a folder, without a look at its images.

    None where it is not there.
    """
    try:
        return class_folders(folder / "train")
    except UserError:
        return None


def _note_on_sizes(name: str, parts: Sequence[Files], size: int) -> list[str]:
    """A sentence that tells images of another size than networks will see, where there are any."""
    looked_at = np.concatenate([_spread(part.paths, LOOKS) for part in parts])
    sizes = {shown_size(path) for path in looked_at} - {None}
    if sizes <= {(size, size)}:
        return []
    if len(sizes) == 1:
        ((width, height),) = sizes
        what = f"have {width}×{height} pixels"
    else:
        shorter = sorted(map(min, sizes))
        what = f"have {shorter[0]} to {shorter[-1]} pixels on their shorter side"
    n = sum(len(part.paths) for part in parts)
    looks = f" (a look at {len(looked_at):,} of {n:,})" if len(looked_at) < n else ""
    cut = "" if all(width == height for width, height in sizes) else "cut to their centre and "
    return [
        f"The images of {name} {what}{looks} and are {cut}scaled to {size}×{size}; `image_size` of "
        "`train` chooses another size."
    ]


def _spread(paths: np.ndarray, n: int) -> np.ndarray:
    """`n` of the paths, evenly; all where there are no more."""
    return paths[np.linspace(0, len(paths) - 1, min(n, len(paths))).astype(int)]
