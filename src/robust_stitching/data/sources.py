"""Where images come from: scikit-learn's digits, torchvision's datasets, folders, streams."""

import contextlib
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robust_stitching.config import CONFIG_FILE, dataset_root, dataset_workers
from robust_stitching.data.augment import DIGIT, NATURAL, PICTURE, Augmentation
from robust_stitching.data.folder import Part, class_names, read_folder
from robust_stitching.data.large import Files, celeba, imagenet
from robust_stitching.data.names import CIFAR10, CIFAR100, DIGITS, FASHION
from robust_stitching.data.pictures import Square
from robust_stitching.data.split import AnySplit, Split
from robust_stitching.data.streamed import StreamedSplit
from robust_stitching.errors import UserError, unknown
from robust_stitching.files import slug
from robust_stitching.progress import Progress, silent
from robust_stitching.sizes import IMAGE_SIZE
from robust_stitching.vision import torchvision

Read = Callable[[Path | None, bool], Part]
"""``read(root, train)`` finds one part of a dataset in a folder."""

DAMAGE = (ValueError, TypeError, EOFError, KeyError, AssertionError, pickle.PickleError)
"""What torchvision's readers raise at files that are not what they should be."""


@dataclass(frozen=True)
class Source:
    """A dataset that is known by name.

    Attributes
    ----------
    name : as in file names.
    classes : how many there are, or how many attributes.
    names : of the classes, in the order of their numbers, where they are known without the files.
    augmentation : of the training split.
    mean, std : per channel, as commonly published; published networks were made with them.
    read : finds the files of a dataset that is kept in memory.
    epsilon : the l-inf radius at which robustness on this dataset is usually reported.
    find : finds those of one that is streamed, ``find(root)`` for both parts.
    square : what is cut out of the pictures of one that is streamed.
    """

    name: str
    classes: int
    augmentation: Augmentation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Read | None = None
    epsilon: float = 8 / 255
    find: Callable[[Path], list[Files]] | None = None
    square: Square | None = None
    names: tuple[str, ...] | None = None

    @property
    def image_size(self) -> int:
        """Pixels of an image's side."""
        return self.square.size if self.square else IMAGE_SIZE


def _digits(root: Path | None, train: bool) -> Part:
    """scikit-learn's 1,797 digits of 8×8 pixels; the last 360 are the test split. They stand in
    the order in which they were written, so most test digits are by other hands."""
    from sklearn.datasets import load_digits  # a second of import that no other dataset needs

    data = load_digits()
    rows = slice(None, -360) if train else slice(-360, None)
    images = torch.from_numpy(np.rint(data.images[rows] * (255 / 16)).astype(np.uint8))
    return images[:, None], torch.from_numpy(data.target[rows]), DIGITS


def _torchvision(name: str, classes: tuple[str, ...]) -> Read:
    """A reader of torchvision's class `name`, which finds, downloads and verifies the files."""

    def read(root: Path, train: bool) -> Part:
        make = getattr(torchvision().datasets, name)
        part = {"split": "train" if train else "test"} if name == "SVHN" else {"train": train}
        data = make(root, download=False, **part)
        images = torch.as_tensor(data.data)
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[-1] == 3:
            images = images.permute(0, 3, 1, 2)
        labels = torch.as_tensor(data.labels if name == "SVHN" else data.targets).long()
        return images, labels, classes

    return read


SOURCES: dict[str, Source] = {
    "digits": Source("Digits", 10, DIGIT, (0.3054,), (0.3227,), _digits, epsilon=0.3, names=DIGITS),
    "mnist": Source(
        "MNIST",
        10,
        DIGIT,
        (0.1307,),
        (0.3081,),
        _torchvision("MNIST", DIGITS),
        epsilon=0.3,
        names=DIGITS,
    ),
    "fashion": Source(
        "FashionMNIST",
        10,
        NATURAL,
        (0.2860,),
        (0.3530,),
        _torchvision("FashionMNIST", FASHION),
        epsilon=0.3,
        names=FASHION,
    ),
    "cifar10": Source(
        "CIFAR10",
        10,
        NATURAL,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        _torchvision("CIFAR10", CIFAR10),
        names=CIFAR10,
    ),
    "cifar100": Source(
        "CIFAR100",
        100,
        NATURAL,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        _torchvision("CIFAR100", CIFAR100),
        names=CIFAR100,
    ),
    "svhn": Source(
        "SVHN",
        10,
        Augmentation(crop=4),  # a mirrored digit is no digit
        (0.4377, 0.4438, 0.4728),
        (0.1980, 0.2010, 0.1970),
        _torchvision("SVHN", DIGITS),
        names=DIGITS,
    ),
    "celeba": Source(
        "CelebA",
        40,
        NATURAL,
        (0.5063, 0.4258, 0.3832),  # as in code that trains on the aligned images; not measured here
        (0.3107, 0.2904, 0.2897),
        find=celeba,
        square=Square(32, 32),
    ),
    "imagenet": Source(
        "ImageNet",
        1000,
        PICTURE,
        (0.485, 0.456, 0.406),  # of torchvision's published networks
        (0.229, 0.224, 0.225),
        epsilon=4 / 255,
        find=imagenet,
        square=Square(224, 256),
    ),
}


def source_of(name: str) -> str:
    """The key of `SOURCES` for a dataset's key or its name in paths ("MNIST"), in any case.

    Raises
    ------
    UserError : when there is none, with the closest.
    """
    for key, source in SOURCES.items():
        if name.lower() in (key, source.name.lower()):
            return key
    raise unknown(
        "dataset", name, SOURCES, f"Choose from {', '.join(SOURCES)} or give an existing folder."
    )


def load(
    dataset: str, device: torch.device | str = "cpu", progress: Progress = silent
) -> tuple[AnySplit, AnySplit]:
    """The training and the test split of a dataset: in memory, or streamed where it is large.

    Parameters
    ----------
    dataset : a key of `SOURCES`, or the path of a folder with ``train/`` and ``test/`` (or
        ``val/``), each with one folder per class.

    Raises
    ------
    UserError : for an unknown name, missing or damaged files, a folder of another shape.
    """
    if looks_like_a_path(dataset):
        folder = Path(dataset).resolve()
        name, source, augmentation = slug(folder.name), str(folder), NATURAL
        parts = read_folder(folder, progress)
    else:
        source = source_of(dataset)
        if SOURCES[source].find:
            return _streamed(source, device)
        name, augmentation = SOURCES[source].name, SOURCES[source].augmentation
        parts = _read_source(source)

    def split(part: Part, augmentation: Augmentation | None) -> Split:
        images, labels, classes = part
        images = resized(images).to(device)
        return Split(name, images, labels.to(device), classes, augmentation, source)

    train, test = parts
    return split(train, augmentation), split(test, None)


def _streamed(key: str, device: torch.device | str) -> tuple[StreamedSplit, StreamedSplit]:
    source = SOURCES[key]
    workers = dataset_workers()
    train, test = (
        StreamedSplit(
            source.name,
            part.paths,
            part.labels.to(device),
            part.classes,
            source.square,
            augmentation,
            key,
            workers,
        )
        for part, augmentation in zip(
            source.find(dataset_root(key)), (source.augmentation, None), strict=True
        )
    )
    return train, test


def usual_epsilon(source: str) -> float:
    """The l-inf radius at which robustness on a dataset is usually reported; 8/255 for folders."""
    return SOURCES[source].epsilon if source in SOURCES else 8 / 255


def names_of(dataset: str) -> tuple[str, ...] | None:
    """The names of a dataset's classes, in the order of their numbers, where nobody has to look
    into its files for them: a key of `SOURCES`, or the path of a folder that is there."""
    if dataset in SOURCES:
        return SOURCES[dataset].names
    return class_names(Path(dataset))


def looks_like_a_path(dataset: str) -> bool:
    """Whether a dataset is meant as a folder: it has a separator, or is no name but exists."""
    known = dataset.lower() in SOURCES
    return os.sep in dataset or (not known and dataset != "" and Path(dataset).is_dir())


def resized(images: Tensor) -> Tensor:
    """uint8 images of 32×32 pixels, bilinear with antialiasing."""
    if images.shape[-2:] == (IMAGE_SIZE, IMAGE_SIZE):
        return images.contiguous()
    chunks = [
        F.interpolate(chunk.float(), IMAGE_SIZE, mode="bilinear", antialias=True)
        .round_()
        .clamp_(0, 255)
        .byte()
        for chunk in images.split(4096)
    ]
    return torch.cat(chunks)


def _read_source(key: str) -> list[Part]:
    source = SOURCES[key]
    if key == "digits":
        return [source.read(None, True), source.read(None, False)]
    root = dataset_root("pytorch")
    try:
        return [_whole(source.read(root, train)) for train in (True, False)]
    except RuntimeError:  # torchvision's word for files that are missing or fail their checksum
        _download(source, root)
        return [source.read(root, True), source.read(root, False)]
    except (OSError, *DAMAGE) as error:
        raise UserError(
            f"the files of {key} in {root} cannot be read ({_reason(error)}); "
            "remove them and run again to download them."
        ) from error


def _whole(part: Part) -> Part:
    images, labels, _ = part
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images, but {len(labels)} labels")
    return part


def _download(source: Source, root: Path) -> None:
    """Download into a folder of its own and move what arrived whole into `root`."""
    above = next(p for p in (root, *root.parents) if p.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=above, prefix=".download-") as folder:
            make = getattr(torchvision().datasets, source.name)
            with contextlib.redirect_stdout(sys.stderr):
                if source.name == "SVHN":
                    for split in ("train", "test"):
                        make(folder, split=split, download=True)
                else:
                    make(folder, download=True)
            shutil.copytree(folder, root, dirs_exist_ok=True)
    except (RuntimeError, URLError, OSError) as error:
        key = source_of(source.name)
        raise UserError(
            f"the dataset {key} is missing or damaged in {root} and could not be downloaded "
            f"({_reason(error)}); put its files there, or name the folder that has them in "
            f"{CONFIG_FILE} or in DATASET_ROOT_PYTORCH; the dataset digits needs no files."
        ) from error


def _reason(error: BaseException) -> str:
    """An error's last line, where torchvision says why each mirror failed."""
    lines = str(getattr(error, "reason", None) or error).strip().splitlines()
    return lines[-1].strip("<>. :") if lines else type(error).__name__
