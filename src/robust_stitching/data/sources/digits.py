"""The 1,797 handwritten digits of 8×8 pixels that come with scikit-learn."""

from importlib.util import find_spec
from pathlib import Path

from robust_stitching.data.source import DIGIT, Images, Source

TEST_IMAGES = 360
"""The last ones. They stand in the order in which they were written, so most test digits are by
other hands."""


def _read(root: None) -> list[Images]:
    import numpy as np
    import torch

    # The file alone: to import sklearn.datasets, with pandas and scipy, takes as long as torch.
    package = Path(find_spec("sklearn").origin).parent
    table = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", np.uint8, delimiter=",")
    table = torch.from_numpy(table)
    images = (table[:, :-1] * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8)
    labels = table[:, -1].long()
    parts = slice(None, -TEST_IMAGES), slice(-TEST_IMAGES, None)
    return [Images(images[rows], labels[rows]) for rows in parts]


SOURCES = (
    Source(
        key="digits",
        name="Digits",
        read=_read,
        root=None,
        classes=tuple("0123456789"),
        image_size=32,
        augmentation=DIGIT,
        mean=(0.3054,),
        std=(0.3227,),
        epsilon=0.3,
    ),
)
