"""The datasets that are streamed: where CelebA and ImageNet have their files and labels."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from robust_stitching.basics.errors import UserError
from robust_stitching.data.config import config_file
from robust_stitching.data.listing import Files, list_parts
from robust_stitching.data.vision import torchvision

CELEBA_PARTS = ("0", "2")  # train and test; 1 is for validation
PARTITION = "list_eval_partition.txt"
IMAGENET_PARTS = ("train", "val")


def celeba(root: Path) -> list[Files]:
    """The training and the test part of CelebA (Liu et al., 2015) as torchvision keeps it, with 40
    attributes; its validation part stays unused.

    Raises
    ------
    UserError : where files are missing or do not have the published checksums.
    """
    known = torchvision().datasets.CelebA
    folder = root / known.base_folder
    try:
        with _collection_paused():
            whole = known(root, split="all")
        parts = [line.split()[1] for line in (folder / PARTITION).read_text().splitlines()]
    except RuntimeError as error:  # torchvision's word for missing files and wrong checksums
        lists = [name for *_, name in known.file_list if name.endswith(".txt")]
        gone = [name for name in (*lists, "img_align_celeba") if not (folder / name).exists()]
        found = f"misses {', '.join(gone)}" if gone else "has lists that are not the published ones"
        raise _missing(
            "celeba",
            root,
            f"{folder} {found}; put the images into {folder / 'img_align_celeba'} and the lists "
            "beside it, as torchvision does",
        ) from error
    except (OSError, ValueError, IndexError) as error:
        raise _missing(
            "celeba", root, f"the lists in {folder} cannot be read ({error}); copy them again"
        ) from error
    paths = _as_bytes([f"{folder / 'img_align_celeba' / name}" for name in whole.filename])
    names = tuple(name for name in whole.attr_names if name)  # their line ends with a space
    found = []
    for part in CELEBA_PARTS:
        rows = np.array(parts) == part
        found.append(Files(paths[rows], whole.attr[torch.from_numpy(rows)].long(), names))
    return found


@contextmanager
def _collection_paused() -> Iterator[None]:
    """CelebA's lists are eight million numbers on their way through Python's; searching those for
    garbage takes most of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def imagenet(root: Path) -> list[Files]:
    """The training and the validation part of ImageNet, or of another set of folders like it:
    ``train/`` and ``val/``, each with a folder per class.

    Raises
    ------
    UserError : where there are no such folders.
    """
    if not all((root / name).is_dir() for name in IMAGENET_PARTS):
        raise _missing(
            "imagenet",
            root,
            f"{root} needs train/ and val/, each with one folder per class and images in it",
        )
    return list_parts(root, IMAGENET_PARTS)


def _as_bytes(paths: list[str]) -> np.ndarray:
    return np.array([path.encode() for path in paths])


def _missing(key: str, root: Path, what: str) -> UserError:
    return UserError(
        f"the dataset {key} was not found in {root}: {what}, or name the folder that has them in "
        f"{config_file()} or in DATASET_ROOT_{key.upper()}; nothing of its size is downloaded "
        "unasked; the dataset digits needs no files."
    )
