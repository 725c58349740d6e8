"""From files to squares of bytes: pictures of all shapes, scaled and cut, batch by batch."""

import math
import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from robust_stitching.data.decoding import Unreadable, read_rgb, read_upright
from robust_stitching.data.vision import torchvision

RATIO = (3 / 4, 4 / 3)  # of the sides of a random window
TRIES = 10  # to find one that fits


@dataclass(frozen=True)
class Square:
    """How pictures of all shapes become squares, by bilinear scaling with antialiasing.

    Attributes
    ----------
    size : pixels of the square's side.
    scale : what the shorter side is scaled to before the centre is cut out, as torchvision's
        transforms do; None cuts out the largest centred square and scales that.
    """

    size: int
    scale: int | None = None

    def at(self, size: int) -> "Square":
        """This part of a picture in another number of pixels."""
        return Square(size, self.scale and round(self.scale * size / self.size))

    def centre(self, picture: Image.Image) -> Image.Image:
        """The centre of the picture, for evaluation."""
        if self.scale is None:
            whole = (self.size, self.size)
            same = picture.size == whole
            return picture if same else ImageOps.fit(picture, whole, Image.Resampling.BILINEAR)
        functional = torchvision().transforms.functional
        return functional.center_crop(functional.resize(picture, self.scale), self.size)

    def window(
        self, picture: Image.Image, area: tuple[float, float], generator: torch.Generator
    ) -> Image.Image:
        """A random window of the picture, see `random_window`."""
        box = random_window(picture.height, picture.width, area, generator)
        size = [self.size, self.size]
        return torchvision().transforms.functional.resized_crop(picture, *box, size)


def random_window(
    height: int, width: int, area: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part of a picture (Szegedy et al., 2015, section 6):
    its share of the area is uniform within `area`, its ratio of sides log-uniform within `RATIO`.
    The numbers are those that torchvision's RandomResizedCrop draws from the same generator."""

    def uniform(low: float, high: float) -> float:
        return torch.empty(1).uniform_(low, high, generator=generator).item()

    def below(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    for _ in range(TRIES):
        pixels = height * width * uniform(*area)
        ratio = math.exp(uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return below(height - h + 1), below(width - w + 1), h, w
    # The largest centred window with an allowed ratio.
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True)
class Decoder(torch.utils.data.Dataset):
    """What a worker process is given: it makes a whole batch at a time.

    Attributes
    ----------
    paths : of the files, as bytes: an array of strings would be copied into every worker as Python
        counts references to each.
    area : of random windows, see `random_window`; None takes every picture's centre.
    flip : mirror half of the windows.
    upright : turn pictures as their EXIF orientation says.
    channels : 3, or 1 for pictures that are known to be grey.
    """

    paths: np.ndarray
    square: Square
    area: tuple[float, float] | None = None
    flip: bool = False
    upright: bool = False
    channels: int = 3

    def __getitem__(self, batch: tuple[list[int], list[int]]) -> Tensor | Unreadable:
        """Images of B files, uint8 of shape (B, channels, size, size).

        The files come by their numbers, each with a seed of its own for the window that is cut out.
        One that cannot be read is returned as its error, since the loader would wrap what is raised
        here in the traceback of the worker.
        """
        rows, seeds = batch
        size, channels = self.square.size, self.channels
        images = np.empty((len(rows), size, size, channels), np.uint8)
        try:
            for image, row, seed in zip(images, rows, seeds, strict=True):
                square = self._square(os.fsdecode(self.paths[row]), seed)
                image[:] = np.asarray(square)[..., :channels]
        except Unreadable as error:
            return error
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def _square(self, path: str, seed: int) -> Image.Image:
        picture = read_upright(path) if self.upright else read_rgb(path)
        if self.area is None:
            return self.square.centre(picture)
        generator = torch.Generator().manual_seed(seed)
        window = self.square.window(picture, self.area, generator)
        if self.flip and torch.rand(1, generator=generator) < 0.5:
            window = ImageOps.mirror(window)
        return window
