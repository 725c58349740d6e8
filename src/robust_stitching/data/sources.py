"""Where images come from: scikit-learn's digits, torchvision's datasets, folders, streams."""

import contextlib
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.basics.labels import are_attributes
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data.augment import DIGIT, NATURAL, PICTURE, Augmentation, scaled
from robust_stitching.data.config import CONFIG_FILE, dataset_root, dataset_workers
from robust_stitching.data.folder import class_names, read_folder
from robust_stitching.data.large import celeba, imagenet
from robust_stitching.data.listing import Files
from robust_stitching.data.names import CIFAR10, CIFAR100, DIGITS, FASHION
from robust_stitching.data.pictures import Square
from robust_stitching.data.sizes import IMAGE_SIZE, MOST_IN_MEMORY
from robust_stitching.data.split import AnySplit, Split
from robust_stitching.data.streamed import StreamedSplit
from robust_stitching.data.vision import torchvision


class Part(NamedTuple):
    """uint8 images (N, C, H, W), labels (N,), and the classes' names."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


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
        """Pixels of an image's side where nobody chooses another."""
        return self.square.size if self.square else IMAGE_SIZE

    @property
    def root(self) -> str:
        """The kind of folder that its files lie in, see `config.dataset_root`."""
        return self.name.lower() if self.find else "pytorch"


def _digits(root: Path | None, train: bool) -> Part:
    """scikit-learn's 1,797 digits of 8×8 pixels; the last 360 are the test split. They stand in
    the order in which they were written, so most test digits are by other hands."""
    # The file alone: to import sklearn.datasets, with pandas and scipy, takes as long as torch.
    package = Path(find_spec("sklearn").origin).parent
    rows = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", np.uint8, delimiter=",")
    rows = torch.from_numpy(rows[:-360] if train else rows[-360:])
    images = (rows[:, :-1] * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8)
    return Part(images, rows[:, -1].long(), DIGITS)


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
        return Part(images, labels, classes)

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
    dataset: str,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    image_size: int | None = None,
) -> tuple[AnySplit, AnySplit]:
    """The training and the test split of a dataset: in memory, or streamed where it is large.

    Parameters
    ----------
    dataset : a key of `SOURCES`, or the path of a folder with ``train/`` and ``test/`` (or
        ``val/``), each with one folder per class.
    image_size : pixels of the side to which images are scaled; that of the dataset, see
        `usual_size`, if left out.

    Raises
    ------
    UserError : for an unknown name, missing or damaged files, labels of no class, a folder of
        another shape.
    """
    if image_size is not None and image_size < 1:
        raise UserError(f"images of {image_size}×{image_size} pixels are none; take 1 at least.")
    if looks_like_a_path(dataset):
        folder = Path(dataset).resolve()
        train, test = read_folder(folder, image_size or IMAGE_SIZE, device, progress)
        return train, test
    key = source_of(dataset)
    size = image_size or SOURCES[key].image_size
    if SOURCES[key].find:
        parts, split_of = SOURCES[key].find(dataset_root(key)), _streamed
    else:
        parts, split_of = _read_source(key), _kept
    train, test = (split_of(key, _checked(key, part), size, device) for part in parts)
    return replace(train, augmentation=SOURCES[key].augmentation.at(size)), test


def _streamed(key: str, part: Files, size: int, device: torch.device | str) -> StreamedSplit:
    return StreamedSplit(
        name=SOURCES[key].name,
        paths=part.paths,
        labels=part.labels.to(device),
        classes=part.classes,
        square=SOURCES[key].square.at(size),
        source=key,
        workers=dataset_workers(),
        notes=(*part.notes, *_note_on_size(key, size)),
    )


def _kept(key: str, part: Part, size: int, device: torch.device | str) -> Split:
    """Images at their size, unless that fills the memory: then they are scaled batch by batch."""
    images, too_large = part.images, part.images[:, :, 0, 0].numel() * size**2 > MOST_IN_MEMORY
    return Split(
        name=SOURCES[key].name,
        images=(images if too_large else scaled(images, size)).to(device),
        labels=part.labels.to(device),
        classes=part.classes,
        source=key,
        notes=tuple(_note_on_size(key, size)),
        size=size if too_large else None,
    )


def _note_on_size(key: str, size: int) -> list[str]:
    name, usual = SOURCES[key].name, SOURCES[key].image_size
    if size == usual:
        return []
    return [f"The images of {name} are scaled to {size}×{size} pixels, not to {usual}×{usual}."]


def _checked(key: str, part: Part | Files) -> Part | Files:
    """A part that has images, whose labels are of its classes, each 0 or 1 for attributes.

    Raises
    ------
    UserError : for other labels, as another dataset's files under this one's name have them.
    """
    labels, attributes = part.labels, are_attributes(part.labels)
    count = 2 if attributes else len(part.classes)
    if not len(labels):
        found = "have no images in one of the parts"
    elif labels.min() < 0 or labels.max() >= count:
        kinds = (
            "attributes are 0 or 1" if attributes else f"its {count} classes are 0 to {count - 1}"
        )
        found = f"have labels from {labels.min()} to {labels.max()}, but {kinds}"
    else:
        return part
    kind = SOURCES[key].root
    raise UserError(
        f"the files of {key} in {dataset_root(kind)} {found}; put its own files there, or name the "
        f"folder that has them in {CONFIG_FILE} or in DATASET_ROOT_{kind.upper()}."
    )


def usual_epsilon(source: str) -> float:
    """The l-inf radius at which robustness on a dataset is usually reported; 8/255 for folders."""
    return SOURCES[source].epsilon if source in SOURCES else 8 / 255


def names_of(dataset: str) -> tuple[str, ...] | None:
    """The names of a dataset's classes, in the order of their numbers, where nobody has to look
    into its files for them: a key of `SOURCES`, or the path of a folder that is there."""
    if dataset in SOURCES:
        return SOURCES[dataset].names
    return class_names(Path(dataset))


def usual_size(source: str) -> int:
    """Pixels of an image's side where nobody chooses another: 32, but 224 for ImageNet."""
    return SOURCES[source].image_size if source in SOURCES else IMAGE_SIZE


def looks_like_a_path(dataset: str) -> bool:
    """Whether a dataset is meant as a folder: it has a separator, or is no name but exists."""
    known = dataset.lower() in SOURCES
    return os.sep in dataset or (not known and dataset != "" and Path(dataset).is_dir())


def _read_source(key: str) -> list[Part]:
    source = SOURCES[key]
    if key == "digits":
        return [source.read(None, True), source.read(None, False)]
    root = dataset_root("pytorch")
    try:
        try:
            return [_whole(source.read(root, train)) for train in (True, False)]
        except RuntimeError:  # torchvision's word for files that are missing or fail their checksum
            _download(source, root)
            return [_whole(source.read(root, train)) for train in (True, False)]
    except (OSError, *DAMAGE) as error:
        raise UserError(
            f"the files of {key} in {root} cannot be read ({_reason(error)}); "
            "remove them and run again to download them."
        ) from error


def _whole(part: Part) -> Part:
    if len(part.images) != len(part.labels):
        raise ValueError(f"{len(part.images)} images, but {len(part.labels)} labels")
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
