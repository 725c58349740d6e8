"""CelebA and ImageNet in the formats of their files, and what is streamed from them."""

import hashlib
import os
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.seeds import generator_for
from robust_stitching.data import config, pictures, streamed
from robust_stitching.data.pictures import Square, random_window
from robust_stitching.data.source import NATURAL
from robust_stitching.data.vision import torchvision
from robust_stitching.evaluation import evaluate
from robust_stitching.plans import Optimisation
from robust_stitching.training import Trainer, standard
from streamed_files import ATTRIBUTES, WNIDS, write_celeba, write_imagenet


@pytest.fixture
def celeba(tmp_path, monkeypatch):
    """Forty faces: 24 to train on, 6 to validate, 10 to test; returns what was written."""
    return write_celeba(tmp_path / "faces", monkeypatch)


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    return write_imagenet(tmp_path / "pictures", monkeypatch)


def pixels(split):
    """All images of a split as bytes."""
    images = torch.cat([images for images, _ in split.batches(7)])
    return (images * 255).round().byte()


# Files


def test_celeba_as_torchvision_reads_it(celeba):
    train, test = data.load("celeba")
    assert (len(train), len(test)) == (24, 10)
    assert (train.name, train.channels, train.image_size) == ("CelebA", 3, 32)
    assert train.classes == ATTRIBUTES and len(train.classes) == 40
    assert train.attributes and test.attributes
    assert train.labels.dtype == torch.int64
    assert torch.equal(train.labels, celeba.attributes[:24])
    assert torch.equal(test.labels, celeba.attributes[30:])
    for ours, rgb in zip(pixels(test), celeba.colours[30:], strict=True):
        assert (ours.float().mean(dim=(1, 2)) - torch.tensor(rgb)).abs().max() <= 3


def test_a_face_keeps_its_middle(celeba):
    """178×218 pixels are scaled to 32×39, of which the middle 32 rows stay, as torchvision's
    transforms have it."""
    noise = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    path = celeba.folder / "img_align_celeba" / "000031.jpg"
    Image.fromarray(noise).save(path, quality=95)
    functional = torchvision().transforms
    expected = functional.Compose([functional.Resize(32), functional.CenterCrop(32)])(
        Image.open(path)
    )
    ours = pixels(data.load("celeba")[1].between(0, 1))[0].permute(1, 2, 0)
    assert np.array_equal(ours, np.asarray(expected))


def test_imagenet_as_torchvision_reads_it(imagenet):
    train, test = data.load("imagenet")
    assert (train.name, train.channels, train.image_size) == ("ImageNet", 3, 224)
    assert train.classes == test.classes == WNIDS
    assert not train.attributes
    functional = torchvision().transforms
    transform = functional.Compose([functional.Resize(256), functional.CenterCrop(224)])
    for part, split in (("train", train), ("val", test)):
        known = torchvision().datasets.ImageFolder(str(imagenet / part), transform)
        assert split.labels.tolist() == known.targets
        for ours, (expected, _) in zip(pixels(split), known, strict=True):
            assert np.array_equal(ours.permute(1, 2, 0), np.asarray(expected))


def test_what_is_known_of_them():
    assert data.usual_epsilon("celeba") == pytest.approx(8 / 255)
    assert data.usual_epsilon("imagenet") == pytest.approx(4 / 255)
    assert data.SOURCES["imagenet"].mean == (0.485, 0.456, 0.406)
    assert data.SOURCES["imagenet"].std == (0.229, 0.224, 0.225)
    assert [data.source_of(name) for name in ("CelebA", "ImageNet")] == ["celeba", "imagenet"]
    assert data.SOURCES["celeba"].image_size == 32


@pytest.fixture
def nothing_is_fetched(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something asked for a download")

    monkeypatch.setattr(torchvision().datasets.CelebA, "download", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize("name", ["celeba", "imagenet"])
@pytest.mark.parametrize("exists", [True, False])
def test_missing_files(name, exists, tmp_path, monkeypatch, nothing_is_fetched):
    root = tmp_path / "nowhere"
    monkeypatch.setenv(f"DATASET_ROOT_{name.upper()}", str(root))
    if exists:
        root.mkdir()
    with pytest.raises(UserError) as error:
        data.load(name)
    told = (name, str(root), str(config.config_file()), f"DATASET_ROOT_{name.upper()}", "digits")
    assert all(word in str(error.value) for word in told)
    assert "\n" not in str(error.value)
    assert root.exists() == exists


@pytest.mark.parametrize(
    "spoil, told",
    [
        (lambda at: (at / "identity_CelebA.txt").unlink(), "misses identity_CelebA.txt"),
        (lambda at: (at / "img_align_celeba").rename(at / "img"), "misses img_align_celeba"),
        (
            lambda at: (at / "list_attr_celeba.txt").write_text("1\nYoung\n000001.jpg 1\n"),
            "not the published ones",
        ),
    ],
)
def test_incomplete_faces(celeba, spoil, told, nothing_is_fetched):
    spoil(celeba.folder)
    with pytest.raises(UserError, match=told) as error:
        data.load("celeba")
    assert str(celeba.folder) in str(error.value)


def test_lists_that_are_broken(celeba, monkeypatch):
    """With the published checksums this cannot be; whoever replaced them is told all the same."""
    file = celeba.folder / "list_bbox_celeba.txt"
    file.write_text("one line")
    sums = [
        (code, hashlib.md5(file.read_bytes()).hexdigest() if name == file.name else md5, name)
        for code, md5, name in torchvision().datasets.CelebA.file_list
    ]
    monkeypatch.setattr(torchvision().datasets.CelebA, "file_list", sums)
    with pytest.raises(UserError, match="cannot be read"):
        data.load("celeba")


@pytest.mark.parametrize(
    "spoil, told",
    [
        (lambda root: (root / "val").rename(root / "validation"), "train/ and val/"),
        (lambda root: [p.rename(root / "val" / p.name) for p in root.glob("val/*/*")], "per class"),
        (lambda root: (root / "val" / WNIDS[0]).rename(root / "val" / "other"), WNIDS[0]),
    ],
    ids=["no val", "flat val", "other classes"],
)
def test_folders_built_otherwise(imagenet, spoil, told):
    spoil(imagenet)
    with pytest.raises(UserError, match=told) as error:
        data.load("imagenet")
    assert str(imagenet) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_named(imagenet, workers, monkeypatch):
    monkeypatch.setattr(streamed, "WORTH_WORKERS", 1)
    train, _ = (replace(split, workers=workers) for split in data.load("imagenet"))
    path = next((imagenet / "train" / WNIDS[1]).iterdir())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError) as error:
        list(train.epoch(4, seed=0, epoch=0))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(UserError, match=path.name):
        list(train.batches(4))


# Windows


@pytest.mark.parametrize("height, width", [(375, 500), (500, 375), (30, 40), (20, 500), (500, 20)])
def test_windows_are_those_of_torchvision(height, width):
    picture = Image.new("RGB", (width, height))
    of = torchvision().transforms.RandomResizedCrop.get_params
    for seed in range(60):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = of(picture, [0.08, 1.0], [3 / 4, 4 / 3])
        generator = torch.Generator().manual_seed(seed)
        assert random_window(height, width, (0.08, 1.0), generator) == expected


def test_a_window_is_scaled_to_the_square():
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    picture, generator = Image.fromarray(noise), torch.Generator().manual_seed(3)
    top, left, height, width = random_window(90, 120, (0.08, 1.0), generator)
    box = (left, top, left + width, top + height)
    expected = picture.crop(box).resize((64, 64), Image.Resampling.BILINEAR)
    generator.manual_seed(3)
    found = Square(64, 70).window(picture, (0.08, 1.0), generator)
    assert np.array_equal(np.asarray(found), np.asarray(expected))


# Epochs


def seen(split, batch_size=5, **which):
    batches = list(split.epoch(batch_size, **({"seed": 0, "epoch": 0} | which)))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@pytest.fixture(params=["celeba", "imagenet"])
def train(request):
    request.getfixturevalue(request.param)
    return data.load(request.param)[0]


def test_an_epoch_has_every_image_once(train):
    plain = replace(train, augmentation=None)
    images, labels = seen(plain)
    assert images.min() >= 0 and images.max() <= 1
    assert images.dtype == torch.float32

    def sorted_bytes(images, labels):
        rows = zip((images * 255).round().byte(), labels, strict=True)
        return sorted((x.numpy().tobytes(), y.tolist()) for x, y in rows)

    inorder = list(plain.batches(5))
    assert sorted_bytes(images, labels) == sorted_bytes(
        torch.cat([x for x, _ in inorder]), torch.cat([y for _, y in inorder])
    )
    assert not torch.equal(labels, train.labels)
    assert len(inorder) == train.batches_per_epoch(5)


def test_workers_change_nothing(train, monkeypatch):
    monkeypatch.setattr(streamed, "WORTH_WORKERS", 1)
    alone = seen(train, seed=1, epoch=2)
    for workers in (1, 2):
        images, labels = seen(replace(train, workers=workers), seed=1, epoch=2)
        assert torch.equal(images, alone[0])
        assert torch.equal(labels, alone[1])


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_other_seeds_and_epochs_differ(train, other):
    assert not torch.equal(seen(train)[0], seen(train, **other)[0])


def test_every_epoch_has_other_windows(imagenet):
    train, _ = data.load("imagenet")
    one = train.take(torch.tensor([0]))
    assert len({seen(one, epoch=e)[0].numpy().tobytes() for e in range(6)}) == 6


def test_half_of_the_windows_are_mirrored(imagenet):
    """A window of the whole area of a square is that square."""
    halves = np.zeros((224, 224, 3), np.uint8)
    halves[:, :112] = 255
    for path in (imagenet / "train").glob("*/*"):
        Image.fromarray(halves).save(path.with_suffix(".png"))
        path.unlink()
    train, _ = data.load("imagenet")
    whole = replace(train, augmentation=replace(train.augmentation, area=(1.0, 1.0)))
    images = torch.cat([seen(whole, epoch=e)[0] for e in range(4)])
    plain = torch.from_numpy(halves).permute(2, 0, 1) / 255
    as_it_is = (images == plain).flatten(1).all(dim=1)
    mirrored = (images == plain.flip(-1)).flatten(1).all(dim=1)
    assert (as_it_is ^ mirrored).all()
    assert 28 < mirrored.sum() < 68  # four standard deviations around 48 of 96


@pytest.mark.parametrize("skip", [0, 1, 3, 5])
def test_what_is_skipped_is_not_read(train, skip, monkeypatch):
    whole = seen(train, seed=3, epoch=1)
    read = []

    def noted(path):
        read.append(path)
        return Image.open(path).convert("RGB")

    monkeypatch.setattr(pictures, "read_rgb", noted)
    rest = list(train.epoch(5, seed=3, epoch=1, skip=skip))
    assert len(rest) == train.batches_per_epoch(5) - skip
    assert len(read) == len(train) - min(5 * skip, len(train))
    if rest:
        assert torch.equal(torch.cat([x for x, _ in rest]), whole[0][5 * skip :])


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_global_generators_alone(train, workers, monkeypatch):
    monkeypatch.setattr(streamed, "WORTH_WORKERS", 1)
    split = replace(train, workers=workers)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    seen(split), list(split.batches(8)), split.statistics()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert before[2] == random.getstate()


def test_the_augmentation_is_that_of_images_in_memory(celeba):
    """CelebA's faces are flipped and cropped as images in memory are, by the same numbers."""
    train, _ = data.load("celeba")
    memory = data.Split("CelebA", pixels(train), train.labels, train.classes, NATURAL)
    for (x, y), (expected, labels) in zip(
        train.epoch(5, seed=2, epoch=1), memory.epoch(5, seed=2, epoch=1), strict=True
    ):
        assert torch.equal(x, expected)
        assert torch.equal(y, labels)


# Parts, numbers, identity


def test_parts(train):
    part = train.between(3, 9)
    assert torch.equal(part.labels, train.labels[3:9])
    assert torch.equal(pixels(part), pixels(train)[3:9])
    some = train.sample(6, seed=4)
    rows = torch.randperm(len(train), generator=generator_for(4))[:6].sort().values
    assert torch.equal(some.labels, train.labels[rows])
    assert torch.equal(pixels(some), pixels(train)[rows])
    assert train.sample(1000) is train
    assert train.to("cpu").device == torch.device("cpu")


def test_statistics_are_numpys(train):
    mean, std = train.statistics()
    values = pixels(train).numpy() / 255
    assert mean == pytest.approx(values.mean(axis=(0, 2, 3)), abs=1e-9)
    assert std == pytest.approx(values.std(axis=(0, 2, 3)), abs=1e-9)


def test_statistics_look_at_so_many_images(train, monkeypatch):
    monkeypatch.setattr(streamed, "STATISTICS_IMAGES", 4)
    mean, _ = train.statistics()
    values = pixels(train.sample(4)).numpy() / 255
    assert mean == pytest.approx(values.mean(axis=(0, 2, 3)), abs=1e-9)


def test_other_data_have_another_identity(imagenet):
    train, test = data.load("imagenet")

    def identity(split):
        return checkpoints.fingerprint(*split.content)

    assert identity(train) == identity(data.load("imagenet")[0])
    assert len({identity(s) for s in (train, test, train.between(1, 5), train.between(2, 6))}) == 4
    before = identity(train)
    path = next((imagenet / "train" / WNIDS[0]).iterdir())
    Image.new("RGB", (300, 300), (9, 9, 9)).save(path)
    assert identity(train) != before


@pytest.mark.parametrize("written, expected", [("0", 0), ("3", 3), (" 2 ", 2)])
def test_workers_as_they_are_set(written, expected, monkeypatch, celeba):
    monkeypatch.setenv("DATASET_WORKERS", written)
    assert data.load("celeba")[0].workers == expected


@pytest.mark.parametrize("written", ["-1", "many", "1.5"])
def test_workers_have_to_be_a_number(written, monkeypatch):
    monkeypatch.setenv("DATASET_WORKERS", written)
    with pytest.raises(UserError, match=f"'{written}' is no number"):
        config.dataset_workers()


def test_workers_by_the_file(tmp_path, monkeypatch):
    file = tmp_path / "default.env"
    file.write_text("[dataset_root]\nworkers = 5\n")
    monkeypatch.delenv("DATASET_WORKERS", raising=False)
    monkeypatch.setenv("ROBUST_STITCHING_CONFIG", str(file))
    assert config.dataset_workers() == 5
    file.write_text("[dataset_root]\n")
    assert 1 <= config.dataset_workers() <= config.MOST_WORKERS


def test_a_worker_that_dies_is_told_in_a_sentence(celeba, monkeypatch):
    """As the system does where shared memory runs out."""
    monkeypatch.setattr(streamed, "WORTH_WORKERS", 1)
    monkeypatch.setattr(
        streamed.Decoder, "__getitem__", lambda self, batch: os.kill(os.getpid(), signal.SIGKILL)
    )
    split = replace(data.load("celeba")[0], workers=2)
    with pytest.raises(UserError, match="set DATASET_WORKERS to fewer than 2"):
        list(split.batches(4))


# Training


def test_a_training_goes_on_bit_for_bit(celeba):
    train, test = data.load("celeba")

    def trainer():
        network = models.build("tiny10", num_classes=40, in_channels=3)
        config = Optimisation(epochs=2, lr=0.05, batch_size=7)
        return Trainer(network, standard, train, config, seed=3)

    whole = trainer()
    kept = {}

    def keep(running):
        if running.iteration == 5:
            kept.update(running.state_dict())
            kept["network"] = {k: v.clone() for k, v in kept["network"].items()}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        whole.run(after_step=keep)
    again = trainer()
    again.load_state_dict(kept)
    again.run()
    straight = trainer()
    straight.run()
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])
    assert evaluate(again.network, test).n_images == 10


@pytest.mark.parametrize("size, name", [(32, "imagenet"), (224, "celeba"), (224, "digits")])
def test_a_network_for_images_of_another_size(size, name, tmp_path, celeba, imagenet):
    network = models.build("tiny10", num_classes=40, in_channels=3, image_size=size)
    checkpoints.save(tmp_path / "model.pt", network, "celeba", {})
    checkpoint = checkpoints.load(tmp_path / "model.pt")
    assert checkpoint.network.input_shape == (3, size, size)
    with pytest.raises(UserError) as error:
        checkpoint.require_images(data.load(name)[1])
    other = data.SOURCES[name].image_size
    for told in (str(tmp_path), f"{size}×{size}", f"{other}×{other}", data.SOURCES[name].name):
        assert told in str(error.value)
