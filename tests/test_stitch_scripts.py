"""Both stitching commands with each of their options, as users run them."""

import csv
import json
import re
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from left_behind import only
from robust_stitching import checkpoints, data, models
from robust_stitching.evaluation import evaluate
from robust_stitching.report.stitch.verdict import meaning

FAST = "-e 1 -b 256 -lr 1e-2 -o results --no-robustness "
CONTROLS = ["self_stitch", "random_front"]


@pytest.fixture
def stitch(call_script, lenets, tmp_path, monkeypatch):
    """Run find_transform.py; returns what it printed, its JSON, its matrix and its network."""
    monkeypatch.chdir(tmp_path)

    def run(flags, layers="relu2 relu2", script="find_transform.py", after="digits"):
        command = [*lenets, *layers.split(), *after.split(), *shlex.split(FAST + flags)]
        done = call_script(script, *command, "--run-name", "run")
        assert (done.status, done.err) == (0, ""), done.err
        folder = tmp_path / "results" / "run"
        assert only(folder / "pdf").read_bytes().startswith(b"%PDF")
        record = json.loads(only(folder / "json").read_text())
        matrix = checkpoints.read(only(folder / "matrix"))
        frank = checkpoints.load(only(folder / "frank_model"))
        return done.out, record, matrix, frank

    return run


def check(record, matrix, frank, digits):
    """The saved network gives the reported numbers, and holds the saved matrix."""
    assert evaluate(frank.network, digits[1]).accuracy == record["stitched"]["accuracy"]
    assert torch.equal(frank.network.transform.matrix, matrix["weight"])
    assert torch.equal(frank.network.transform.bias, matrix["bias"])


@pytest.mark.parametrize(
    "init", ["random", "perm", "eye", "ps_inv", "procrustes", "ones-zeros", "zeros"]
)
def test_init(init, stitch, digits):
    _, record, matrix, frank = stitch(f"--init {init}")
    check(record, matrix, frank, digits)
    first = matrix["initial"]["weight"]
    if init in ("perm", "eye", "procrustes"):
        torch.testing.assert_close(first @ first.T, torch.eye(16), atol=1e-5, rtol=0)
    if init == "ps_inv":
        assert torch.equal(first, matrix["direct_matching"]["weight"])


@pytest.mark.parametrize(
    "mask", ["semi-match", "abs-semi-match", "hungarian", "random-permutation", "random-permuation"]
)
def test_mask(mask, stitch, digits):
    out, record, matrix, frank = stitch(f"--mask {mask} --init ones-zeros -s 1")
    check(record, matrix, frank, digits)
    kept = matrix["initial"]["weight"] != 0
    assert (kept.sum(1) == 1).all()
    assert (matrix["history"]["weight"][:, ~kept] == 0).all()
    spelled = mask.replace("permuation", "permutation")
    assert record["params"]["mask"] == spelled
    assert record["transformation"]["parameters"] == 16 + 16
    assert re.search(rf"mask {spelled} leaves 16 of\s256 entries", out)


@pytest.mark.parametrize("init", ["random", "ps_inv", "zeros"])
def test_low_rank(init, stitch, digits):
    _, record, matrix, frank = stitch(f"--low-rank 3 --init {init}")
    check(record, matrix, frank, digits)
    for weight in (matrix["weight"], matrix["direct_matching"]["weight"]):
        assert np.linalg.matrix_rank(weight, rtol=1e-5) == 3
    assert record["transformation"]["parameters"] == 3 * 32 + 16


@pytest.mark.parametrize("options", ["--init ps_inv", "--mask hungarian", "--low-rank 2", ""])
def test_flatten(options, stitch, digits):
    layers = "relu3 relu4" if "hungarian" in options else "pool2 relu3"
    _, record, matrix, frank = stitch(f"--flatten {options}", layers)
    check(record, matrix, frank, digits)
    shape = (84, 120) if "hungarian" in options else (120, 400)
    assert matrix["weight"].shape == shape


@pytest.mark.parametrize("flags", [
    "--target-type soft_1", "--target-type soft_2 --temperature 4", "--target-type soft_12",
    "--target-type soft_1_plus_2 --temperature 0.5", "--l1 0.5", "--cka-reg -0.5", "--cka-reg 1/2",
    "--optimizer sgd", "--no-bn", "--no-pinv", "--no-pinv --init procrustes --l1 1e-3",
    "--target-type soft_2 --l1 0.1 --cka-reg -1 --low-rank 4 --optimizer sgd --no-bn",
    "--madry --epsilon 0.015 --perturb-steps 2 --cka-reg -1 --target-type soft_12",
    "--robust --epsilon 0.015 --perturb-steps 2 --beta 2 --attack-ratio 0.5 --mask semi-match",
])  # fmt: skip
def test_what_it_is_trained_for(flags, stitch, digits):
    _, record, matrix, frank = stitch(flags)
    check(record, matrix, frank, digits)
    plain = stitch_params(flags)
    assert {key: record["params"][key] for key in plain} == plain
    assert all(np.isfinite(epoch["train_loss"]) for epoch in record["curve"])


def stitch_params(flags):
    """What the report has to say of some of the flags."""
    words = shlex.split(flags)
    given = dict(zip(words, [*words[1:], ""], strict=True))
    found = {}
    for flag, key, kind in (
        ("--target-type", "target_type", str),
        ("--temperature", "temperature", float),
        ("--l1", "l1", float),
        ("--optimizer", "optimizer", str),
        ("--low-rank", "low_rank", int),
    ):
        if flag in given:
            found[key] = kind(given[flag])
    return found


def test_save_frequency(stitch):
    _, _, matrix, _ = stitch("-s 2 -e 2")
    assert matrix["history"]["iteration"].tolist() == [0, 4, 8, 12]  # 6 batches an epoch


def test_controls(stitch, digits, tmp_path):
    out, record, _, _ = stitch("--controls --random-fronts 2 --init ps_inv -e 2")
    stitched = record["stitched"]["accuracy"]
    assert len(record["random_fronts"]) == 2
    for name in ("untrained", "direct_matching", *CONTROLS):
        accuracy = record[name]["accuracy"]
        if name == "random_front":
            accuracy = sum(record["random_fronts"]) / 2
        assert record["gaps"][name] == pytest.approx(stitched - accuracy)
        label = "direct matching (start)" if name == "untrained" else name.replace("_", " ")
        gap = f"{100 * record['gaps'][name]:+.2f} points"
        assert re.search(rf"^{re.escape(label)}.*{re.escape(gap)}$", out, re.MULTILINE)
    assert " ".join(meaning(record).split()) in " ".join(out.split())
    with (tmp_path / "results" / "results.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert float(line["self_stitch.accuracy"]) == record["self_stitch"]["accuracy"]


# A second dataset


@pytest.fixture
def pictures(tmp_path):
    """Two folders of images: coloured ones of ten classes, grey ones of three."""
    for name, classes, tint in (("ten", 10, (9, 90, 200)), ("three", 3, (9, 9, 9))):
        for part in ("train", "test"):
            for label in range(classes):
                path = tmp_path / name / part / f"class{label}" / "0.png"
                path.parent.mkdir(parents=True)
                pixels = np.full((32, 32, 3), tint, np.uint8) + np.uint8(10 * label)
                Image.fromarray(pixels).save(path)
    return tmp_path


CROSS = "find_cross_dataset_transform.py"


def test_a_second_dataset(call_script, pictures, digits, monkeypatch):
    """Colour networks, trained on grey digits, looked at on colour pictures."""
    monkeypatch.chdir(pictures)
    for seed in (0, 1):
        network = models.build("tiny10", num_classes=10, in_channels=3, seed=seed)
        checkpoints.save(pictures / f"{seed}.pt", network, "digits", {"kind": "standard"})
    flags = FAST.replace("--no-robustness", "--robust-images 5") + "--madry --perturb-steps 1"
    command = f"0.pt 1.pt bn7 bn7 digits ./ten {flags} --run-name run --debug --low-rank 9"
    done = call_script(CROSS, *command.split())
    assert done.status == 0
    folder = pictures / "results" / "run"
    record = json.loads(only(folder / "json").read_text())
    assert (record["data"]["name"], record["elsewhere"]["data"]["name"]) == ("Digits", "ten")
    assert record["elsewhere"]["data"]["n_images"] == 10
    frank = checkpoints.load(only(folder / "frank_model"))
    _, ten = data.load(str(pictures / "ten"))
    found = record["elsewhere"]["stitched"]
    assert found["accuracy"] == evaluate(frank.network, ten).accuracy
    assert found["robust"].keys() == record["stitched"]["robust"].keys()
    assert record["elsewhere"]["cka"] is not None
    said = done.out.replace("\n", " ")
    assert "On ten, 10 images" in said
    assert "grey images of Digits was repeated for the front and the end network" in said
    assert "classes of ten have other names" in said
    assert record["params"]["adversary"]["kind"] == "madry"


@pytest.mark.parametrize("flags", ["--controls", "--flatten --target-type soft_12 --cka-reg -1",
                                   "--mask semi-match --init zeros --optimizer sgd"])  # fmt: skip
def test_options_of_both_commands(flags, stitch, digits):
    """The same run as find_transform.py's, and the test images a second time."""
    layers = "relu3 relu3"
    _, record, matrix, frank = stitch(flags, layers, CROSS, "digits digits")
    check(record, matrix, frank, digits)
    for name in ("front", "end", "stitched", "direct_matching"):
        assert record["elsewhere"][name] == record[name]
    assert record["elsewhere"]["data"] == {"name": "Digits", "n_images": 360}


MISTAKES = [
    (CROSS, "digits three", "tells 10 classes apart, but three has 3"),
    (CROSS, "digits ten", "takes grey images, but ten is in colour"),
    (CROSS, "digits nowhere", "'nowhere'"),
    (CROSS, "digits", "eval_dataset"),
    (CROSS, "digits digits --robust", "--robust"),
    (CROSS, "digits digits --step-size 0.1", "needs --madry"),
    ("find_transform.py", "digits --low-rank 17", "17 is more than a matrix of 16×16"),
    ("find_transform.py", "digits --low-rank 0", "'0'"),
    ("find_transform.py", "digits --low-rank 2 --mask semi-match", "exclude each other"),
    ("find_transform.py", "digits --low-rank 2 --init eye", "--init eye has rank 16"),
    ("find_transform.py", "digits --mask diagonal", "diagonal"),
    ("find_transform.py", "digits --mask hungarian --init perm", "--init perm has its entries"),
    ("find_transform.py", "digits --temperature 2", "target type is hard"),
    ("find_transform.py", "digits --temperature 0 --target-type soft_1", "'0'"),
    ("find_transform.py", "digits --target-type soft", "soft"),
    ("find_transform.py", "digits --l1 -1", "-1"),
    ("find_transform.py", "digits --cka-reg much", "much"),
    ("find_transform.py", "digits --cka-reg 1 -b 3", "at least 4 images at a time, not 3"),
    ("find_transform.py", "digits --no-robustness --robust-images 5", "--robust-images"),
]


@pytest.mark.parametrize("script, arguments, told", MISTAKES, ids=[m[1] for m in MISTAKES])
def test_mistakes(script, arguments, told, call_script, lenets, pictures, tree, monkeypatch):
    monkeypatch.chdir(pictures)
    before = tree(pictures)
    done = call_script(script, *lenets, "relu2", "relu2", *arguments.split(), "-o", "results")
    assert done.status == 2 and done.out == ""
    assert done.err.count("\n") == 1 and "Traceback" not in done.err
    assert told in done.err
    assert tree(pictures) == before


def test_a_front_of_other_classes_has_no_targets(call_script, lenets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = models.build("lenet", num_classes=7, in_channels=1)
    checkpoints.save(tmp_path / "seven.pt", network, "digits", {"kind": "standard"})
    arguments = ["seven.pt", lenets[0], "relu2", "relu2", "digits", *FAST.split()]
    for kind in ("soft_1", "soft_12", "soft_1_plus_2"):
        done = call_script("find_transform.py", *arguments, "--target-type", kind)
        assert done.status == 2 and "it tells 7 classes apart" in done.err
    assert call_script("find_transform.py", *arguments, "--target-type", "soft_2").status == 0


def test_a_stitched_front_has_no_random_twin(call_script, stitch, lenets, tmp_path):
    _, _, _, frank = stitch("")
    arguments = [frank.path, lenets[0], "end.relu3", "relu3", "digits", *FAST.split()]
    done = call_script("find_transform.py", *arguments, "--controls")
    assert done.status == 2 and "leave --controls out" in done.err
    assert call_script("find_transform.py", *arguments).status == 0


def test_a_map_is_no_network(call_script, stitch):
    _, _, _, frank = stitch("")
    matrix = only(frank.path.parents[1] / "matrix")
    done = call_script("eval_net.py", matrix)
    assert done.status == 2 and "give the file in frank_model beside" in done.err


def test_a_line_of_both_datasets(stitch, tmp_path):
    _, record, _, _ = stitch("", "relu3 relu3", CROSS, "digits digits")
    with (tmp_path / "results" / "results.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert (line["dataset"], line["eval_dataset"]) == ("Digits", "Digits")
    found = record["elsewhere"]["stitched"]["accuracy"]
    assert float(line["elsewhere.stitched.accuracy"]) == found
    assert float(line["elsewhere.cka"]) == record["elsewhere"]["cka"]
