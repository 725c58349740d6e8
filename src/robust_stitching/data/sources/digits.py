"""The 1,797 handwritten digits of 8×8 pixels that come with scikit-learn."""

from robust_stitching.data.source import DIGIT, Images, Source

TEST_IMAGES = 360
"""The last ones. They stand in the order in which they were written, so most test digits are by
other hands."""


def _read(root: None) -> list[Images]:
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(np.rint(data.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target)
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
