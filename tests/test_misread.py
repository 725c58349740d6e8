"""Accuracies that say that a network is not read as it was made: near chance, far below its log."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import REPOSITORY
from digit_folders import WORDS, write_digits
from left_behind import only, strict_json
from robust_stitching import checkpoints, data, models
from robust_stitching.data import Split
from robust_stitching.evaluation import evaluate
from robust_stitching.evaluation.misread import chance_of, promised, signs

GOOD = REPOSITORY / "archive/lenet/Digits/in0-gn0/model.pt"
OTHER = REPOSITORY / "archive/lenet/Digits/in1-gn1/model.pt"


def split_of(*counts, name="Digits"):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images = torch.zeros(len(labels), 1, 32, 32, dtype=torch.uint8)
    return Split(name, images, labels, tuple(map(str, range(len(counts)))), source="digits")


# Chance


def test_chance_is_the_best_constant_answer():
    assert chance_of(split_of(10, 10, 10, 10)) == 0.25
    assert chance_of(split_of(90, 10)) == 0.9
    assert chance_of(split_of(3, 0, 0, 1)) == 0.75
    attributes = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0]])
    faces = Split("F", torch.zeros(4, 1, 32, 32, dtype=torch.uint8), attributes, ("a", "b"))
    assert chance_of(faces) == 0.75


@pytest.mark.parametrize(
    ("counts", "right", "doubtful"),
    [
        ([36] * 10, 35, True), ([36] * 10, 52, True), ([36] * 10, 53, False),
        ([36] * 10, 0, True), ([50, 50], 52, True), ([50, 50], 60, False),
        ([90, 10], 90, True), ([90, 10], 91, False), ([1] * 100, 5, True), ([1] * 100, 7, False),
        ([2] * 9, 2, False), ([2] * 10, 2, True),
    ],
)  # fmt: skip
def test_near_chance(counts, right, doubtful):
    checkpoint = checkpoints.load(GOOD)
    checkpoint = replace(checkpoint, path=Path("x.pt"))
    told = signs(checkpoint, split_of(*counts, name="Others"), right / sum(counts))
    assert len(told) == doubtful and all("near chance" in text for text in told)


def test_answers_that_are_no_numbers():
    told = signs(checkpoints.load(GOOD), split_of(*[2] * 10), 0.95, float("nan"))
    assert "not finite" in told[0]


# Promises


def write_log(folder, *accuracies):
    with (folder / "training_log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "iteration", "test_accuracy"])
        writer.writeheader()
        for i, value in enumerate(accuracies, start=1):
            writer.writerow({"epoch": i, "iteration": 10 * i, "test_accuracy": value})


@pytest.fixture
def kept(tmp_path):
    """A good network's file under any name, and whatever log."""

    def keep(name="model.pt", training=None, **more):
        found = torch.load(GOOD, weights_only=True)
        training = {"kind": "standard"} if training is None else training
        torch.save({**found, "training": training, **more}, tmp_path / name)
        return checkpoints.load(tmp_path / name)

    return keep


def test_a_log_promises_its_last_accuracy(kept, tmp_path, digits):
    test = digits[1]
    assert promised(kept(), test) is None
    write_log(tmp_path, 0.5, 0.7, 0.9)
    assert promised(kept(), test) == 0.9
    assert promised(kept("25.pt"), test) == 0.7
    assert promised(kept("9.pt"), test) is None
    assert promised(kept(training={"test_accuracy": 0.3}), test) == 0.3
    assert promised(kept(dataset="mnist"), test) is None
    assert promised(kept(dataset="/elsewhere/Digits"), test) == 0.9
    for broken in ("", "loss\n1\n", "test_accuracy\nnone\n", "test_accuracy\n81.6\n", "\0,\n\0"):
        (tmp_path / "training_log.csv").write_text(broken)
        assert promised(kept(), test) is None


@pytest.mark.parametrize("right, doubtful", [(340, False), (320, False), (300, True), (36, True)])
def test_far_below_the_promise(right, doubtful, kept, digits):
    checkpoint = kept(training={"test_accuracy": 0.95})
    told = signs(checkpoint, digits[1], right / 360)
    assert len(told) == doubtful
    assert all("far below the 95.00%" in text for text in told)


def test_a_stitched_network_may_be_near_chance_if_it_was(digits):
    class Stitched(checkpoints.Checkpoint):
        stitched = True

    good = checkpoints.load(GOOD)
    for promise, told in ((0.1, 0), (0.9, 1), (None, 1)):
        training = {} if promise is None else {"test_accuracy": promise}
        checkpoint = Stitched(good.network, "a-b", "digits", 10, Path("x.pt"), training)
        assert len(signs(checkpoint, digits[1], 0.1)) == told


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "archive").glob("*/Digits/*/model.pt")), ids=str
)
def test_no_network_of_the_archive_is_doubted(path, digits):
    checkpoint = checkpoints.load(path)
    found = evaluate(checkpoint.network, digits[1])
    assert promised(checkpoint, digits[1]) == pytest.approx(found.accuracy, abs=0.02)
    assert signs(checkpoint, digits[1], found.accuracy, found.loss) == []


# Commands


@pytest.fixture
def wrong(tmp_path):
    """A network under constants that are not its own, beside the log of its training."""
    network = checkpoints.load(GOOD).network
    network.normalize.set([0.9], [0.05])
    folder = tmp_path / "lenet" / "Digits" / "in0-gn0"
    checkpoints.save(folder / "model.pt", network, "digits", {"kind": "standard"})
    write_log(folder, 0.9583)
    return folder / "model.pt"


def test_eval_net_warns(wrong, call_script, tmp_path):
    done = call_script("eval_net.py", wrong, "--json", tmp_path / "x.json")
    assert done.status == 0 and "warning: " in done.err and "95.83%" in done.err
    assert "far below" in strict_json(tmp_path / "x.json")["notes"][0]
    done = call_script("eval_net.py", GOOD, "--json", tmp_path / "x.json")
    assert (done.status, done.err) == (0, "") and strict_json(tmp_path / "x.json")["notes"] == []


def test_eval_net_robustness_warns(wrong, call_script, tmp_path):
    options = ("--tier", "quick", "--steps", 1, "--n-images", 60, "--json", tmp_path / "x.json")
    done = call_script("eval_net_robustness.py", wrong, *options)
    assert done.status == 0 and "far below" in done.err
    assert any("far below" in note for note in strict_json(tmp_path / "x.json")["notes"])


def test_compare_nets_tells_both_accuracies_at_the_top(wrong, call_script, tmp_path, digits):
    options = (
        "--layers1",
        "relu3",
        "--layers2",
        "relu3",
        "--measures",
        "cka",
        "-o",
        tmp_path / "o",
    )
    done = call_script("compare_nets.py", GOOD, wrong, "digits", *options)
    assert done.status == 0 and done.err.count("warning") == 1 and "far below" in done.err
    first, second = done.out.splitlines()[:2]
    record = strict_json(only(only(tmp_path / "o") / "json"))
    for line, model, path in zip((first, second), record["models"], (GOOD, wrong), strict=True):
        expected = evaluate(checkpoints.load(path).network, digits[1]).accuracy
        assert model["accuracy"] == expected and f"accuracy {expected:.2%}" in line
        low, high = model["accuracy_interval"]
        assert low < expected < high
    assert any("far below" in note for note in record["notes"])
    assert "far below" in done.out


def test_compare_nets_has_no_accuracy_for_other_classes(call_script, lenets, tmp_path):
    network = models.build("lenet", num_classes=7, in_channels=1)
    checkpoints.save(tmp_path / "x.pt", network, "mnist", {})
    options = ("--layers1", "fc1", "--layers2", "fc1", "--measures", "cka", "-o", tmp_path / "o")
    done = call_script("compare_nets.py", GOOD, tmp_path / "x.pt", "digits", *options)
    assert done.status == 0 and "no accuracy: made for 7 classes" in done.out.splitlines()[1]
    told = strict_json(only(only(tmp_path / "o") / "json"))["models"]
    assert told[1]["accuracy"] is None and told[1]["classes"] == 7


@pytest.mark.parametrize("side", ["front", "end"])
def test_stitches_warn_of_their_donors_before_they_train(side, wrong, call_script, tmp_path):
    donors = (wrong, OTHER) if side == "front" else (OTHER, wrong)
    flags = f"relu3 relu3 digits -e 1 --no-robustness --no-pinv --run-name r -o {tmp_path}"
    done = call_script("find_transform.py", *donors, *flags.split())
    assert done.status == 0 and done.err.count("far below") == 1 and str(wrong) in done.err
    notes = strict_json(only(tmp_path / "r" / "json"))["notes"]
    assert sum("far below" in note for note in notes) == 1
    assert "far below" in done.out.replace("\n", " ")


def test_a_training_keeps_its_accuracy(call_script, tmp_path, digits):
    flags = f"-m lenet -d digits -e 1 -b 256 -o {tmp_path}"
    assert call_script("train.py", *flags.split()).status == 0
    path = tmp_path / "lenet/Digits/in0-gn0/model.pt"
    loaded = checkpoints.load(path)
    expected = evaluate(loaded.network, digits[1]).accuracy
    assert loaded.training["test_accuracy"] == expected
    (path.parent / "training_log.csv").unlink()
    assert promised(loaded, digits[1]) == expected
    assert loaded.class_names == data.names_of("digits")


def test_a_training_on_a_folder_keeps_the_names_of_its_classes(call_script, tmp_path, digits):
    folder = write_digits(tmp_path / "words", digits, WORDS)
    flags = f"-m lenet -d {folder} -e 1 -b 20 -s 2 -o {tmp_path / 'out'}"
    assert call_script("train.py", *flags.split()).status == 0
    for name in ("2.pt", "model.pt"):
        loaded = checkpoints.load(tmp_path / "out/lenet/words/in0-gn0" / name)
        assert loaded.class_names == tuple(sorted(WORDS))


def test_a_network_for_other_classes_is_not_doubted(call_script, tmp_path):
    """What it is right on says nothing; that its classes are others is told."""
    network = models.build("lenet", num_classes=10, in_channels=1)
    other = tmp_path / "x.pt"
    checkpoints.save(other, network, "cifar10", {}, data.names_of("cifar10"))
    layers = "--layers1 fc1 --layers2 fc1 --measures cka --run-name r"
    where = (*layers.split(), "-o", tmp_path / "out")
    done = call_script("compare_nets.py", GOOD, other, "digits", *where)
    assert "have other names" in done.err and "near chance" not in done.err
    flags = f"relu3 relu3 digits -e 1 --no-robustness --no-pinv --run-name s -o {tmp_path}"
    done = call_script("find_transform.py", other, GOOD, *flags.split())
    assert "have other names" in done.err and "near chance" not in done.err
    done = call_script("find_transform.py", GOOD, other, *flags.replace(" s ", " t ").split())
    assert "have other names" in done.err and "near chance" in done.err
