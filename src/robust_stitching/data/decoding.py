"""From a file to a picture of eight bits a channel, whatever kind of image it is.

A file is shown as viewers show it: its first frame, and white behind what is transparent, since
drawings and logos with an alpha channel are made for white paper and dark lines would be gone on
black. Where nothing says which value is white, the file is refused rather than guessed at.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from robust_stitching.basics.errors import UserError, first_line

WHITE = (255, 255, 255)
WITH_ALPHA = ("LA", "PA", "RGBA", "RGBa")
PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
"""Modes of eight bits or fewer a channel, which Pillow turns into RGB as they should be."""

ORIENTATION = 274
"""The tag by which cameras say how to turn a picture (EXIF 2.32, section 4.6.4)."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

PHOTOMETRIC, BITS = 262, 258
"""Tags of TIFF: 0 in the first says that zero is white; the second has the bits of a sample."""

HALF_A_LEVEL = 1 / 510
"""Of white: so much beyond black and white is rounding."""

DARKEST_WHITE = 16
"""Floats from 0 to 255 that end below this would be a black picture."""


class Unreadable(UserError):
    """Images cannot be read, or no longer: a file is broken, or a process that reads has died."""


class _Undecided(Exception):
    """Why nobody can say how bright the pixels of a file are, as the end of a sentence."""


def read_rgb(path: str | Path) -> Image.Image:
    """The image in a file, in colour, its rows and columns as they are stored.

    Raises
    ------
    Unreadable : when it is missing, no image, broken, or of a kind that cannot be shown in 8 bits.
    """
    return _read(path, upright=False)


def read_upright(path: str | Path) -> Image.Image:
    """The image in a file as `read_rgb` has it, turned as its EXIF orientation says."""
    return _read(path, upright=True)


def _read(path: str | Path, upright: bool) -> Image.Image:
    try:
        with Image.open(path) as image:
            transparent = _transparent_colour(image)
            image.load()
            if transparent is not None:
                image.info["transparency"] = transparent
            turn = UPRIGHT.get(_orientation(image)) if upright else None
            picture = _as_rgb(image)
    except _Undecided as error:
        raise Unreadable(f"{path} {error}.") from error
    except Exception as error:  # any file may be given, and Pillow's readers raise what they like
        raise Unreadable(
            f"{path} cannot be read as an image ({first_line(error)}); remove it, or copy it again."
        ) from error
    return picture if turn is None else picture.transpose(turn)


def shown_size(path: str | Path) -> tuple[int, int] | None:
    """Width and height of the image in a file as it is shown upright.

    They are read from its head alone; None where that cannot be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size  # which of a TIFF is upright
            turned = image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)
    except Exception:  # reading the whole file will tell
        return None
    return (height, width) if turned else (width, height)


def _orientation(image: Image.Image) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return image.getexif().get(ORIENTATION, 1)
    except Exception:  # what a camera wrote beside the pixels may be broken, they are not
        return 1


def _transparent_colour(image: Image.Image) -> int | tuple[int, ...] | None:
    """The colour that a PNG calls transparent, as eight bits a channel, where Pillow leaves it in
    those of a file that is not yet loaded; else None."""
    colour = image.info.get("transparency")
    kind = image.tile[0].args if image.format == "PNG" and image.tile else None
    if kind in ("L;2", "L;4") and isinstance(colour, int):
        return colour * (85 if kind == "L;2" else 17)
    if kind == "RGB;16B" and isinstance(colour, tuple):
        return tuple(value >> 8 for value in colour)
    return None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":
        return Image.fromarray(_deep_grey(image)).convert("RGB")
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        shown = Image.new("RGBA", image.size, WHITE)
        shown.alpha_composite(image.convert("RGBA"))
        return shown.convert("RGB")
    if image.mode not in PLAIN:
        raise _Undecided(f"has pixels of the kind '{image.mode}'; save it as RGB or grey")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> np.ndarray:
    """Grey of more than eight bits, or of floats, as bytes (H, W)."""
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    white = _white(image, high)
    rounding = white * HALF_A_LEVEL
    if not (low >= -rounding and high <= white + rounding):  # nor for NaN
        kind = "floats" if image.mode == "F" else "integers"
        raise _Undecided(
            f"has {kind} from {low:g} to {high:g}, and nothing says which of them is white; save "
            "it with 8 or 16 unsigned bits a channel, or as floats from 0 to 1"
        )
    grey = np.rint(values * (255 / white)).clip(0, 255)
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0:
        grey = 255 - grey
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return grey.astype(np.uint8)


def _white(image: Image.Image, high: float) -> int:
    """The value that is white: what the format says, else what fits one of the two conventions in
    use, 0 to 1 and 0 to 255.

    Floats that end between them are of neither: above 1 by overshooting, perhaps, or of a scene's
    light. They would come out black by the second.
    """
    if image.mode == "F":
        return 1 if high < DARKEST_WHITE else 255
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # which have no more than 16 bits
        return 255
    bits = image.tag_v2.get(BITS, (16,))[0] if image.format == "TIFF" else 16
    return 2**bits - 1
