"""Published networks in the commands: constants for each side, and convert_checkpoint.py."""

import pytest
import torch

from conftest import REPOSITORY
from digit_folders import write_digits
from left_behind import only, strict_json
from robust_stitching import checkpoints, data, models
from robust_stitching.evaluation import evaluate

ARCHIVE = REPOSITORY / "archive"
OURS = [ARCHIVE / f"tiny10/Digits/in{i}-gn{i}/model.pt" for i in (0, 1)]
LENET = ARCHIVE / "lenet/Digits/in0-gn0/model.pt"


def published(source, path, **more):
    """The weights of one of ours as others would publish them; returns path and constants."""
    network = checkpoints.load(source).network
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("normalize")}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**state, **more}, path)
    constants = (network.normalize.mean, network.normalize.std)
    return path, [str(value.item()) for value in constants]


@pytest.fixture
def bare(tmp_path):
    """Two published networks, and the options that give each its constants."""
    found = [published(path, tmp_path / f"tiny10/Digits/{i}.pt") for i, path in enumerate(OURS)]
    options = []
    for number, (_, (mean, std)) in enumerate(found, start=1):
        options.append([f"--mean{number}", mean, f"--std{number}", std])
    return [path for path, _ in found], options


# Constants for each side


def compared(call_script, tmp_path, paths, *options):
    where = ("-o", tmp_path / "out", "--run-name", "r")
    layers = ["--layers1", "relu5", "--layers2", "relu5", "--measures", "cka", "disagreement"]
    done = call_script("compare_nets.py", *paths, "digits", *layers, *where, *options)
    assert done.status == 0, done.err
    record = strict_json(only(tmp_path / "out" / "r" / "json"))
    return done, record


@pytest.mark.parametrize("sides", [(), (0,), (1,), (0, 1)], ids=["none", "1", "2", "both"])
def test_compare_nets_takes_constants_for_each_side(sides, call_script, bare, tmp_path):
    paths, options = bare
    given = [word for side in sides for word in options[side]]
    done, record = compared(call_script, tmp_path / "a", paths, *given)
    _, expected = compared(call_script, tmp_path / "b", OURS)
    for side in (0, 1):
        right = record["models"][side]["accuracy"] == expected["models"][side]["accuracy"]
        warned = f"{paths[side]} brings no mean and std" in done.err
        assert (right, warned) == (side in sides, side not in sides)
        assert (f"--mean{side + 1} and --std{side + 1} give them" in done.err) == warned
        assert any(str(paths[side]) in note for note in record["notes"]) == warned
    values = [found["measures"]["cka"]["values"][0][0] for found in (record, expected)]
    assert (values[0] == pytest.approx(values[1], abs=1e-6)) == (sides == (0, 1))


@pytest.mark.parametrize(
    ("command", "more"),
    [("find_transform.py", "digits"), ("find_cross_dataset_transform.py", "digits digits")],
)
def test_stitches_take_constants_for_each_side(command, more, call_script, bare, tmp_path):
    paths, options = bare
    flags = f"relu5 relu5 {more} -e 1 -b 512 --no-robustness --init ps_inv".split()
    found = {}
    for name, donors, given in (
        ("ours", OURS, []),
        ("told", paths, options[0] + options[1]),
        ("half", paths, options[1]),
    ):
        where = ("-o", tmp_path / "out", "--run-name", name)
        done = call_script(command, *donors, *flags, *given, *where)
        assert done.status == 0, done.err
        assert done.err.count("brings no mean and std") == (name == "half")
        found[name] = strict_json(only(tmp_path / "out" / name / "json"))
    for side in ("front", "end", "stitched", "direct_matching"):
        assert found["told"][side]["accuracy"] == found["ours"][side]["accuracy"], side
    assert found["half"]["front"]["accuracy"] < 0.5 < found["ours"]["front"]["accuracy"]
    assert any("0.pt brings no mean and std" in note for note in found["half"]["notes"])


def test_weights_are_chosen_for_each_side(call_script, tmp_path):
    one, other = (torch.load(path, weights_only=True)["state_dict"] for path in OURS)
    path = tmp_path / "tiny10" / "Digits" / "x.pt"
    path.parent.mkdir(parents=True)
    torch.save({"model": one, "ema": other}, path)
    done, record = compared(call_script, tmp_path, (path, path), "--weights2", "ema")
    assert done.err.count("several sets of weights: 'model' was taken, not 'ema'") == 1
    _, expected = compared(call_script, tmp_path / "ours", OURS)
    assert record["measures"]["disagreement"] == expected["measures"]["disagreement"]
    assert record["measures"]["disagreement"]["value"] > 0


@pytest.mark.parametrize("option", ["--mean1 100", "--std2 0", "--std1 0.5,0.5", "--mean2 -1"])
def test_constants_that_cannot_be_stop_a_comparison(option, call_script, bare, tmp_path):
    done = call_script("compare_nets.py", *bare[0], "digits", *option.split(), "-o", tmp_path / "o")
    assert done.status == 2 and done.err.count("\n") == 1 and not (tmp_path / "o").exists()


def test_mistakes_name_the_option_of_their_side(call_script, bare, tmp_path):
    done = call_script("compare_nets.py", bare[0][0], OURS[0], "digits", "--weights2", "ema")
    assert done.status == 2 and "leave --weights2 ema out" in done.err


def test_layers_of_a_bare_state_dict(call_script, tmp_path):
    path, _ = published(OURS[0], tmp_path / "x.pt")
    done = call_script("layer_info.py", path, "-m", "tiny10", "-d", "digits")
    assert done.status == 0 and "relu8" in done.out and "brings no mean" in done.err
    done = call_script("layer_info.py", path)
    assert done.status == 2 and "convert_checkpoint.py" in done.err
    done = call_script("layer_info.py", "tiny10", "--mean", "0.5")
    assert done.status == 2 and "--mean says how to read a file" in done.err
    done = call_script("layer_info.py", OURS[0], "--image-size", "64")
    assert done.status == 2 and "leave --image-size 64 out" in done.err


# convert_checkpoint.py


def test_a_converted_network_says_what_it_is(call_script, tmp_path, digits):
    path, (mean, std) = published(LENET, tmp_path / "somewhere" / "best.pth")
    out = tmp_path / "new" / "lenet.pt"
    options = ("-m", "lenet", "-d", "digits", "--mean", mean, "--std", std, "-o", out)
    done = call_script("convert_checkpoint.py", path, *options)
    assert (done.status, done.err) == (0, "")
    for told in ("lenet", "digits, images of 32×32", "10: 0, 1, 2, 3, 4, …", f"kept in {out}"):
        assert told in done.out
    loaded, ours = checkpoints.load(out), checkpoints.load(LENET)
    assert (loaded.model, loaded.dataset, loaded.classes) == ("lenet", "digits", 10)
    assert loaded.class_names == data.names_of("digits") and loaded.notes == ()
    assert loaded.training["kind"] == "published" and "best.pth" in loaded.training["file"]
    assert evaluate(loaded.network, digits[1]) == evaluate(ours.network, digits[1])
    assert (call_script("eval_net.py", out)).err == ""


def test_a_conversion_tells_what_it_guessed(call_script, tmp_path):
    path, _ = published(LENET, tmp_path / "vgg11" / "MNIST" / "best.pth")
    out = tmp_path / "x.pt"
    done = call_script("convert_checkpoint.py", path, "-m", "lenet", "-d", "digits", "-o", out)
    assert done.status == 0 and done.err.count("warning") == 3
    notes = checkpoints.load(out).training["notes"]
    for told in ("as --model says", "as --dataset says", "brings no mean and std"):
        kept = told.replace("--model", "`model`").replace("--dataset", "`dataset`")
        assert told in done.err and any(kept in note for note in notes)


def test_a_network_of_a_folder_of_images_keeps_its_classes(call_script, tmp_path, digits):
    names = ["3rd", *"012456789"]
    by_label = ["0", "1", "2", "3rd", *"456789"]
    folder = write_digits(tmp_path / "images", digits, by_label)
    path, (mean, std) = published(LENET, tmp_path / "x.pth")
    constants = ("--mean", mean, "--std", std)
    done = call_script(
        "convert_checkpoint.py", path, "-m", "lenet", "-d", folder, *constants, "-o", tmp_path / "y"
    )
    assert done.status == 0
    assert checkpoints.load(tmp_path / "y").class_names == tuple(sorted(names))


def test_images_of_another_size(call_script, tmp_path):
    network = models.build("resnet_w1", num_classes=5, in_channels=3, image_size=48)
    torch.save(network.state_dict(), tmp_path / "x.pth")
    options = ("-m", "resnet_w1", "-d", "cifar10", "--image-size", 48, "-o", tmp_path / "y.pt")
    done = call_script("convert_checkpoint.py", tmp_path / "x.pth", *options)
    assert done.status == 0 and "48×48" in done.out and "their names are not known" in done.out
    assert checkpoints.load(tmp_path / "y.pt").network.input_shape == (3, 48, 48)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"-o": "there.pt"}, "there.pt exists already"),
        ({"-d": "./nowhere"}, "nowhere has no train/ with a folder per class"),
        ({"-d": "mnits"}, "did you mean mnist"),
        ({"-m": "lenett"}, "did you mean lenet"),
        ({"-m": "tiny10"}, "do not fit tiny10"),
        ({"-m": None}, "-m/--model"),
        ({"-d": None}, "-d/--dataset"),
        ({"file": LENET}, "is a checkpoint already"),
        ({"file": "there.pt"}, "is no checkpoint"),
        ({"--mean": "78"}, "give it over 255, 0.3059"),
        ({"--image-size": "0"}, "'0' is not a whole number"),
        ({"--weights": "ema"}, "no weights that fit are called 'ema'"),
    ],
)
def test_mistakes_leave_nothing(change, told, call_script, tmp_path, monkeypatch, tree):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.pt").write_text("here")
    path, _ = published(LENET, tmp_path / "x.pth")
    before = tree(tmp_path)
    words = {"file": path, "-m": "lenet", "-d": "digits", "-o": "new.pt", **change}
    options = [w for k, v in words.items() if k != "file" and v is not None for w in (k, v)]
    done = call_script("convert_checkpoint.py", words["file"], *options)
    assert done.status == 2 and told in done.err and done.out == ""
    assert done.err.count("\n") == 1 and tree(tmp_path) == before
