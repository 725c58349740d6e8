"""Small files in the formats of CelebA and ImageNet, as the real ones are laid out."""

import hashlib
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from robust_stitching.data.vision import torchvision

ATTRIBUTES = tuple(f"Attribute_{i}" for i in range(40))
WNIDS = ("n01440764", "n02102040", "n03028079")
PARTITION = {0: 24, 1: 6, 2: 10}  # train, validation, test


def write_celeba(root, monkeypatch, partition=None):
    """Faces of one colour each, 178×218 pixels, whose attributes follow from the colour.

    The five lists have checksums of their own, which torchvision's class is told; nothing else of
    it is touched.
    """
    partition = partition or PARTITION
    n, known = sum(partition.values()), torchvision().datasets.CelebA
    folder = root / known.base_folder
    (folder / "img_align_celeba").mkdir(parents=True)
    rng = np.random.default_rng(0)
    colours = rng.integers(10, 246, (n, 3))
    bits = np.stack([colours[:, i % 3] > 60 + 5 * (i // 3) for i in range(40)], axis=1).astype(int)
    names = [f"{i:06d}.jpg" for i in range(1, n + 1)]
    for name, colour in zip(names, colours, strict=True):
        Image.new("RGB", (178, 218), tuple(map(int, colour))).save(
            folder / "img_align_celeba" / name
        )
    parts = [part for part, count in partition.items() for _ in range(count)]

    def lines(rows):
        return [f"{name} {row}" for name, row in zip(names, rows, strict=True)]

    lists = {
        # The published list writes −1 and 1 in columns of two, and ends its heading with a space.
        "list_attr_celeba.txt": [
            str(n),
            " ".join(ATTRIBUTES) + " ",
            *lines(" ".join(f"{2 * bit - 1:2d}" for bit in row) for row in bits),
        ],
        "list_eval_partition.txt": lines(parts),
        "identity_CelebA.txt": lines(range(1, n + 1)),
        "list_bbox_celeba.txt": [
            str(n),
            "image_id x_1 y_1 width height",
            *lines("   95  71  226  313" for _ in names),
        ],
        "list_landmarks_align_celeba.txt": [
            str(n),
            "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y "
            "rightmouth_x rightmouth_y",
            *lines("69  109  106  113   77  142   73  152  108  154" for _ in names),
        ],
    }
    for name, rows in lists.items():
        (folder / name).write_text("\n".join(rows) + "\n")
    sums = [
        (code, hashlib.md5((folder / name).read_bytes()).hexdigest(), name)
        if name in lists
        else (code, md5, name)
        for code, md5, name in known.file_list
    ]
    monkeypatch.setattr(known, "file_list", sums)
    monkeypatch.setenv("DATASET_ROOT_CELEBA", str(root))
    return SimpleNamespace(folder=folder, attributes=torch.tensor(bits), colours=colours.tolist())


def write_imagenet(root, monkeypatch=None, train=8, val=4):
    """Noisy pictures of all shapes, each class around a colour of its own; returns `root`."""
    rng = np.random.default_rng(0)
    for part, n in (("train", train), ("val", val)):
        for c, wnid in enumerate(WNIDS):
            (root / part / wnid).mkdir(parents=True)
            for i in range(n):
                height, width = rng.integers(40, 90, 2)
                small = rng.integers(0, 120, (height, width, 3))
                small[:, :, c] += 130
                picture = Image.fromarray(small.astype(np.uint8))
                picture.save(root / part / wnid / f"{wnid}_{i}.JPEG")
    if monkeypatch:
        monkeypatch.setenv("DATASET_ROOT_IMAGENET", str(root))
    return root
