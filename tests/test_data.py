"""The datasets in the formats of their files, and what an epoch yields."""

import random
import struct
import urllib.request
from dataclasses import replace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from conftest import REPOSITORY
from robust_stitching import data
from robust_stitching.basics.errors import UserError
from robust_stitching.data import config
from robust_stitching.data.augment import augmented
from robust_stitching.data.vision import torchvision
from torchvision_files import FORMATS, make

# Files as torchvision reads them


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DATASET_ROOT_PYTORCH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize("name", FORMATS)
def test_files_of_torchvision(name, root, monkeypatch):
    made = make(name, root, monkeypatch)
    for split, (images, labels) in zip(data.load(name), made.values(), strict=True):
        assert split.images.shape == (len(images), images.shape[1], 32, 32)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.labels.tolist() == labels.tolist()
        assert len(split.classes) == FORMATS[name][2]
        if images.shape[-1] == 32:
            assert np.array_equal(split.images, images)
        else:
            for ours, image in zip(split.images, images, strict=True):
                pil = Image.fromarray(image[0]).resize((32, 32), Image.Resampling.BILINEAR)
                assert np.abs(ours[0].numpy().astype(int) - np.asarray(pil)).max() <= 1


@pytest.mark.parametrize("name", FORMATS)
def test_only_the_training_split_is_augmented(name, root, monkeypatch):
    make(name, root, monkeypatch)
    train, test = data.load(name)
    assert train.augmentation is not None
    assert test.augmentation is None
    assert (train.name, test.name) == (data.SOURCES[name].name,) * 2


def test_digits_are_those_of_scikit_learn(digits):
    train, test = digits
    whole = load_digits()
    assert (len(train), len(test)) == (1437, 360)
    assert torch.cat([train.labels, test.labels]).tolist() == whole.target.tolist()
    pixels = np.rint(whole.images * 255 / 16).astype(np.uint8)
    for ours, image in zip(torch.cat([train.images, test.images])[::50], pixels[::50], strict=True):
        pil = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
        assert np.abs(ours[0].numpy().astype(int) - np.asarray(pil)).max() <= 1
    assert train.channels == 1
    assert train.classes == tuple("0123456789")


def test_digits_need_no_root(monkeypatch, tmp_path, no_network):
    monkeypatch.setenv("DATASET_ROOT_PYTORCH", str(tmp_path / "nowhere"))
    assert len(data.load("digits")[0]) == 1437


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_statistics_are_numpys(name, root, monkeypatch):
    make(name, root, monkeypatch)
    train, _ = data.load(name)
    mean, std = train.statistics()
    values = train.images.numpy() / 255
    assert mean == pytest.approx(values.mean(axis=(0, 2, 3)), abs=1e-12)
    assert std == pytest.approx(values.std(axis=(0, 2, 3)), abs=1e-12)


# Where the files are


@pytest.mark.parametrize("name", FORMATS)
def test_missing_files_without_a_network(name, root, no_network, tree, tmp_path):
    with pytest.raises(UserError) as error:
        data.load(name)
    for told in (name, str(root), str(config.config_file()), "DATASET_ROOT_PYTORCH", "digits"):
        assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert tree(tmp_path) == {}


def test_missing_files_in_an_existing_folder(root, no_network, tree, tmp_path):
    root.mkdir()
    (root / "something").write_text("of mine")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="mnist"):
        data.load("mnist")
    assert tree(tmp_path) == before


DAMAGE = {
    "empty": lambda whole: b"",
    "half a header": lambda whole: whole[:6],
    "header only": lambda whole: whole[:16],
    "truncated": lambda whole: whole[:-100],
    "too long": lambda whole: whole + b"more",
    "a page of text": lambda whole: b"<html>not found</html>",
    "another type of values": lambda whole: b"\0\0\x09\x03" + whole[4:],
    "an unknown type of values": lambda whole: b"\0\0\x0a\x03" + whole[4:],
    "fewer images than labels": lambda whole: (
        whole[:4] + struct.pack(">I", 10) + whole[8 : 16 + 10 * 784]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_idx_files(damage, root, monkeypatch, no_network, tree):
    make("mnist", root, monkeypatch)
    file = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    before = tree(root)
    with pytest.raises(UserError) as error:
        data.load("mnist")
    assert "mnist" in str(error.value)
    assert str(root) in str(error.value)
    assert " ()" not in str(error.value)
    assert tree(root) == before


def test_a_wrong_checksum_is_not_read(root, monkeypatch, no_network):
    make("cifar10", root, monkeypatch)
    file = root / "cifar-10-batches-py" / "data_batch_2"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        data.load("cifar10")


def test_the_config_file_as_users_have_it(tmp_path, monkeypatch):
    file = tmp_path / "default.env"
    file.write_text("[dataset_root]\npytorch = '/data/pytorch' # torchvision\nceleba = 'faces'\n")
    monkeypatch.setenv("ROBUST_STITCHING_CONFIG", str(file))
    for kind in ("PYTORCH", "CELEBA", "IMAGENET"):
        monkeypatch.delenv(f"DATASET_ROOT_{kind}", raising=False)
    assert str(config.dataset_root("pytorch")) == "/data/pytorch"
    assert config.dataset_root("celeba") == REPOSITORY / "faces"
    with pytest.raises(UserError, match="imagenet"):
        config.dataset_root("imagenet")
    for kind in ("pytorch", "celeba", "imagenet"):
        monkeypatch.setenv(f"DATASET_ROOT_{kind.upper()}", f"/elsewhere/{kind}")
        assert str(config.dataset_root(kind)) == f"/elsewhere/{kind}"


@pytest.mark.parametrize(
    "given, meant", [("digitz", "digits"), ("cifar-10", "cifar10"), ("fashon", "fashion")]
)
def test_an_unknown_name_brings_the_closest(given, meant):
    with pytest.raises(UserError, match=f"'{given}'; did you mean .*{meant}"):
        data.load(given)


# An epoch


def numbered(n, augmentation=None):
    """A split whose every image is told by its first pixel."""
    images = torch.randint(0, 256, (n, 1, 32, 32), dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(n)
    return data.Split("Numbered", images, torch.arange(n), tuple("0123456789"), augmentation)


AUGMENTATIONS = {"none": None, **{name: data.SOURCES[name].augmentation for name in data.SOURCES}}
augmentations = pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS)


def test_batches_keep_order_and_lie_in_0_to_1():
    split = numbered(50)
    batches = list(split.batches(16))
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 2]
    assert len(batches) == split.batches_per_epoch(16)
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(50))
    images = torch.cat([images for images, _ in batches])
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images, split.images.numpy() / 255, atol=1e-7)


@augmentations
def test_an_epoch_has_every_image_once(augmentation):
    batches = list(numbered(50, augmentation).epoch(16, seed=0, epoch=0))
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(50))
    assert all(images.min() >= 0 and images.max() <= 1 for images, _ in batches)


def test_an_epoch_shuffles_images_with_their_labels():
    images, labels = next(numbered(50).epoch(50, seed=0, epoch=0))
    assert labels.tolist() != list(range(50))
    assert (images[:, 0, 0, 0] * 255).round().long().tolist() == labels.tolist()


def test_every_batch_is_augmented_otherwise():
    split = numbered(48, data.SOURCES["cifar10"].augmentation)
    alike = replace(split, images=split.images[:1].expand(48, -1, -1, -1))
    seen = torch.stack([images for images, _ in alike.epoch(16, seed=0, epoch=0)])
    assert len({image.numpy().tobytes() for image in seen.flatten(0, 1)}) > 30
    assert not torch.equal(seen[0], seen[1])


@augmentations
@pytest.mark.parametrize("skip", [0, 1, 3, 4])
def test_an_epoch_can_be_entered_again(augmentation, skip):
    split = numbered(50, augmentation)
    whole = list(split.epoch(16, seed=3, epoch=2))
    torch.rand(7)
    tail = list(split.epoch(16, seed=3, epoch=2, skip=skip))
    assert len(tail) == 4 - skip
    for (x, y), (again, label) in zip(whole[skip:], tail, strict=True):
        assert torch.equal(x, again)
        assert torch.equal(y, label)


@pytest.mark.parametrize("other", [(0, 1), (1, 0), (1, 1), (2**32, 0), (2**63 - 1, 0)])
def test_other_seeds_and_epochs_differ(other):
    split = numbered(50)

    def order(seed, epoch):
        return next(split.epoch(50, seed=seed, epoch=epoch))[1].tolist()

    seen = [order(0, 0), order(0, 1)] if other != (0, 1) else [order(0, 0)]
    assert order(*other) not in seen


def test_an_epoch_leaves_the_global_generators_alone():
    split = numbered(50, data.SOURCES["mnist"].augmentation)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    list(split.epoch(16, seed=0, epoch=0))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert before[2] == random.getstate()


# Augmentation, of given draws: flip, crop (y, x), angle, scale, shear


def draws(n, **given):
    columns = ["flip", "y", "x", "angle", "scale", "shear"]
    table = torch.full((n, len(columns)), 0.5)
    for name, values in given.items():
        table[:, columns.index(name)] = torch.as_tensor(values)
    return table


def test_crop_is_a_window_of_the_padded_image():
    images = numbered(81).images
    places = [(y, x) for y in range(9) for x in range(9)]
    y, x = (torch.tensor(values) for values in zip(*places, strict=True))
    given = draws(81, y=(y + 0.5) / 9, x=(x + 0.5) / 9)
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (4, 4), (4, 4)])
    cropped = augmented(images, data.SOURCES["svhn"].augmentation, given)
    for i, (top, left) in enumerate(places):
        reference = padded[i, :, top : top + 32, left : left + 32] / 255
        np.testing.assert_allclose(cropped[i], reference, atol=1e-7)


def test_crop_takes_the_largest_draw():
    largest = 1 - 2**-24
    images = numbered(1).images
    cropped = augmented(images, data.SOURCES["svhn"].augmentation, draws(1, y=largest, x=largest))
    np.testing.assert_allclose(cropped[0, 0, :28, :28], images[0, 0, 4:, 4:] / 255, atol=1e-7)
    assert cropped[0, 0, 28:].count_nonzero() == 0


@pytest.mark.parametrize("name", data.SOURCES)
def test_flips_are_for_things_not_for_digits(name):
    images = numbered(4).images
    flipped = augmented(
        images, data.SOURCES[name].augmentation, draws(4, flip=[0.0, 0.49, 0.51, 0.99])
    )
    reference = images.numpy() / 255
    if name not in ("digits", "mnist", "svhn"):
        reference[:2] = reference[:2, :, :, ::-1]
    np.testing.assert_allclose(flipped, reference, atol=1e-4)


@pytest.mark.parametrize(
    "given", [{"angle": 0.9}, {"scale": 0.1}, {"scale": 1.0}, {"shear": 0.2}, None], ids=str
)
def test_affine_is_torchvisions(given):
    if given is None:
        given = {"angle": torch.rand(8), "scale": torch.rand(8), "shear": torch.rand(8)}
    images = numbered(8).images
    table = draws(8, **given)
    warped = augmented(images, data.SOURCES["digits"].augmentation, table)
    functional = torchvision().transforms.functional
    for i, (angle, scale, shear) in enumerate(table[:, 3:].tolist()):
        reference = functional.affine(
            images[i].float() / 255,
            angle=(2 * angle - 1) * 5,
            translate=[0, 0],
            scale=0.9 + 0.2 * scale,
            shear=[-(2 * shear - 1) * 5, 0],  # theirs counts the other way round
            interpolation=functional.InterpolationMode.BILINEAR,
        )
        np.testing.assert_allclose(warped[i], reference, atol=1e-4)


# Folders


def write_folder(folder, colour=True, size=(32, 32), parts=("train", "test"), classes="ab"):
    """Three images of one colour in each class; returns the colours in their order."""
    rng = np.random.default_rng(1)
    colours = []
    for part in parts:
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for i in range(3):
                rgb = tuple(map(int, rng.integers(0, 256, 3)))
                value, mode = (rgb, "RGB") if colour else (rgb[0], "L")
                Image.new(mode, size, value).save(folder / part / name / f"{i}.png")
                colours.append(rgb if colour else rgb[:1])
    return colours


@pytest.mark.parametrize("second", ["test", "val"])
@pytest.mark.parametrize("size", [(32, 32), (50, 30), (20, 70)])
@pytest.mark.parametrize("colour", [True, False])
def test_a_folder_of_images(tmp_path, colour, size, second):
    colours = write_folder(tmp_path / "mine", colour, size, ("train", second))
    train, test = data.load(str(tmp_path / "mine"))
    assert train.images.shape == test.images.shape == (6, 3 if colour else 1, 32, 32)
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.classes == ("a", "b")
    assert train.name == "mine"
    images = torch.cat([train.images, test.images])
    assert images.amax(dim=(2, 3)).tolist() == list(map(list, colours))
    assert torch.equal(images.amin(dim=(2, 3)), images.amax(dim=(2, 3)))


def test_a_wide_image_keeps_its_middle(tmp_path):
    write_folder(tmp_path)
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 200
    Image.fromarray(wide).save(tmp_path / "train" / "a" / "0.png")
    assert (data.load(str(tmp_path))[0].images[0] == 200).all()


@pytest.mark.parametrize(
    "spoil, told",
    [
        (lambda folder: (folder / "train/a/1.png").write_bytes(b"no image"), "train/a/1.png"),
        (lambda folder: [p.unlink() for p in (folder / "train/a").iterdir()], "a"),
        (lambda folder: (folder / "test/a").rename(folder / "test/c"), "a, c"),
        (lambda folder: (folder / "test").rename(folder / "tests"), "test/ (or val/)"),
        (lambda folder: (folder / "train").rename(folder / "training"), "train/"),
        (lambda folder: folder.rename(folder.with_name("gone")), "does not exist"),
    ],
    ids=["broken image", "empty class", "other classes", "no test", "no train", "no folder"],
)
def test_a_folder_built_otherwise(tmp_path, spoil, told):
    folder = tmp_path / "mine"
    write_folder(folder)
    spoil(folder)
    with pytest.raises(UserError) as error:
        data.load(str(folder))
    assert str(folder) in str(error.value)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp"])
def test_a_truncated_image_is_named(tmp_path, kind):
    write_folder(tmp_path)
    image = tmp_path / "train" / "a" / f"x.{kind}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)
    whole = image.read_bytes()
    for length in (0, 10, 40, len(whole) // 2, len(whole) - 30):
        image.write_bytes(whole[:length])
        with pytest.raises(UserError, match=image.name):
            data.load(str(tmp_path))
