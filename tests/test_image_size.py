"""Images at another size than 32: in memory and streamed alike, from train.py to every command."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from robust_stitching import data
from robust_stitching.basics.errors import UserError
from robust_stitching.data import pictures
from robust_stitching.data.augment import augmented
from robust_stitching.data.vision import torchvision
from streamed_files import write_celeba, write_imagenet

SHAPES = {"square": (64, 64), "wide": (80, 50), "tall": (30, 90)}  # width, height


def write(folder, shape=(64, 64), n=6, grey=False, mode=None):
    """Noise in two classes, each with a colour of its own."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for c in range(2):
            (folder / part / f"class {c}").mkdir(parents=True)
            for i in range(n):
                values = rng.integers(0, 100, (*shape[::-1], 3), dtype=np.uint8)
                values[:, :, 2 * c] += 150
                image = Image.fromarray(values)
                image = image.convert("L") if grey else image
                image.convert(mode or image.mode).save(folder / part / f"class {c}" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    return write(tmp_path_factory.mktemp("folders") / "mine")


@pytest.fixture
def streaming(monkeypatch):
    """Folders are streamed, however small they are."""

    def switch(most=0):
        monkeypatch.setattr("robust_stitching.data.folder.MOST_IN_MEMORY", most)

    return switch


def pixels(split):
    images = torch.cat([images for images, _ in split.batches(5)])
    return (images * 255).round().byte()


# Folders


@pytest.mark.parametrize("size", [16, 32, 48, 64, 100])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_folder_at_a_size(shape, size, tmp_path):
    """The largest centred square, scaled by Pillow."""
    folder = write(tmp_path / "mine", shape)
    train, test = data.load(str(folder), image_size=size)
    assert train.image_size == test.image_size == size
    assert train.images.shape == (12, 3, size, size)
    side, (width, height) = min(shape), shape
    left, top = (width - side) / 2, (height - side) / 2
    for ours, path in zip(train.images, sorted((folder / "train").glob("*/*")), strict=True):
        box = (left, top, left + side, top + side)
        scaled = Image.open(path).resize((size, size), Image.Resampling.BILINEAR, box)
        assert np.array_equal(ours.permute(1, 2, 0), np.asarray(scaled))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_and_in_memory_are_the_same(
    shape, size, workers, tmp_path, streaming, monkeypatch
):
    folder = write(tmp_path / "mine", shape)
    kept = data.load(str(folder), image_size=size)
    streaming()
    monkeypatch.setattr("robust_stitching.data.streamed.WORTH_WORKERS", 1)
    monkeypatch.setenv("DATASET_WORKERS", str(workers))
    streamed = data.load(str(folder), image_size=size)
    for one, other in zip(kept, streamed, strict=True):
        assert isinstance(one, data.Split) and isinstance(other, data.StreamedSplit)
        for key in ("name", "classes", "source", "notes", "augmentation", "channels"):
            assert getattr(one, key) == getattr(other, key), key
        assert one.image_size == other.image_size == size
        assert torch.equal(pixels(one), pixels(other))
        which = {"seed": 3, "epoch": 1, "skip": 1}
        for (x, y), (z, w) in zip(one.epoch(5, **which), other.epoch(5, **which), strict=True):
            assert torch.equal(x, z) and torch.equal(y, w)
        assert one.statistics() == other.statistics()


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "I;16", "1", "P"])
def test_grey_folders_have_one_channel_both_ways(mode, tmp_path, streaming):
    folder = write(tmp_path / "mine", grey=True, mode=None if mode == "I;16" else mode)
    if mode == "I;16":
        for path in folder.glob("*/*/*"):
            deep = np.asarray(Image.open(path)).astype(np.uint16) * 257
            Image.fromarray(deep).save(path)
    kept = data.load(str(folder))
    streaming()
    streamed = data.load(str(folder))
    for one, other in zip(kept, streamed, strict=True):
        assert one.channels == other.channels == 1
        assert torch.equal(pixels(one), pixels(other))
        assert one.statistics() == other.statistics()


@pytest.mark.parametrize(
    "where", ["train/class 0/0.png", "train/class 0/3.png", "test/class 1/5.png"]
)
def test_one_image_in_colour_is_enough(where, tmp_path, streaming, monkeypatch):
    monkeypatch.setattr("robust_stitching.data.streamed.READ_AT_ONCE", 3)
    folder = write(tmp_path / "mine", grey=True)
    Image.new("RGB", (64, 64), (9, 9, 10)).save(folder / where)
    kept = data.load(str(folder))
    streaming()
    streamed = data.load(str(folder))
    for one, other in zip(kept, streamed, strict=True):
        assert one.channels == other.channels == 3
        assert torch.equal(pixels(one), pixels(other))


def test_what_is_streamed(tmp_path, streaming):
    """24 images: what counts is the room that they take, with one channel where they are grey."""
    for name, channels in (("colour", 3), ("grey", 1)):
        folder = str(write(tmp_path / name, grey=name == "grey"))
        for size in (32, 50):
            room = 24 * channels * size**2
            for most, kind in ((room, data.Split), (room - 1, data.StreamedSplit)):
                streaming(most)
                train, test = data.load(folder, image_size=size)
                assert type(train) is type(test) is kind
                assert train.channels == channels


def test_a_gigabyte_is_streamed_as_it_is(tmp_path):
    folder = write(tmp_path / "mine", n=2)
    size = 6700  # 8 images of 135 MB
    train, _ = data.load(str(folder), image_size=size)
    assert isinstance(train, data.StreamedSplit)
    assert train.image_size == size
    assert isinstance(data.load(str(folder), image_size=64)[0], data.Split)


def test_orientation_is_the_same_both_ways(tmp_path, streaming):
    folder = write(tmp_path / "mine", (80, 50))
    exif = Image.Exif()
    exif[274] = 6
    for path in (folder / "train").glob("*/*"):
        Image.open(path).save(path, exif=exif)
    (one, _) = data.load(str(folder))
    stored = np.asarray(Image.open(next((folder / "train" / "class 0").glob("0.png"))))
    upright = Image.fromarray(np.rot90(stored, -1)).resize((32, 32), 2, (0, 15, 50, 65))
    assert np.array_equal(one.images[0].permute(1, 2, 0), np.asarray(upright))
    streaming()
    assert torch.equal(one.images, pixels(data.load(str(folder))[0]))


# What is said of it


@pytest.mark.parametrize(
    "shape, size, told",
    [
        ((64, 64), 32, "have 64×64 pixels and are scaled to 32×32;"),
        ((64, 64), 64, None),
        ((32, 32), 32, None),
        ((32, 32), 64, "have 32×32 pixels and are scaled to 64×64;"),
        ((80, 50), 32, "have 80×50 pixels and are cut to their centre and scaled to 32×32;"),
    ],
)
def test_other_sizes_are_told(shape, size, told, tmp_path, streaming):
    folder = write(tmp_path / "mine", shape)
    for most in (2**30, 0):
        streaming(most)
        for split in data.load(str(folder), image_size=size):
            assert len(split.notes) == (told is not None)
            assert told is None or f"The images of mine {told}" in split.notes[0]


def test_mixed_sizes_are_told(tmp_path, monkeypatch):
    folder = write(tmp_path / "mine", (80, 50))
    Image.new("RGB", (200, 300)).save(folder / "test" / "class 0" / "0.png")
    (note,) = data.load(str(folder))[0].notes
    assert "have 50 to 200 pixels on their shorter side and are cut" in note
    monkeypatch.setattr("robust_stitching.data.folder.LOOKS", 3)
    (note,) = data.load(str(folder))[0].notes
    assert "(a look at 6 of 24)" in note


def test_notes_travel(mine):
    train, _ = data.load(str(mine))
    assert train.notes
    for other in (
        replace(train, augmentation=None),
        train.between(1, 4),
        train.sample(3),
        train.to("cpu"),
    ):
        assert other.notes == train.notes


# Named datasets


def test_a_named_dataset_at_a_size(digits):
    train, test = data.load("digits", image_size=48)
    plain, _ = digits
    assert train.images.shape == (1437, 1, 48, 48) and test.image_size == 48
    assert train.labels.tolist() == plain.labels.tolist()
    assert train.notes == ("The images of Digits are scaled to 48×48 pixels, not to 32×32.",)
    assert plain.notes == ()
    small = (load_digit(0) * (255 / 16)).round().astype(np.uint8)
    expected = np.asarray(Image.fromarray(small).resize((48, 48), Image.Resampling.BILINEAR))
    assert np.abs(train.images[0, 0].numpy().astype(int) - expected).max() <= 1


def load_digit(i):
    from sklearn.datasets import load_digits

    return load_digits().images[i]


def test_large_ones_are_scaled_batch_by_batch(monkeypatch):
    at_once, _ = data.load("digits", image_size=40)
    monkeypatch.setattr("robust_stitching.data.loading.MOST_IN_MEMORY", 1437 * 40**2 - 1)
    train, test = data.load("digits", image_size=40)
    assert train.images.shape[-1] == 8
    assert test.images.shape[-1] == 40
    assert train.image_size == 40
    which = {"seed": 1, "epoch": 0, "skip": 2}
    for few, same in ((train.between(0, 40), at_once.between(0, 40)),):
        assert torch.equal(pixels(few), pixels(same))
        for (x, y), (z, w) in zip(few.epoch(12, **which), same.epoch(12, **which), strict=True):
            assert torch.equal(x, z) and torch.equal(y, w)
    assert np.allclose(train.statistics(), at_once.statistics(), rtol=1e-12)


@pytest.mark.parametrize("size", [48, 112])
def test_streamed_ones_at_a_size(size, tmp_path, monkeypatch):
    """The same share of the picture as at their own size: 224 of 256 pixels for ImageNet."""
    write_celeba(tmp_path / "faces", monkeypatch)
    root = write_imagenet(tmp_path / "pictures", monkeypatch)
    faces, _ = data.load("celeba", image_size=size)
    train, test = data.load("imagenet", image_size=size)
    assert pixels(faces.between(0, 2)).shape == (2, 3, size, size)
    transforms = torchvision().transforms
    transform = transforms.Compose(
        [transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size)]
    )
    known = torchvision().datasets.ImageFolder(str(root / "val"), transform)
    for ours, (expected, _) in zip(pixels(test), known, strict=True):
        assert np.array_equal(ours.permute(1, 2, 0), np.asarray(expected))
    images, _ = next(train.epoch(3, seed=0, epoch=0))
    assert images.shape == (3, 3, size, size)
    assert f"scaled to {size}×{size} pixels, not to 224×224" in train.notes[0]
    assert pictures.Square(224, 256).at(size) == train.square


@pytest.mark.parametrize("size, padding", [(16, 2), (32, 4), (48, 6), (64, 8), (96, 12), (224, 28)])
def test_the_padding_of_crops_is_an_eighth(size, padding, mine):
    """The draws of the last window: the image, moved up and to the left by the padding."""
    images, last = torch.full((1, 3, size, size), 255, dtype=torch.uint8), torch.full((1, 6), 0.999)
    for train in (data.load(str(mine), image_size=size)[0], data.SOURCES["svhn"]):
        cropped = augmented(images, train.augmentation, last)
        expected = torch.zeros(1, 3, size, size)
        expected[..., : size - padding, : size - padding] = 1
        assert torch.equal(cropped, expected)


@pytest.mark.parametrize("size", [0, -3])
def test_no_size(size, mine):
    for dataset in ("digits", str(mine)):
        with pytest.raises(UserError, match=f"{size}×{size}"):
            data.load(dataset, image_size=size)


def test_the_usual_sizes(mine):
    assert [data.usual_size(name) for name in ("mnist", "imagenet", str(mine))] == [32, 224, 32]
