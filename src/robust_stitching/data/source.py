"""What a dataset says of itself: plain values, and the function that reads its files.

Nothing here needs torch, so that datasets can be listed at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image; `augment.augmented` does it.

    Attributes
    ----------
    flip : mirror left and right, for half of the images.
    crop : zero padding from which a crop of the old size is taken, as a share of the side.
    degrees : largest rotation, in degrees.
    scale : range of the magnification.
    shear : largest horizontal shear, in degrees.
    area : range of the share of a picture's area that a random window has (see
        `pictures.random_window`); None takes the centre. Windows are cut out, and mirrored, where
        files are decoded, so they are for streamed splits.
    """

    flip: bool = False
    crop: float = 0.0
    degrees: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    area: tuple[float, float] | None = None

    @property
    def affine(self) -> bool:
        """Whether pixels are interpolated at all."""
        return bool(self.degrees or self.shear or self.scale != (1.0, 1.0))


NATURAL = Augmentation(flip=True, crop=1 / 8)
DIGIT = Augmentation(degrees=5, scale=(0.9, 1.1), shear=5)


@dataclass(frozen=True)
class Images:
    """One part of a dataset in memory.

    Attributes
    ----------
    images : uint8 Tensor of shape (N, C, H, W).
    labels : int64 Tensor of shape (N,), or (N, A) of 0 and 1 for attributes.
    """

    images: "Tensor"
    labels: "Tensor"


@dataclass(frozen=True)
class Files:
    """One part of a dataset whose images stay in their files.

    Attributes
    ----------
    paths : of N images, as an array of bytes.
    labels : as those of `Images`.
    classes : their names, or those of the attributes.
    notes : what was left out, in sentences.
    """

    paths: "np.ndarray"
    labels: "Tensor"
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Missing(Exception):
    """A dataset's files are not in its folder: what is amiss and what to do, to follow its name."""


@dataclass(frozen=True)
class Source:
    """A dataset that is known by name.

    Attributes
    ----------
    key : what the commands call it, in lower case.
    name : as in file names.
    read : ``read(root)`` returns the training and the test part of what lies in the folder `root`,
        both as `Images` or both as `Files`, which are streamed. It raises `Missing` where nothing
        does. What is slow to import (torch, NumPy, torchvision) it imports itself.
    root : the kind of that folder, see `config.dataset_root`; None where there are no files.
    classes : the names of its classes, in the order of their numbers; None where only the files
        tell.
    image_size : pixels of an image's side where nobody chooses another.
    own_size : of its files, where that is another.
    augmentation : of the training split.
    mean, std : per channel, as commonly published; published networks were made with them.
    epsilon : the l-inf radius at which robustness on this dataset is usually reported.
    shorter_side : of `Files`, what the shorter side of a picture is scaled to at `image_size`,
        before the centre is cut out; None cuts out the largest centred square.
    downloaded : whether `read` downloads files that are missing, where there is a network.
    """

    key: str
    name: str
    read: Callable[[Path | None], Sequence[Images] | Sequence[Files]]
    root: str | None
    classes: tuple[str, ...] | None
    image_size: int
    augmentation: Augmentation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epsilon: float
    own_size: int | None = None
    shorter_side: int | None = None
    downloaded: bool = False
