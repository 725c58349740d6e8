"""Small datasets that torchvision finds, downloads and verifies: MNIST, FashionMNIST, CIFAR, SVHN.

Their files lie in one folder, each dataset's under the name that torchvision gives them.
"""

import contextlib
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from robust_stitching.basics.errors import UserError
from robust_stitching.data.source import DIGIT, NATURAL, Augmentation, Images, Missing, Source

DAMAGE = (OSError, ValueError, TypeError, EOFError, KeyError, AssertionError, pickle.PickleError)
"""What torchvision's readers raise at files that are not what they should be."""

DIGITS = tuple("0123456789")

FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle
bowl boy bridge bus butterfly camel can castle caterpillar cattle
chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
plain plate poppy porcupine possum rabbit raccoon ray road rocket
rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = tuple(_CIFAR100.split())


def _small(
    name: str,
    key: str,
    *,
    parts: Sequence[Mapping[str, Any]] = ({"train": True}, {"train": False}),
    labels: str = "targets",
    **facts: Any,
) -> Source:
    """The source of the dataset that torchvision's class `name` reads.

    Parameters
    ----------
    parts : what that class is called with for the training and for the test part.
    labels : its attribute that holds the labels.
    facts : further attributes of `Source`.
    """
    read = partial(_read, name, key, parts, labels)
    common = {"root": "pytorch", "downloaded": True, "image_size": 32}
    return Source(key=key, name=name, read=read, **common, **facts)


def _read(
    name: str, key: str, parts: Sequence[Mapping[str, Any]], labels: str, root: Path
) -> list[Images]:
    from robust_stitching.data.vision import torchvision

    make = getattr(torchvision().datasets, name)
    try:
        try:
            return [_images(make(root, **part), labels) for part in parts]
        except RuntimeError:  # torchvision's word for files that are missing or fail their checksum
            _download(make, parts, root)
            return [_images(make(root, **part), labels) for part in parts]
    except DAMAGE as error:
        raise UserError(
            f"the files of {key} in {root} cannot be read ({_reason(error)}); "
            "remove them and run again to download them."
        ) from error


def _images(part: Any, labels: str) -> Images:
    import torch

    images = torch.as_tensor(part.data)
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    numbers = torch.as_tensor(getattr(part, labels)).long()
    if len(images) != len(numbers):
        raise ValueError(f"{len(images)} images, but {len(numbers)} labels")
    return Images(images, numbers)


def _download(make: Callable, parts: Sequence[Mapping[str, Any]], root: Path) -> None:
    """Download into a folder of its own and move what arrived whole into `root`."""
    above = next(p for p in (root, *root.parents) if p.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=above, prefix=".download-") as folder:
            with contextlib.redirect_stdout(sys.stderr):
                for part in parts:
                    make(folder, download=True, **part)
            shutil.copytree(folder, root, dirs_exist_ok=True)
    except (RuntimeError, OSError) as error:
        raise Missing(
            f"is missing or damaged in {root} and could not be downloaded ({_reason(error)}); put "
            "its files there"
        ) from error


def _reason(error: BaseException) -> str:
    """An error's last line, where torchvision says why each mirror failed."""
    lines = str(getattr(error, "reason", None) or error).strip().splitlines()
    return lines[-1].strip("<>. :") if lines else type(error).__name__


SOURCES = (
    _small(
        "MNIST",
        "mnist",
        classes=DIGITS,
        augmentation=DIGIT,
        mean=(0.1307,),
        std=(0.3081,),
        own_size=28,
        epsilon=0.3,
    ),
    _small(
        "FashionMNIST",
        "fashion",
        classes=FASHION,
        augmentation=NATURAL,
        mean=(0.2860,),
        std=(0.3530,),
        own_size=28,
        epsilon=0.3,
    ),
    _small(
        "CIFAR10",
        "cifar10",
        classes=CIFAR10,
        augmentation=NATURAL,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        epsilon=8 / 255,
    ),
    _small(
        "CIFAR100",
        "cifar100",
        classes=CIFAR100,
        augmentation=NATURAL,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        epsilon=8 / 255,
    ),
    _small(
        "SVHN",
        "svhn",
        parts=({"split": "train"}, {"split": "test"}),
        labels="labels",
        classes=DIGITS,
        augmentation=Augmentation(crop=1 / 8),  # a mirrored digit is no digit
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        epsilon=8 / 255,
    ),
)
