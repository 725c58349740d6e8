"""compare_nets.py as its users run it: tables, numbers, heat maps, and what it says of mistakes."""

import csv
import math
import os
import re
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from left_behind import only, strict_json
from robust_stitching import checkpoints, models
from robust_stitching.report.comparison import _distinct, as_text, write_files
from robust_stitching.similarity import cka, compare
from robust_stitching.similarity.measures import MEASURES

LENET_CUTS = [
    *("normalize", "conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten"),
    *("fc1", "relu3", "fc2", "relu4", "fc3"),
]
LAYERED = [name for name, measure in MEASURES.items() if not measure.of_outputs]
SMALL = ["--n-images", "40", "--layers1", "relu1", "fc3", "--layers2", "relu2"]


def read_csv(folder):
    with only(folder / "csv").open(newline="") as file:
        return list(csv.DictReader(file))


def names_of(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def by_default(run_script, lenets, tmp_path_factory):
    """Two networks compared without any option but where to."""
    home = tmp_path_factory.mktemp("home")
    done = run_script(
        "compare_nets.py", *lenets, "digits", "-o", "out", "--run-name", "r", cwd=home
    )
    return done, home / "out" / "r"


@pytest.fixture
def compared(call_script, lenets, tmp_path):
    """Run with options in this process, on 40 images and a few layers where they say nothing."""

    def call(*options, nets=lenets, small=SMALL, data="digits"):
        options = ["-o", tmp_path / "out", "--run-name", "r", *small, *options]
        done = call_script("compare_nets.py", *nets, data, *options)
        folder = tmp_path / "out" / "r"
        assert done.status == 0, done.err
        # networks that were trained for a moment only, on few images
        assert all("near chance" in line for line in done.err.splitlines()), done.err
        return SimpleNamespace(
            out=done.out, folder=folder, record=strict_json(only(folder / "json"))
        )

    return call


# What a run leaves behind


def test_it_prints_a_table_for_each_measure(by_default):
    done, _ = by_default
    assert (done.status, done.err) == (0, "")
    for estimator in ("minibatch linear CKA", "orthogonal Procrustes", "SVCCA", "k = 10"):
        assert estimator in done.out
    assert " ".join(done.out.split()).count("; 360 images") == 4
    rows = re.findall(r"^conv1(?: +(?:\d\.\d{3}|–)){13}$", done.out, re.MULTILINE)
    assert len(rows) == 4 and sum(row.count("–") for row in rows) == 1  # normalize: one channel
    assert (
        len(re.findall(r"Jensen–Shannon.* in nats \(0 to ln 2\) +0\.\d{4} +– +360\n", done.out))
        == 1
    )
    for kind in ("json", "csv", "figures"):
        assert re.search(rf"^{kind} +out/r/{kind}", done.out, re.MULTILINE)


def test_it_leaves_its_numbers(by_default):
    done, folder = by_default
    record = strict_json(only(folder / "json"))
    assert {"command", "params", "versions", "commit", "seconds", "notes"} <= set(record)
    assert record["layers1"] == record["layers2"] == LENET_CUTS
    assert record["data"] == {"name": "Digits", "n_images": 360}
    assert [m["path"].endswith("model.pt") for m in record["models"]] == [True, True]
    lines = read_csv(folder)
    assert len(lines) == 4 * 13 * 13 + 2
    for name, measure in record["measures"].items():
        own = [line for line in lines if line["measure"] == name]
        assert {(line["estimator"], line["n_images"]) for line in own} == {
            (measure["estimator"], "360")
        }
        low, high = measure["range"]
        if name in ("disagreement", "jensen-shannon"):
            assert low <= measure["value"] <= high
            assert (own[0]["layer1"], own[0]["layer2"]) == ("", "")
            assert float(own[0]["value"]) == pytest.approx(measure["value"])
            continue
        for line in own:
            i, j = LENET_CUTS.index(line["layer1"]), LENET_CUTS.index(line["layer2"])
            value = measure["values"][i][j]
            if value is None:
                layer = {"svcca": "flatten", "mutual-knn": "normalize"}[name]  # wide, one channel
                assert line["value"] == "" and layer in line.values()
            else:
                assert low - 1e-9 <= value <= high
                assert float(line["value"]) == pytest.approx(value)
                assert f"{value:.3f}" in done.out


def test_files_are_drawn_again_from_the_numbers_on_disk(compared, tmp_path):
    """Also where values are missing, and from a copy of the JSON report alone."""
    first = compared("--measures", "svcca", "procrustes", "agreement", "--layers1", "conv1", "fc1")
    assert first.record["measures"]["svcca"]["values"][1] == [None]
    paths = write_files(first.record, tmp_path / "again")
    assert names_of(tmp_path / "again") == names_of(first.folder) == {"json", "csv", "figures"}
    for path in [*paths.values(), *paths["figures"].glob("*.png")]:
        if path.is_file():
            same = first.folder / path.relative_to(tmp_path / "again")
            assert path.read_bytes() == same.read_bytes()
    assert as_text(first.record, 120).splitlines()[0] == first.out.splitlines()[0]


def test_the_report_says_what_is_more_similar(compared):
    record = compared("--measures", "procrustes", "svcca", "disagreement").record
    alike = {name: m["larger_is_more_similar"] for name, m in record["measures"].items()}
    assert alike == {"procrustes": False, "svcca": True, "disagreement": False}
    assert record["measures"]["svcca"]["title"] == "SVCCA of pooled channels"
    assert record["measures"]["disagreement"]["title"] == MEASURES["disagreement"].title
    assert [model["label"].split(", ")[0] for model in record["models"]] == ["lenet", "lenet"]


def test_it_leaves_a_heat_map_of_each_measure(by_default):
    folder = by_default[1] / "figures"
    layered = ("minibatch-cka", "procrustes", "svcca", "mutual-knn")
    assert names_of(folder) == {f"{name}.{kind}" for name in layered for kind in ("png", "pdf")}
    assert names_of(folder.parent) == {"json", "csv", "figures"}
    for name in layered:
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 700
            assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 100


def test_the_numbers_are_those_of_the_activations(compared, lenets, digits):
    found = compared("--measures", "cka", "--n-images", "5000", "--layers2", "relu3")
    networks = [checkpoints.load(path).network for path in lenets]
    kept = []
    for network, layer in zip(networks, ("relu1", "relu3"), strict=True):
        network.get_submodule(layer).register_forward_hook(lambda m, x, out: kept.append(out))
        with torch.no_grad():
            network(digits[1].images / 255)
    assert found.record["data"]["n_images"] == 360
    assert found.record["measures"]["cka"]["values"][0][0] == pytest.approx(cka(*kept), abs=1e-6)


# Options


def test_every_measure_at_once(compared):
    found = compared("--measures", "all").record
    assert list(found["measures"]) == list(MEASURES)
    for name in LAYERED:
        (first,), (last,) = found["measures"][name]["values"]
        assert math.isfinite(first) and math.isfinite(last)
        assert first != last
    measures = found["measures"]
    assert measures["agreement"]["value"] == 1 - measures["disagreement"]["value"]


def test_layers_and_measures_are_those_that_were_asked_for(compared):
    found = compared("--measures", "svcca", "debiased-cka", "svcca", "--layers1", "fc3", "conv1")
    assert found.record["layers1"] == ["fc3", "conv1"] and found.record["layers2"] == ["relu2"]
    assert list(found.record["measures"]) == ["debiased-cka", "svcca"]
    assert names_of(found.folder / "figures") == {
        *("svcca.png", "svcca.pdf", "debiased-cka.png", "debiased-cka.pdf")
    }
    assert found.record["data"]["n_images"] == 40 and "; 40 images" in found.out


def test_answers_alone_have_no_figures(compared):
    found = compared("--measures", "agreement")
    assert set(found.record["measures"]) == {"agreement"}
    assert names_of(found.folder) == {"json", "csv"} and "figures" not in found.out


@pytest.mark.parametrize(
    "option", [["--seed", "1"], ["--n-images", "41"], ["--split", "train"], ["-b", "15"]]
)
def test_options_change_what_is_measured(compared, option, call_script, lenets, tmp_path):
    first = compared("--measures", "minibatch-cka")
    again = [*lenets, "digits", "-o", tmp_path, *SMALL, "--measures", "minibatch-cka"]
    for name, extra in (("same", []), ("other", option)):
        assert call_script("compare_nets.py", *again, "--run-name", name, *extra).status == 0
    same, other = (strict_json(only(tmp_path / name / "json")) for name in ("same", "other"))
    assert same["measures"] == first.record["measures"]
    values = (record["measures"]["minibatch-cka"]["values"] for record in (same, other))
    assert next(values) != next(values)


@pytest.mark.parametrize("measures", [[], ["--measures", "all"], ["--measures", "mutual-knn"]])
def test_neighbours_count_wherever_they_are_looked_at(measures, call_script, lenets, tmp_path):
    layers = ["--layers1", "relu3", "--layers2", "relu3"]
    out = ["-o", tmp_path, "--run-name", "run", "--neighbours", "4"]
    done = call_script("compare_nets.py", *lenets, "digits", *layers, *measures, *out)
    assert done.status == 0 and "k = 4" in done.out


def test_the_estimator_names_its_settings(compared):
    found = compared("--neighbours", "3", "-b", "13").record["measures"]
    assert "k = 3" in found["mutual-knn"]["estimator"]
    assert "batches of 13" in found["minibatch-cka"]["estimator"]
    assert found["minibatch-cka"]["n_images"] == 39  # the last one makes no batch
    assert found["procrustes"]["n_images"] == 40


def test_a_run_without_a_name_has_its_time(call_script, lenets, tmp_path):
    options = ["-o", tmp_path, *SMALL, "--measures", "procrustes"]
    assert call_script("compare_nets.py", *lenets, "digits", *options).status == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", only(tmp_path).name)


def test_networks_of_other_kinds(compared, lenets, tiny10s):
    found = compared(nets=(lenets[0], tiny10s[1]), small=["--n-images", "30"])
    assert found.record["layers1"] == LENET_CUTS and len(found.record["layers2"]) == 27
    assert only(found.folder / "json").name == "lenet-tiny10.json"


def test_what_few_images_do_not_allow_is_left_out_unless_asked_for(compared):
    found = compared("--n-images", "8", "--layers1", "relu1", "--layers2", "fc2")
    assert list(found.record["measures"])[:2] == ["minibatch-cka", "procrustes"]
    assert not {"svcca", "mutual-knn"} & set(found.record["measures"])
    assert "at every layer of model 2: it is left out." in found.out.replace("\n", " ")


@pytest.mark.parametrize("columns", [80, 120])
def test_wide_tables_stay_readable(compared, tiny10s, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    found = compared("--measures", "procrustes", nets=tiny10s, small=["--n-images", "30"])
    text = found.out.split("\njson ")[0]
    lines = [line for line in text.splitlines() if "model.pt" not in line]  # a path is one word
    assert max(map(len, lines)) <= columns
    assert "27·fc" in text and "1·normalize" in text
    headings = [line.split() for line in text.splitlines() if re.fullmatch(r"( +\d+)+", line)]
    assert [int(i) for row in headings for i in row] == [*range(1, 28)] and len(headings) > 1
    assert len(re.findall(r"^relu5 .*\d\.\d{3}$", text, re.MULTILINE)) == len(headings)


def test_short_names_head_their_columns(compared):
    out = compared("--measures", "procrustes", "--layers2", "relu2", "fc1").out
    assert re.search(r"^ +relu2 +fc1\n─+ .*\nrelu1 +\d\.\d{3}  \d\.\d{3}\n", out, re.MULTILINE)
    assert "columns" not in out.split("\n\n")[1]


def test_missing_values_are_dashes_and_null(compared):
    found = compared("--measures", "svcca", "cca", "--layers1", "conv1", "fc1")
    assert found.record["measures"]["svcca"]["values"][1] == [None]
    assert re.search(r"^fc1 +–$", found.out, re.MULTILINE)
    assert [line["value"] == "" for line in read_csv(found.folder)] == [False, True] * 2


def test_networks_for_other_classes(compared, lenets, tmp_path):
    other = tmp_path / "lenet" / "CIFAR100" / "x" / "model.pt"
    network = models.build("lenet", num_classes=7, in_channels=3, seed=0)
    checkpoints.save(other, network, "cifar100", {})
    found = compared(nets=(lenets[0], other))
    assert set(found.record["measures"]) == {"minibatch-cka", "procrustes", "svcca", "mutual-knn"}
    assert "Model 1 has 10 outputs and model 2 7: disagreement is left out." in found.out


def test_files_whose_names_are_no_text(compared, lenets, tmp_path):
    other = tmp_path / os.fsdecode(b"caf\xe9.pt")
    other.write_bytes(lenets[0].read_bytes())
    found = compared("--measures", "procrustes", nets=(lenets[0], other))
    assert names_of(found.folder / "figures") == {"procrustes.png", "procrustes.pdf"}


def test_networks_trained_on_other_data_are_said_to_be(compared, lenets, tmp_path):
    other = tmp_path / "model.pt"
    checkpoints.save(other, checkpoints.load(lenets[0]).network, "mnist", {})
    found = compared("--measures", "disagreement", nets=(lenets[0], other))
    assert found.record["measures"]["disagreement"]["value"] == 0
    assert "Model 1 was trained on digits, model 2 on mnist" in found.record["notes"][-1]


def test_help_says_what_each_measure_is_and_costs(call_script):
    done = call_script("compare_nets.py", "--help")
    assert done.status == 0
    for name, measure in MEASURES.items():
        assert re.search(rf"^  {name} +\w", done.out, re.MULTILINE)
        assert f"Cost: {measure.cost}." in re.sub(r"\s+", " ", done.out)
    assert "{" not in done.out.split("measures, and what they cost")[1]
    assert "(default: 250)" in re.sub(r"\s+", " ", done.out)


# Mistakes


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--layers1 relu9", "unknown layer of model 1 'relu9'; did you mean relu"),
        ("--layers2 conv1 rel2", "unknown layer of model 2 'rel2'; did you mean relu2"),
        ("--measures ckaa", "unknown measure 'ckaa'; did you mean cka"),
        ("--measures svcca --n-images 6 --layers1 conv1", "svcca needs more images than channels"),
        ("--measures minibatch-cka -b 2", "minibatch-cka needs batches of at least 4 images"),
        ("--measures debiased-cka --n-images 3", "debiased-cka needs at least 4 images, not 3"),
        ("--measures mutual-knn --n-images 11", "mutual-knn needs at least 12 images for 10"),
        ("--measures cka --neighbours 4", "--neighbours is for the measure mutual-knn"),
        ("--n-images 1", "1 image is too few to compare anything"),
        ("--n-images 0", "'0' is not a whole number of at least 1"),
        ("--seed -1", "'-1' is not a whole number from 0 to"),
        ("--run-name a/b", "is no plain folder name"),
        ("--device cdua", "the device 'cdua' is not available"),
        ("--split both", "invalid choice: 'both'"),
        ("--layers1", "expected at least one argument"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(call_script, lenets, tmp_path, options, reason):
    out = ["-o", tmp_path / "out"]
    done = call_script("compare_nets.py", *lenets, "digits", *out, *options.split())
    assert done.status == 2 and reason in done.err and done.out == ""
    assert done.err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_wrong_files_and_data(call_script, lenets, tmp_path):
    text = tmp_path / "notes.pt"
    text.write_text("nothing")
    colour = tmp_path / "pictures"
    for part in ("train", "test"):
        for name in "ab":
            (colour / part / name).mkdir(parents=True)
            Image.new("RGB", (32, 32), "red").save(colour / part / name / "1.png")
    for first, data, reason in (
        (tmp_path / "none.pt", "digits", "does not exist"),
        (text, "digits", "is no checkpoint"),
        (lenets[0], "digit", "did you mean digits"),
        (lenets[0], colour, "takes grey images, but pictures is in colour"),
    ):
        done = call_script("compare_nets.py", first, lenets[1], data, "-o", tmp_path / "out")
        assert done.status == 2 and reason in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_earlier_run_is_left_alone(compared, call_script, lenets, tmp_path, tree):
    compared("--measures", "procrustes")
    before = tree(tmp_path / "out")
    again = ["-o", tmp_path / "out", "--run-name", "r"]
    done = call_script("compare_nets.py", *lenets, "digits", *again)
    assert done.status == 2 and "was made by another plan" in done.err
    assert tree(tmp_path / "out") == before


def test_colour_networks_see_grey_images(lenets, digits):
    colour = models.build("lenet", num_classes=10, in_channels=3, seed=0)
    grey = checkpoints.load(lenets[0]).network
    found = compare(grey, colour, digits[1].between(0, 30), ["relu1"], ["relu1"], ["procrustes"])
    assert 0 < found.layerwise["procrustes"].item() < 2


def test_heat_maps_leave_out_sums_before_their_relu_unless_layers_were_chosen():
    layers = [
        "conv1",
        "layer1.0.add",
        "layer1.0.relu_1",
        "block.add",
        "block.norm",
        "iadd_2",
        "relu",
    ]
    record = {"layers1": layers, "params": {"layers1": None}}
    assert [layers[i] for i in _distinct(record, 1)] == [
        *("conv1", "layer1.0.relu_1", "block.add", "block.norm", "relu"),
    ]
    assert len(_distinct(record | {"params": {"layers1": layers}}, 1)) == len(layers)
