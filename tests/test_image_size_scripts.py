"""train.py chooses the size of images, every other command reads it off the checkpoint."""

import numpy as np
import pytest
from PIL import Image

from left_behind import strict_json
from robust_stitching import checkpoints, data
from robust_stitching.training import Trainer


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder of noise, 64×64 pixels."""
    folder = tmp_path_factory.mktemp("folders") / "mine"
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in "ab":
            (folder / part / name).mkdir(parents=True)
            for i in range(6):
                values = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(values).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    return tmp_path_factory.mktemp("nets")


@pytest.fixture
def trained(nets, mine, call_script):
    """Networks of 64×64 pixels, by their seed, and one of 32×32."""

    def get(seed=0, size=64):
        out = nets / str(size)
        path = out / "tiny10" / "mine" / f"in{seed}-gn0" / "model.pt"
        if not path.exists():
            flags = ("-e", 1, "-b", 6, "-i", seed, "-o", out, "--image-size", size)
            done = call_script("train.py", "-m", "tiny10", "-d", mine, *flags)
            assert done.status == 0, done.err
            assert ("are scaled to 32×32" in done.err) == (size == 32)
        return path

    return get


def test_train_keeps_the_size(trained):
    found = checkpoints.load(trained())
    assert found.network.input_shape == (3, 64, 64)
    assert found.training["plan"]["image_size"] == 64
    assert found.training["notes"] == []
    small = checkpoints.load(trained(size=32))
    assert small.network.input_shape == (3, 32, 32)
    assert small.training["plan"]["image_size"] == 32
    assert "have 64×64 pixels and are scaled to 32×32" in small.training["notes"][0]


def test_train_says_what_it_scales(mine, call_script, tmp_path):
    done = call_script("train.py", "-m", "tiny10", "-d", mine, "-e", 1, "-b", 6, "-o", tmp_path)
    assert done.status == 0
    assert done.err.count("have 64×64 pixels and are scaled to 32×32; --image-size") == 1


def test_every_command_takes_the_size_from_the_checkpoint(trained, mine, call_script, tmp_path):
    one, two = trained(), trained(1)
    few = ("-e", 1, "-b", 6, "-o", tmp_path, "--robust-images", 4)
    for command in (
        ("eval_net.py", one),
        ("eval_net_robustness.py", one, "--tier", "quick", "--steps", 1, "--n-images", 4),
        ("find_transform.py", one, two, "bn3", "bn3", mine, "--run-name", "a", *few),
        ("find_cross_dataset_transform.py", one, two, "bn3", "bn3", mine, mine,
         "--run-name", "b", *few),
        ("compare_nets.py", one, two, mine, "--run-name", "c", "-o", tmp_path),
        ("layer_info.py", one),
        ("layer_info.py", one, "--image-size", 64),
    ):  # fmt: skip
        done = call_script(*command)
        assert done.status == 0, done.err
        assert "32×32" not in done.err
    (frank,) = (tmp_path / "a" / "frank_model").iterdir()
    assert checkpoints.load(frank).network.input_shape == (3, 64, 64)
    assert call_script("eval_net.py", frank).status == 0


def test_small_networks_are_told_what_they_see(trained, call_script):
    done = call_script("eval_net.py", trained(size=32))
    assert done.status == 0
    assert done.err.count("have 64×64 pixels and are scaled to 32×32") == 1


def test_reports_tell_what_was_scaled(trained, mine, call_script, tmp_path):
    small, out = trained(size=32), ("-o", tmp_path, "--run-name")
    fast = ("-e", 1, "-b", 6, "--no-robustness")
    stitched = call_script("find_transform.py", small, small, "bn3", "bn3", mine, *fast, *out, "s")
    compared = call_script("compare_nets.py", small, small, mine, *out, "c")
    for done, where in ((stitched, "s/json/*.json"), (compared, "c/**/*.json")):
        assert done.status == 0, done.err
        (path,) = tmp_path.glob(where)
        told = "have 64×64 pixels and are scaled to 32×32"
        assert sum(told in note for note in strict_json(path)["notes"]) == 1
        assert done.err.count(told) == 1


@pytest.mark.parametrize("command", ["find_transform.py", "compare_nets.py"])
def test_networks_of_two_sizes(command, trained, mine, call_script, tmp_path):
    layers = ("bn3", "bn3") if command == "find_transform.py" else ()
    done = call_script(command, trained(), trained(size=32), *layers, mine, "-o", tmp_path)
    assert done.status == 2
    assert "64×64" in done.err and "32×32" in done.err and "image_size of train.py" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_has_its_own_size(trained, call_script):
    done = call_script("layer_info.py", trained(), "--image-size", 32)
    assert done.status == 2
    assert "64×64" in done.err and "--image-size 32" in done.err


def test_an_interrupted_training_of_another_size(mine, call_script, tmp_path, monkeypatch):
    command = ("train.py", "-m", "tiny10", "-d", mine, "-e", 2, "-b", 6, "-o", tmp_path)

    def fail(trainer, *rest):
        raise data.Unreadable("an image is gone.")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "close_epoch", fail)
        done = call_script(*command)
    assert done.status == 2
    assert "an image is gone. The training so far is kept in" in done.err
    done = call_script(*command, "--resume", "--image-size", 64)
    assert done.status == 2
    assert "--image-size was 32 and is 64" in done.err
    assert call_script(*command, "--resume", "--image-size", 32).status == 0
