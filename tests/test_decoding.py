"""Image files of every kind against what their formats say their pixels are."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from robust_stitching import data
from robust_stitching.basics.errors import UserError
from robust_stitching.data.decoding import UPRIGHT, read_rgb, read_upright, shown_size

RAMP = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
PHOTOMETRIC, ORIENTATION = 262, 274


def pixels(path):
    return np.asarray(read_rgb(path)).astype(int)


def grey(path):
    """The one channel of a file that has to be grey."""
    found = pixels(path)
    assert (found == found[:, :, :1]).all()
    return found[:, :, 0]


def save(tmp_path, name, values, **options):
    path = tmp_path / name
    Image.fromarray(values).save(path, **options)
    return path


def png(path, depth, kind, rows, transparent=b"", palette=b""):
    """A PNG written by hand: `rows` are the packed bytes of each row."""

    def chunk(name, content):
        sum32 = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + sum32

    width = 8 * len(rows[0]) // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind])
    head = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + (chunk(b"PLTE", palette) if palette else b"")
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )
    return path


# Values of more than eight bits


@pytest.mark.parametrize("values", [RAMP / np.float32(255), np.eye(8), np.zeros((8, 8))])
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_deflate"}], ids=str)
def test_floats_from_0_to_1(tmp_path, values, options):
    path = save(tmp_path, "x.tif", values.astype(np.float32), **options)
    assert np.array_equal(grey(path), np.rint(values * 255))


def test_floats_as_rounding_leaves_them(tmp_path):
    values = np.linspace(-0.001, 1.001, 64, dtype=np.float32).reshape(8, 8)
    expected = np.rint(values.astype(np.float64) * 255).clip(0, 255)
    assert np.array_equal(grey(save(tmp_path, "x.tif", values)), expected)


def test_floats_from_0_to_255(tmp_path):
    values = RAMP + np.float32(0.25)
    values[-1, -1] = 255
    assert np.array_equal(grey(save(tmp_path, "x.tif", values)), RAMP)


@pytest.mark.parametrize(
    "values",
    [
        RAMP / np.float32(255) * 2 - 1,
        RAMP / np.float32(255) * 1.1,
        RAMP / np.float32(255) * 5,
        RAMP * np.float32(10),
        RAMP / np.float32(255) - 0.1,
        np.where(RAMP, 0.5, np.nan),
        np.where(RAMP, 0.5, np.inf),
        RAMP.astype(np.int32) * 257,
        RAMP.astype(np.int32) * 2**22,
        -RAMP.astype(np.int32),
    ],
    ids=["-1..1", "..1.1", "..5", "..2550", "-0.1..", "nan", "inf", "int ..65535", "int", "int -"],
)
def test_what_has_no_white_is_refused(tmp_path, values):
    kind = np.int32 if values.dtype == np.int32 else np.float32
    path = save(tmp_path, "x.tif", values.astype(kind))
    with pytest.raises(UserError, match="nothing says which of them is white") as error:
        read_rgb(path)
    assert str(path) in str(error.value)
    if np.isfinite(values).all():
        assert f" to {values.max():g}," in str(error.value)


def test_integers_of_32_bits_that_need_no_more_than_8(tmp_path):
    assert np.array_equal(grey(save(tmp_path, "x.tif", RAMP.astype(np.int32))), RAMP)


DEEP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
ROUNDED = np.rint(DEEP / 257)


@pytest.mark.parametrize("ending", ["png", "tif", "jp2"])
def test_16_bits(tmp_path, ending):
    options = {"irreversible": False} if ending == "jp2" else {}
    assert np.array_equal(grey(save(tmp_path, f"x.{ending}", DEEP, **options)), ROUNDED)


def test_16_bits_of_the_other_order(tmp_path):
    path = tmp_path / "x.tif"
    Image.frombytes("I;16B", (8, 8), DEEP.astype(">u2").tobytes()).save(path)
    assert path.read_bytes()[:2] == b"MM"
    assert np.array_equal(grey(path), ROUNDED)


def test_16_bits_whose_zero_is_white(tmp_path):
    path = save(tmp_path, "x.tif", DEEP, tiffinfo={PHOTOMETRIC: 0})
    assert np.array_equal(grey(path), 255 - ROUNDED)


def test_12_bits(tmp_path):
    """Two pixels in three bytes; white is 4095."""
    path = save(tmp_path, "x.tif", DEEP[:1, :2])
    with Image.open(path) as image:
        at = image.tag_v2[273][0]
    whole = bytearray(path.read_bytes())
    whole[at : at + 3] = bytes([0xFF, 0xF8, 0x00])  # 4095, 2048
    for tag, value in ((258, 12), (279, 3)):  # bits of a sample, bytes of the strip
        place = whole.index(struct.pack("<H", tag), 8)
        whole[place + 8 : place + 10] = struct.pack("<H", value)
    path.write_bytes(whole)
    assert grey(path).tolist() == [[255, 128]]


@pytest.mark.parametrize("most", [255, 1000, 65535])
def test_a_pgm_says_what_white_is(tmp_path, most):
    values = np.linspace(0, most, 64).astype(np.uint16).reshape(8, 8)
    path = tmp_path / "x.pgm"
    kind = "u1" if most < 256 else ">u2"
    path.write_bytes(b"P5\n8 8\n%d\n" % most + values.astype(kind).tobytes())
    assert np.abs(grey(path) - values * (255 / most)).max() <= 1
    assert (grey(path).min(), grey(path).max()) == (0, 255)


def test_16_bits_in_colour(tmp_path):
    """Pillow keeps the upper eight."""
    rows = [DEEP[:3, i].astype(">u2").tobytes() for i in range(8)]
    found = pixels(png(tmp_path / "x.png", 16, 2, rows))
    assert np.array_equal(found[:, 0], DEEP[:3].T >> 8)


def test_one_bit(tmp_path):
    values = np.eye(8, dtype=bool)
    for ending in ("png", "tif", "bmp", "pbm"):
        assert np.array_equal(grey(save(tmp_path, f"x.{ending}", values)), 255 * values)


# Transparency, on white


def on_white(colour, alpha):
    alpha = np.asarray(alpha)[..., None] / 255
    return alpha * np.asarray(colour) + (1 - alpha) * 255


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_the_colour_behind_alpha_is_hidden(tmp_path, ending):
    alpha = np.array([[0, 0, 255, 255], [51, 102, 153, 204]], np.uint8)
    values = np.dstack([np.full((2, 4), c, np.uint8) for c in (250, 20, 90)] + [alpha])
    options = {"lossless": True, "exact": True} if ending == "webp" else {}
    found = pixels(save(tmp_path, f"x.{ending}", values, **options))
    assert np.abs(found - on_white(values[..., :3], alpha)).max() <= 1
    assert (found[0, :2] == 255).all()


def test_grey_with_alpha_stays_grey(tmp_path):
    values = np.dstack([RAMP, np.full((8, 8), 0, np.uint8)])
    values[:, :4, 1] = 255
    found = grey(save(tmp_path, "x.png", values))
    assert np.array_equal(found[:, :4], RAMP[:, :4])
    assert (found[:, 4:] == 255).all()


@pytest.mark.parametrize("transparent", [1, bytes([255, 0, 128])], ids=["one", "alphas"])
def test_a_palette_with_transparency(tmp_path, transparent):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="L").convert("L")
    image = image.convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "x.png", transparency=transparent)
    alphas = [255, 0, 255] if transparent == 1 else list(transparent)
    expected = on_white([[10, 20, 30], [40, 50, 60], [70, 80, 90]], alphas)
    assert np.abs(pixels(tmp_path / "x.png")[0] - expected).max() <= 1


@pytest.mark.parametrize(
    "depth, row, transparent, expected",
    [
        (1, bytes([0b00001111]), 1, [0] * 4 + [255] * 4),
        (1, bytes([0b00001111]), 0, [255] * 8),
        (2, bytes([0b00011011]), 1, [0, 255, 170, 255]),
        (4, bytes([0x05, 0xFA]), 5, [0, 255, 255, 170]),
        (8, bytes([7, 8, 9]), 8, [7, 255, 9]),
        (16, struct.pack(">3H", 0x1234, 0x1235, 0x8000), 0x1234, [255, 18, 128]),
    ],
)
def test_one_grey_that_is_transparent(tmp_path, depth, row, transparent, expected):
    path = png(tmp_path / "x.png", depth, 0, [row], struct.pack(">H", transparent))
    assert grey(path)[0].tolist() == expected


@pytest.mark.parametrize("depth", [8, 16])
def test_one_colour_that_is_transparent(tmp_path, depth):
    kind = "B" if depth == 8 else "H"
    colour = [1, 200, 3] if depth == 8 else [0x1234, 0x8000, 0xFFFF]
    rows = [struct.pack(f">6{kind}", *colour, *colour[::-1])]
    found = pixels(png(tmp_path / "x.png", depth, 2, rows, struct.pack(">3H", *colour)))[0]
    assert found[0].tolist() == [255] * 3
    assert found[1].tolist() == [c >> (depth - 8) for c in colour[::-1]]


# Other colours


def test_a_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    assert np.abs(pixels(tmp_path / "x.jpg") - [255, 0, 0]).max() <= 3


def test_a_tiff_in_ycbcr(tmp_path):
    Image.new("RGB", (8, 8), (200, 30, 60)).convert("YCbCr").save(tmp_path / "x.tif")
    assert np.abs(pixels(tmp_path / "x.tif") - [200, 30, 60]).max() <= 2


@pytest.mark.skipif(not features.check("littlecms2"), reason="Pillow was built without colours")
@pytest.mark.parametrize("lab", [(50, 40, -30), (80, -20, 25), (30, 0, 0)])
def test_a_tiff_in_lab(tmp_path, lab):
    """By way of XYZ under D50 (CIE 15) to sRGB (IEC 61966-2-1, adapted to D50 after Bradford)."""
    image = Image.new("LAB", (8, 8), (round(lab[0] * 2.55), 128 + lab[1], 128 + lab[2]))
    image.save(tmp_path / "x.tif")
    y = (round(lab[0] * 2.55) / 2.55 + 16) / 116
    f = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1, 0.8249]
    to_srgb = [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]
    linear = np.clip(np.array(to_srgb) @ xyz, 0, 1)
    srgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    assert np.abs(pixels(tmp_path / "x.tif") - 255 * srgb).max() <= 2


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for name in ("x.gif", "x.png", "x.tif", "x.webp"):
        options = {"lossless": True} if name == "x.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(pixels(tmp_path / name)[0, 0], [255, 0, 0]), name


# Orientation

TURNED = {  # where the rows and columns of a file belong, EXIF 2.32, section 4.6.4
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_orientation(tmp_path, ending, orientation):
    colours = [
        (250, 10, 10),
        (10, 250, 10),
        (10, 10, 250),
        (240, 240, 10),
        (10, 240, 240),
        (0, 0, 0),
    ]
    stored = np.array(colours, np.uint8).reshape(3, 2, 3).repeat(16, axis=0).repeat(16, axis=1)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(
        ending, {}
    )
    path = save(tmp_path, f"x.{ending}", stored, exif=exif, **options)
    upright = np.asarray(read_upright(path)).astype(int)
    assert upright.shape == TURNED[orientation](stored).shape
    assert np.abs(upright - TURNED[orientation](stored)).max() <= 12
    assert shown_size(path) == upright.shape[1::-1]
    if ending != "tif":  # which Pillow turns by itself
        assert np.abs(pixels(path) - stored).max() <= 12


def test_an_orientation_that_is_none(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 99
    path = save(tmp_path, "x.png", RAMP, exif=exif)
    assert np.array_equal(np.asarray(read_upright(path))[..., 0], RAMP)
    assert 99 not in UPRIGHT


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_broken_note_of_the_camera_is_no_broken_image(tmp_path):
    path = save(tmp_path, "x.jpg", RAMP, exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=100)
    assert np.asarray(read_upright(path)).shape == (8, 8, 3)


# Files that are no images, in folders and streams


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(data.Unreadable, match=r"x\.png cannot be read as an image") as error:
        read_rgb(tmp_path / "x.png")
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_noise_behind_a_good_head_is_named_or_read(tmp_path):
    """Whatever Pillow's readers raise at broken files becomes one kind of error."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for ending in ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm"):
        whole = save(tmp_path, f"x.{ending}", values).read_bytes()
        for _ in range(40):
            broken = bytearray(whole)
            for place in rng.integers(4, len(broken), 4):
                broken[place] = rng.integers(256)
            (tmp_path / "y").write_bytes(broken)
            try:
                assert read_upright(tmp_path / "y").mode == "RGB"
            except data.Unreadable as error:
                assert "y" in str(error)
