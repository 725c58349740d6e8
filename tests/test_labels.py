"""Labels that no class of a dataset has: one sentence where the files are read."""

import pytest
import torch

from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.data.vision import torchvision
from streamed_files import write_celeba
from torchvision_files import FORMATS, make


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DATASET_ROOT_PYTORCH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def spoil(monkeypatch, name, part, label):
    """The small dataset `name` with one label replaced, in its files."""
    write, shape, classes = FORMATS[name]

    def written(root, made, patch):
        made[part][1][3] = label
        write(root, made, patch)

    monkeypatch.setitem(FORMATS, name, (written, shape, classes))


OUTSIDE = [
    *[("mnist", 10), ("mnist", 26), ("mnist", 255), ("fashion", 46)],
    *[("cifar10", 10), ("cifar10", -1), ("cifar100", 100), ("cifar100", -5), ("svhn", 11)],
]


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name, label", OUTSIDE)
def test_labels_outside_the_classes(name, label, part, root, monkeypatch):
    spoil(monkeypatch, name, part, label)
    make(name, root, monkeypatch)
    with pytest.raises(UserError) as error:
        data.load(name)
    count = FORMATS[name][2]
    for told in (name, str(root), str(label), f"{count} classes are 0 to {count - 1}"):
        assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FORMATS)
def test_the_first_and_the_last_class_are_inside(name, root, monkeypatch):
    make(name, root, monkeypatch)
    for split in data.load(name):
        assert (split.labels.min(), split.labels.max()) == (0, FORMATS[name][2] - 1)


def test_emnist_under_the_name_of_mnist(root, monkeypatch, call_script, tmp_path):
    """Its letters are numbered from 1 to 26; every command says the same, and none begins."""
    write, shape, _ = FORMATS["mnist"]
    monkeypatch.setitem(FORMATS, "mnist", (write, shape, 27))
    make("mnist", root, monkeypatch)
    network = models.build("lenet", num_classes=10, in_channels=1)
    checkpoints.save(tmp_path / "net.pt", network, "mnist", {})
    for command in (
        ("train.py", "-d", "mnist", "-e", 1, "-o", tmp_path / "out"),
        ("eval_net.py", tmp_path / "net.pt"),
        ("eval_net_robustness.py", tmp_path / "net.pt"),
        ("compare_nets.py", tmp_path / "net.pt", tmp_path / "net.pt", "mnist"),
    ):
        done = call_script(*command)
        assert done.status == 2
        assert "files of mnist" in done.err and "10 classes are 0 to 9" in done.err
        assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_attributes_that_are_neither_0_nor_1(tmp_path, monkeypatch):
    """The published list has −1 and 1."""
    write_celeba(tmp_path / "faces", monkeypatch)
    assert all(set(split.labels.unique().tolist()) == {0, 1} for split in data.load("celeba"))
    known = torchvision().datasets.CelebA
    made = known.__init__

    def spoilt(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.attr = torch.where(self.attr == 1, 7, self.attr)

    monkeypatch.setattr(known, "__init__", spoilt)
    with pytest.raises(UserError, match=r"celeba .* labels from 0 to 7, .* attributes"):
        data.load("celeba")


def test_more_labels_than_images_after_a_download(root, monkeypatch):
    """What arrived is looked at like what was there."""
    made = make("mnist", root, monkeypatch)
    (root / "MNIST").rename(root / "later")
    raw = root / "later" / "raw" / "train-labels-idx1-ubyte"
    raw.write_bytes(raw.read_bytes()[:7] + bytes([25]) + bytes(25))
    assert len(made["train"][1]) == 20

    def arrive(make, parts, folder):
        (root / "later").rename(root / "MNIST")

    monkeypatch.setattr("robust_stitching.data.sources.small._download", arrive)
    with pytest.raises(UserError, match="20 images, but 25 labels"):
        data.load("mnist")


def test_a_part_without_images(monkeypatch, tmp_path):
    write_celeba(tmp_path / "faces", monkeypatch, {0: 3, 1: 2})
    with pytest.raises(UserError, match=r"celeba .* have no images in one of the parts"):
        data.load("celeba")
