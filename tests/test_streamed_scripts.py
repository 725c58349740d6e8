"""The scripts on CelebA and ImageNet, as their users run them, on small files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import REPOSITORY
from robust_stitching import checkpoints, data
from robust_stitching.evaluation import predict
from robust_stitching.evaluation.kept import adversarial_images
from streamed_files import ATTRIBUTES, WNIDS, write_celeba, write_imagenet


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def home(tmp_path_factory, patch):
    """A folder with both datasets, which the environment names."""
    folder = tmp_path_factory.mktemp("home")
    write_celeba(folder / "faces", patch, {0: 160, 1: 2, 2: 40})
    write_imagenet(folder / "pictures", patch)
    return folder


@pytest.fixture
def trained(home, call_script):
    """The file of a network, trained once in this module."""

    def get(model, dataset, name, *flags):
        path = home / "nets" / model / name / "in0-gn0" / "model.pt"
        if not path.exists():
            where = ("-o", home / "nets", "-m", model, "-d", dataset)
            done = call_script("train.py", *where, *flags)
            assert done.status == 0, done.err
            assert str(path) in done.out
        return path

    return get


@pytest.fixture
def faces(trained):
    return trained("tiny10", "celeba", "CelebA", "-e", 12, "-b", 16)


@pytest.fixture
def pictures(trained):
    return trained("tiny10", "imagenet", "ImageNet", "-e", 1, "-b", 8)


def test_a_network_of_faces(faces, call_script, tmp_path):
    """Attributes that follow from the colour are learned; each has its accuracy."""
    done = call_script("eval_net.py", faces, "--json", tmp_path / "found.json")
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["dataset"], found["n_images"]) == ("CelebA", 40)
    assert list(found["accuracy_per_attribute"]) == list(ATTRIBUTES)
    _, test = data.load("celeba")
    logits = predict(checkpoints.load(faces).network, test).double().numpy()
    truth = test.labels.numpy()
    right = (logits > 0) == (truth == 1)
    assert list(found["accuracy_per_attribute"].values()) == pytest.approx(right.mean(axis=0))
    assert found["accuracy"] == pytest.approx(right.mean())
    signs = np.where(truth == 1, logits, -logits)
    assert found["loss"] == pytest.approx(np.log1p(np.exp(-signs)).mean())
    common = np.maximum(truth.mean(axis=0), 1 - truth.mean(axis=0)).mean()
    assert found["accuracy"] > common + 0.05
    for name, share in found["accuracy_per_attribute"].items():
        (line,) = [line for line in done.out.splitlines() if line.split()[:1] == [name]]
        assert line.split()[1] == f"{share:.2%}"


@pytest.mark.parametrize("how", ["--madry", "--robust"])
def test_faces_under_attack_in_training(how, home, call_script, tmp_path):
    flags = "-m lenet -d celeba -e 1 -b 32 --perturb-steps 2"
    done = call_script("train.py", *flags.split(), how, "-o", tmp_path)
    assert done.status == 0, done.err
    assert "under attack" in done.out + done.err
    (path,) = tmp_path.glob("lenet/CelebA/*/model.pt")
    assert "eps0.03137" in path.parent.name


def test_faces_under_attack(faces, call_script, tmp_path):
    flags = ["--steps", 3, "--n-images", 20, "--json", tmp_path / "found.json"]
    done = call_script("eval_net_robustness.py", faces, *flags)
    assert done.status == 0, done.err
    assert "20 test images of CelebA with 40 attributes" in done.out
    assert "APGD-DLR compares classes" in done.out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["epsilon"] == pytest.approx(8 / 255)
    assert list(found["robust"]) == ["FGSM", "PGD-3", "APGD-CE", "Square", "worst case"]
    right = np.array([image["right"] for image in found["images"]])
    assert found["accuracy"] == pytest.approx(right.mean())
    fooled = ~right
    for image, row in zip(found["images"], fooled, strict=True):
        for steps in image["fooled_at_step"].values():
            row |= np.array(steps) >= 0
    assert found["robust"]["worst case"] == pytest.approx(1 - fooled.mean())
    assert found["robust"]["worst case"] < found["accuracy"]


def test_autoattack_has_nothing_to_say_of_faces(faces, call_script):
    done = call_script("eval_net_robustness.py", faces, "--tier", "standard")
    assert done.status == 2
    assert "attributes" in done.err and "--tier default" in done.err


def test_a_stitch_of_faces(faces, trained, call_script, home):
    front = trained("lenet", "celeba", "CelebA", "-e", 1)
    flags = "relu2 relu5 celeba -e 1 -b 32 --robust-images 10 --run-name faces"
    done = call_script("find_transform.py", front, faces, *flags.split(), "-o", home / "results")
    assert done.status == 0, done.err
    (path,) = (home / "results" / "faces" / "json").iterdir()
    found = json.loads(path.read_text())
    assert found["data"]["name"] == "CelebA"
    assert found["end"]["agreement_with_end"] == 1
    assert sum(found["stitched"]["overlap_with_end"].values()) == pytest.approx(1)
    assert set(found["stitched"]["robust"]) == {"FGSM", "PGD-20", "APGD-CE", "worst case"}
    (frank,) = (home / "results" / "faces" / "frank_model").iterdir()
    assert call_script("eval_net.py", frank).status == 0


def test_a_network_of_pictures(pictures, call_script, tmp_path):
    done = call_script("eval_net.py", pictures, "--json", tmp_path / "found.json")
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["dataset"], found["n_images"]) == ("ImageNet", 12)
    assert "accuracy_per_attribute" not in found
    loaded = checkpoints.load(pictures)
    assert loaded.network.input_shape == (3, 224, 224)
    assert loaded.classes == len(WNIDS)


def test_pictures_under_attack(pictures, call_script, tmp_path):
    flags = ["--tier", "quick", "--steps", 2, "--n-images", 6, "--keep", tmp_path / "kept.pt"]
    done = call_script("eval_net_robustness.py", pictures, *flags)
    assert done.status == 0, done.err
    assert "radius 0.01569" in done.out  # 4/255
    again = call_script("eval_net_robustness.py", pictures, *flags)
    assert again.out == done.out
    ((places, images),) = adversarial_images(tmp_path / "kept.pt")
    assert images.shape == (len(places), 3, 224, 224)


def test_a_stitch_of_pictures(pictures, call_script, home):
    flags = "relu6 relu6 imagenet -e 1 -b 8 --init eye --no-robustness --run-name wide"
    done = call_script(
        "find_transform.py", pictures, pictures, *flags.split(), "-o", home / "results"
    )
    assert done.status == 0, done.err
    (frank,) = (home / "results" / "wide" / "frank_model").iterdir()
    assert checkpoints.load(frank).network.input_shape == (3, 224, 224)
    assert call_script("eval_net.py", frank).status == 0


@pytest.mark.parametrize("network, dataset", [("faces", "imagenet"), ("pictures", "celeba")])
def test_images_of_another_size_are_scaled_but_classes_stay(
    network, dataset, request, call_script, home
):
    path = request.getfixturevalue(network)
    classes = checkpoints.load(path).classes
    flags = f"relu3 relu3 {dataset} --run-name never".split()
    for command in (
        ("eval_net.py", path, "-d", dataset),
        ("find_transform.py", path, path, *flags, "-o", home / "results"),
    ):
        done = call_script(*command)
        assert done.status == 2
        assert "note: " in done.err and "32×32" in done.err and "224×224" in done.err
        assert f"tells {classes} classes apart" in done.err
    assert not (home / "results" / "never").exists()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_an_interruption_of_a_training_with_workers(tmp_path):
    """Ctrl-C goes to the whole group: the training keeps its state and says how to go on, its
    workers say nothing and are gone."""
    root = write_imagenet(tmp_path / "pictures", train=2, val=1)
    for part in root.glob("*/*"):
        (one, *_) = part.iterdir()
        for i in range(170):
            shutil.copy(one, part / f"more_{i}.JPEG")
    command = "-m tiny10 -d imagenet -e 1 -b 8 -s 3 -o nets"
    process = subprocess.Popen(
        [sys.executable, REPOSITORY / "src" / "bin" / "train.py", *command.split()],
        cwd=tmp_path,
        env=os.environ
        | {"DATASET_ROOT_IMAGENET": str(root), "DATASET_WORKERS": "2", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    folder = tmp_path / "nets" / "tiny10" / "ImageNet" / "in0-gn0"
    deadline = time.monotonic() + 60
    while not (folder / "3.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)  # waits for whoever holds the pipes: workers, too
    assert process.returncode == 130
    assert err.strip().splitlines()[-1].endswith("--resume goes on from here.")
    assert "Traceback" not in err and "worker" not in err
    assert (folder / "resume.pt").exists()
