"""The datasets that are known by name: what their files say, and that one more is one file more."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from conftest import REPOSITORY
from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.data import sources
from robust_stitching.data.source import NATURAL, Files, Images, Missing, Source
from streamed_files import write_imagenet

TOY = '''
"""Noise whose class is its colour."""

from robust_stitching.data.source import Augmentation, Images, Source


def _read(root):
    import torch

    generator = torch.Generator().manual_seed(0)
    parts = []
    for n in (240, 60):
        labels = torch.arange(n) % 3
        images = torch.randint(0, 100, (n, 3, 12, 12), generator=generator)
        images[torch.arange(n), labels] += 150
        parts.append(Images(images.byte(), labels))
    return parts


SOURCES = (
    Source(
        key="toy",
        name="ToyColours",
        read=_read,
        root=None,
        classes=("red", "green", "blue"),
        image_size=28,
        augmentation=Augmentation(flip=True),
        mean=(0.4, 0.4, 0.4),
        std=(0.3, 0.3, 0.3),
        epsilon=0.125,
    ),
)
'''


@pytest.fixture
def with_toy(tmp_path):
    """The commands of a copy of the library that has one file more."""
    shutil.copytree(REPOSITORY / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.pyc"))
    (tmp_path / "src/robust_stitching/data/sources/toy.py").write_text(TOY)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(script, *words):
        done = subprocess.run(
            [sys.executable, tmp_path / "src/bin" / script, *map(str, words)],
            cwd=tmp_path,
            env=environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "1000"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_dataset_is_one_file(with_toy, tmp_path):
    """Listed, trained on, evaluated and attacked by its own size, radius and classes."""
    listed = with_toy("train.py", "--help")
    assert "digits, toy, mnist" in listed
    assert "28 on toy, 224 on imagenet, else 32" in listed
    brief = "-e", 3, "-b", 16, "-lr", 0.05
    with_toy("train.py", "-m", "tiny10", "-d", "toy", *brief, "-o", "out")
    network = tmp_path / "out" / "tiny10" / "ToyColours" / "in0-gn0" / "model.pt"
    kept = torch.load(network, weights_only=True)
    assert (kept["dataset"], kept["classes"]) == ("toy", ["red", "green", "blue"])
    assert kept["architecture"]["image_size"] == 28
    with_toy("eval_net.py", network, "--json", "clean.json")
    clean = json.loads((tmp_path / "clean.json").read_text())
    assert clean["n_images"] == 60 and clean["accuracy"] > 0.9
    attacked = with_toy("eval_net_robustness.py", network, "--tier", "quick", "--n-images", "4")
    assert "0.125" in attacked


def test_names_are_listed_without_torch():
    code = (
        "import sys\n"
        "from robust_stitching.data import SOURCES, in_words, source_of, usual_epsilon\n"
        "assert source_of('FashionMNIST') == 'fashion' and in_words(usual_epsilon)\n"
        "print(*SOURCES)\n"
        "print(*{'torch', 'numpy', 'PIL', 'torchvision', 'sklearn'} & sys.modules.keys())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    told = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    names, heavy = told.split("\n")[:2]
    assert names == "digits mnist fashion cifar10 cifar100 svhn celeba imagenet"
    assert heavy == ""


def test_what_waits_for_torch_is_there():
    assert all(getattr(data, name).__name__ == name for name in data.__all__ if name != "SOURCES")
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        data.laod  # noqa: B018


def a_source(**facts):
    known = {
        "key": "toy",
        "name": "Toy",
        "read": lambda root: [Images(torch.zeros(2, 1, 8, 8).byte(), torch.tensor([0, 1]))] * 2,
        "root": None,
        "classes": ("a", "b"),
        "image_size": 8,
        "augmentation": NATURAL,
        "mean": (0.5,),
        "std": (0.5,),
        "epsilon": 0.1,
    }
    return Source(**known | facts)


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Let files lie beside those of the known datasets, and look for all of them."""
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])

    def look(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        return sources._collected()

    yield look
    for name in [name for name in sys.modules if name.startswith(f"{sources.__name__}.toy")]:
        del sys.modules[name]


@pytest.mark.parametrize("key, name", [("mnist", "Mine"), ("mine", "MNIST"), ("svhn", "CIFAR10")])
def test_two_of_a_name_are_refused(key, name, beside):
    other = TOY.replace('"toy"', f'"{key}"').replace('"ToyColours"', f'"{name}"')
    taken = {key, name.lower()} - {"mine"}
    with pytest.raises(ValueError, match=" and ".join(sorted(taken))):
        beside(toy=other)


def test_a_file_may_hold_several(beside):
    two = TOY + "SOURCES += (SOURCES[0].__class__(**vars(SOURCES[0]) | {'key': 'b', 'name': 'B'}),)"
    assert list(beside(toy_and_more=two))[:3] == ["digits", "toy", "b"]


# Parts that are read, by toys of every kind


@pytest.fixture
def known(monkeypatch, tmp_path):
    def know(**facts):
        source = a_source(**facts)
        monkeypatch.setitem(data.SOURCES, source.key, source)
        monkeypatch.setenv("DATASET_ROOT_TOYS", str(tmp_path / "toys"))
        return tmp_path / "toys"

    return know


def test_its_folder_is_the_one_that_is_set(known):
    asked = []

    def read(root):
        asked.append(root)
        return a_source().read(root)

    root = known(read=read, root="toys")
    train, test = data.load("TOY")
    assert asked == [root]
    assert (train.name, train.source, train.classes) == ("Toy", "toy", ("a", "b"))
    assert train.augmentation == NATURAL and test.augmentation is None


def test_its_name_in_a_path_says_what_a_published_network_is_of(known, tmp_path):
    known(image_size=32)
    network = models.build("lenet", num_classes=2, in_channels=1)
    bare = {k: v for k, v in network.state_dict().items() if not k.startswith("normalize")}
    path = tmp_path / "lenet" / "Toy" / "best.pth"
    path.parent.mkdir(parents=True)
    torch.save(bare, path)
    loaded = checkpoints.load(path)
    assert (loaded.dataset, loaded.class_names) == ("toy", ("a", "b"))
    assert "mean 0.5 and std 0.5 were taken, those of toy" in loaded.notes[0]


@pytest.mark.parametrize("downloaded", [True, False])
def test_missing_files_are_told_by_load(downloaded, known):
    def read(root):
        raise Missing(f"has no blocks in {root}; carve them")

    root = known(read=read, root="toys", downloaded=downloaded)
    with pytest.raises(UserError) as error:
        data.load("toy")
    told = str(error.value)
    assert told.startswith(f"the dataset toy has no blocks in {root}; carve them, or name the fold")
    assert "DATASET_ROOT_TOYS" in told and told.endswith("the dataset digits needs no files.")
    assert ("downloaded unasked" in told) != downloaded


def test_labels_of_no_class(known):
    wrong = [Images(torch.zeros(2, 1, 8, 8).byte(), torch.tensor([0, 2]))] * 2
    known(read=lambda root: wrong, root="toys")
    with pytest.raises(UserError, match="labels from 0 to 2, but its 2 classes are 0 to 1"):
        data.load("toy")
    known(read=lambda root: wrong)  # no files, so the mistake is the reader's
    with pytest.raises(ValueError, match=r"toy is read wrongly: .* labels from 0 to 2"):
        data.load("toy")


def test_files_are_streamed(known, tmp_path, monkeypatch):
    folder = write_imagenet(tmp_path / "pictures", monkeypatch)
    paths = sorted((folder / "val").glob("*/*"))
    labels = torch.arange(len(paths)) % 2
    part = Files(np.array([bytes(p) for p in paths]), labels, ("even", "odd"), ("a note",))
    known(read=lambda root: [part, part], classes=None, image_size=10)
    for split in data.load("toy"):
        assert isinstance(split, data.StreamedSplit)
        assert (split.classes, split.notes, split.image_size) == (("even", "odd"), ("a note",), 10)
        assert next(split.batches(2))[0].shape == (2, 3, 10, 10)
