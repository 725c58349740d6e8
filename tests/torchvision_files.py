"""Small files in the formats of torchvision's datasets, as the real ones are laid out."""

import hashlib
import pickle
import struct

import numpy as np
from scipy.io import savemat

from robust_stitching.data.vision import torchvision

SIZES = {"train": 20, "test": 10}


def idx(values):
    """An array of bytes in the format of MNIST's files."""
    magic = 0x0800 + values.ndim
    return struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.tobytes()


def write_idx(root, made, monkeypatch, name="MNIST"):
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = made[part]
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images[:, 0]))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))


def write_fashion(root, made, monkeypatch):
    write_idx(root, made, monkeypatch, "FashionMNIST")


def write_cifar(root, made, monkeypatch, name="CIFAR10", label_key="labels"):
    known = getattr(torchvision().datasets, name)
    folder = root / known.base_folder
    folder.mkdir(parents=True)

    def write(file, values):
        (folder / file).write_bytes(pickle.dumps(values, protocol=2))
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    sums = {}
    for part, files in (("train", known.train_list), ("test", known.test_list)):
        images, labels = (np.array_split(values, len(files)) for values in made[part])
        sums[part] = [
            [file, write(file, {"data": x.reshape(len(x), -1), label_key: y.tolist()})]
            for (file, _), x, y in zip(files, images, labels, strict=True)
        ]
    names = [f"class {i}" for i in range(10 if name == "CIFAR10" else 100)]
    meta = {**known.meta, "md5": write(known.meta["filename"], {known.meta["key"]: names})}
    monkeypatch.setattr(known, "train_list", sums["train"])
    monkeypatch.setattr(known, "test_list", sums["test"])
    monkeypatch.setattr(known, "meta", meta)


def write_cifar100(root, made, monkeypatch):
    write_cifar(root, made, monkeypatch, "CIFAR100", "fine_labels")


def write_svhn(root, made, monkeypatch):
    root.mkdir(parents=True, exist_ok=True)
    parts = {}
    for part, (images, labels) in made.items():
        file = root / f"{part}_32x32.mat"
        savemat(
            file, {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels, labels, 10)[:, None]}
        )
        parts[part] = ["no address", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision().datasets.SVHN, "split_list", parts)


FORMATS = {  # how it is written, shape of an image, classes
    "mnist": (write_idx, (1, 28, 28), 10),
    "fashion": (write_fashion, (1, 28, 28), 10),
    "cifar10": (write_cifar, (3, 32, 32), 10),
    "cifar100": (write_cifar100, (3, 32, 32), 100),
    "svhn": (write_svhn, (3, 32, 32), 10),
}


def make(name, root, monkeypatch):
    """Write a small dataset; returns part to (images, labels)."""
    write, shape, classes = FORMATS[name]
    rng = np.random.default_rng(0)
    made = {
        part: (
            rng.integers(0, 256, (n, *shape), dtype=np.uint8),
            np.concatenate([[0, classes - 1], rng.integers(0, classes, n - 2)]),
        )
        for part, n in SIZES.items()
    }
    write(root, made, monkeypatch)
    return made
