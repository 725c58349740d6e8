"""A folder of one's own images: ``train/`` and ``test/`` (or ``val/``), one folder per class."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from robust_stitching.data.pictures import read_rgb
from robust_stitching.errors import UserError
from robust_stitching.progress import Progress, silent
from robust_stitching.sizes import IMAGE_SIZE
from robust_stitching.vision import torchvision

Part = tuple[Tensor, Tensor, tuple[str, ...]]
"""uint8 images (N, C, H, W), labels (N,), and the classes' names."""


def read_folder(folder: Path, progress: Progress = silent) -> list[Part]:
    """The training and the test part: uint8 images (N, C, 32, 32), labels (N,), class names.

    An image is scaled to 32 pixels on its shorter side and cropped to its centre. Where all images
    of both parts are grey there is one channel, else three.

    Raises
    ------
    UserError : when the folder is not there or not built like that, or an image cannot be read.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise UserError(f"the dataset folder {folder} {what}; give an existing one.")
    test = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if test is None or not (folder / "train").is_dir():
        raise UserError(
            f"the dataset folder {folder} needs train/ and test/ (or val/) inside, "
            "each with one folder per class."
        )
    parts = [_read_part(part, progress) for part in (folder / "train", test)]
    if len(parts[0][2]) < 2:
        raise UserError(f"{folder / 'train'} has a single class; at least two are needed.")
    if parts[0][2] != parts[1][2]:
        odd = sorted(set(parts[0][2]) ^ set(parts[1][2]))
        raise UserError(
            f"train/ and {test.name}/ of {folder} differ in their classes ({', '.join(odd[:5])}); "
            "both need the same folders."
        )
    if all((images[:, :1] == images).all() for images, _, _ in parts):
        parts = [(images[:, :1], labels, classes) for images, labels, classes in parts]
    return parts


def class_names(folder: Path) -> tuple[str, ...] | None:
    """The names of the classes of such a folder, without a look at its images; None where it is not
    there."""
    try:
        return tuple(torchvision().datasets.folder.find_classes(folder / "train")[0])
    except (OSError, ValueError):
        return None


def _read_part(part: Path, progress: Progress) -> Part:
    try:
        found = torchvision().datasets.ImageFolder(str(part))
    except FileNotFoundError as error:  # no class folders, or one without images
        raise UserError(
            f"{part} needs one folder per class, each with images in it ({error})."
        ) from error
    images = np.empty((len(found.samples), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    with progress(len(found.samples), f"reading {part.name}/") as bar:
        for i, (path, _) in enumerate(found.samples):
            rgb = read_rgb(path)
            if rgb.size != (IMAGE_SIZE, IMAGE_SIZE):
                rgb = ImageOps.fit(rgb, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
            images[i] = np.asarray(rgb)
            bar.update()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.tensor(found.targets), tuple(found.classes)
