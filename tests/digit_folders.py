"""Digits as a folder of images, under whatever names."""

from PIL import Image

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def write_digits(folder, digits, names=tuple("0123456789"), n=60):
    """The first `n` images of each part in a folder per class, called by `names`; returns the
    folder."""
    for part, split in zip(("train", "test"), digits, strict=True):
        for name in names:
            (folder / part / name).mkdir(parents=True)
        some = zip(split.images[:n, 0].numpy(), split.labels[:n].tolist(), strict=True)
        for i, (pixels, label) in enumerate(some):
            Image.fromarray(pixels).save(folder / part / names[label] / f"{i:04d}.png")
    return folder
