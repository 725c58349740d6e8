"""The scripts as users run them: what they print, leave behind, and say of mistakes."""

import csv
import math
import pickle
import re
import shlex
import urllib.request
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import equal

from left_behind import names, only, strict_json
from robust_stitching import checkpoints, data, models
from robust_stitching.evaluation import evaluate

NETWORKS = ["front", "end", "untrained", "stitched", "direct_matching"]
SCORES = [
    *("accuracy", "loss", "agreement_with_end", "relative_accuracy", "cross_entropy_to_end"),
    *("cka_to_end", "l2_to_end", "logit_cka_to_end", "logit_l2_to_end", "overlap_with_end"),
]


# From training to evaluation, each in a process of its own


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained(run_script, home):
    flags = "-m lenet -d digits -e 1 -o nets"
    done = run_script("train.py", *flags.split(), cwd=home)
    return done, home / "nets" / "lenet" / "Digits" / "in0-gn0" / "model.pt"


@pytest.fixture(scope="module")
def stitched(run_script, trained, lenets, home):
    flags = "relu1 relu1 digits -e 1 -o results --run-name first --debug"
    done = run_script("find_transform.py", trained[1], lenets[0], *flags.split(), cwd=home)
    return done, home / "results" / "first"


@pytest.fixture(scope="module")
def evaluated(run_script, stitched, home):
    frank = only(stitched[1] / "frank_model")
    return run_script("eval_net.py", frank, "--json", home / "frank.json", cwd=home)


def test_train(trained):
    done, path = trained
    assert (done.status, done.err) == (0, "")
    assert re.search(r"epoch +1/1 .*test loss \d\.\d+,? +accuracy +\d+\.\d+%", done.out)
    assert done.out.splitlines()[-1].endswith("nets/lenet/Digits/in0-gn0/model.pt")
    assert names(path.parent) == ["model.pt", "training.json", "training_log.csv"]


def test_layer_info(run_script, trained, home):
    done = run_script("layer_info.py", trained[1], cwd=home)
    assert (done.status, done.err) == (0, "")
    table = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line}
    assert table["conv1"] == ["Conv2d", "6×28×28", "clean"]
    assert table["pool2"] == ["MaxPool2d", "16×5×5", "clean"]
    assert table["fc3"] == ["Linear", "10", "clean"]


def test_find_transform_prints_its_results(stitched):
    done, folder = stitched
    assert done.status == 0
    for name in NETWORKS:
        assert re.search(rf"^{name.replace('_', ' ')} +\d+\.\d\d% ", done.out, re.MULTILINE)
    for kind in ("matrix", "frank_model", "json", "pdf"):
        assert str(only(folder / kind).relative_to(folder.parents[1])) in done.out
    assert "debugging run" in done.out and "results.csv" not in done.out


def test_debug_logs_on_stderr(stitched):
    assert "transform" in stitched[0].err
    assert "Traceback" not in stitched[0].err


def test_find_transform_leaves_its_numbers(stitched):
    done, folder = stitched
    found = strict_json(only(folder / "json"))
    assert {"params", "versions", "commit", "cka", "l2", *NETWORKS} <= set(found)
    assert "relu1 relu1 digits -e 1" in found["command"]
    assert (found["data"]["name"], found["data"]["n_images"]) == ("Digits", 360)
    for name in NETWORKS:
        assert set(SCORES) <= set(found[name])
        assert 0 <= found[name]["accuracy"] <= 1
        assert sum(found[name]["overlap_with_end"].values()) == pytest.approx(1)
        assert f"{found[name]['accuracy']:.2%}" in done.out


def test_find_transform_leaves_a_report(stitched):
    pdf = only(stitched[1] / "pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 1


def test_eval_net_finds_what_the_stitch_found(evaluated, stitched, home):
    assert (evaluated.status, evaluated.err) == (0, "")
    found = strict_json(home / "frank.json")
    expected = strict_json(only(stitched[1] / "json"))["stitched"]
    assert found["accuracy"] == expected["accuracy"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["n_images"] == 360
    assert f"{found['accuracy']:.2%}" in evaluated.out
    z, p, n = 1.959964, found["accuracy"], 360  # Wilson (1927)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    assert found["accuracy_interval"] == pytest.approx([middle - half, middle + half], abs=1e-6)
    assert f"{100 * (middle - half):.1f} – {100 * (middle + half):.1f}%" in evaluated.out


def test_a_line_in_the_csv(call_script, stitched, trained, home, lenets):
    flags = f"-e 1 -o {home / 'results'} --run-name second --no-pinv".split()
    done = call_script("find_transform.py", trained[1], *lenets[:1], "fc1", "fc1", "digits", *flags)
    assert (done.status, done.err) == (0, "")
    assert "CKA" not in done.out
    found = strict_json(only(home / "results" / "second" / "json"))
    assert found["direct_matching"] is found["cka"] is found["l2"] is None
    with (home / "results" / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    (line,) = lines  # the first run was one for debugging
    assert (line["run"], line["front_layer"], line["front_model"]) == ("second", "fc1", "lenet")
    assert float(line["stitched.accuracy"]) == found["stitched"]["accuracy"]
    assert all(line.values())


def initial_matrix(init, weight):
    """Whether `weight` is what the name of an initialisation says."""
    eye = torch.eye(len(weight))
    return {
        "random": lambda: weight.std() > 0 and weight.abs().max() <= len(weight) ** -0.5,
        "perm": lambda: ((weight == 0) | (weight == 1)).all() and equal(weight @ weight.T, eye),
        "eye": lambda: equal(weight, eye),
        "ps_inv": lambda: weight.isfinite().all() and weight.std() > 0,
        "ones-zeros": lambda: equal(weight, torch.ones_like(weight)),
        "zeros": lambda: equal(weight, torch.zeros_like(weight)),
    }[init]()


@pytest.mark.parametrize("init", ["random", "perm", "eye", "ps_inv", "ones-zeros", "zeros"])
def test_every_initialisation(init, call_script, lenets, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "robust_stitching.report.stitch.pdf.write_pdf", lambda path, *_: path.touch()
    )
    flags = f"relu2 relu2 digits -e 1 -b 32 --debug -o {tmp_path} --run-name x --init {init}"
    done = call_script("find_transform.py", *lenets, *flags.split())
    assert done.status == 0
    matrix = torch.load(only(tmp_path / "x" / "matrix"), weights_only=True)
    assert initial_matrix(init, matrix["initial"]["weight"])
    if init == "ps_inv":
        assert equal(matrix["initial"]["weight"], matrix["direct_matching"]["weight"])
    strict_json(only(tmp_path / "x" / "json"))


def test_the_run_name_is_the_date_and_time(call_script, lenets, tmp_path):
    done = call_script(
        "find_transform.py", *lenets, "fc2", "fc2", "digits", "-e", "1", "-o", tmp_path, "--no-pinv"
    )
    assert done.status == 0
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)


def test_a_models_name_goes_before_a_folder_of_that_name(call_script, tmp_path, monkeypatch):
    (tmp_path / "tiny10").mkdir()
    monkeypatch.chdir(tmp_path)
    done = call_script("layer_info.py", "tiny10")
    assert (done.status, done.err) == (0, "")


def test_evaluating_elsewhere_keeps_the_constants(call_script, digits, tmp_path):
    net = models.build("lenet", num_classes=10, in_channels=1, seed=3)
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("normalize")}
    path = tmp_path / "lenet" / "MNIST" / "x.pt"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    done = call_script("eval_net.py", path, "-d", "digits", "--json", tmp_path / "x.json")
    assert done.status == 0
    net.normalize.set(data.SOURCES["mnist"].mean, data.SOURCES["mnist"].std)
    expected = evaluate(net, digits[1])
    assert strict_json(tmp_path / "x.json")["loss"] == pytest.approx(expected.loss, rel=1e-5)


# Mistakes


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.fixture(scope="module")
def yard(tmp_path_factory, lenets):
    """A folder with all that the mistakes below need."""
    here = tmp_path_factory.mktemp("yard")
    (here / "net.pt").write_bytes(lenets[0].read_bytes())
    (here / "half.pt").write_bytes(lenets[0].read_bytes()[:100_000])
    (here / "evil.pt").write_bytes(pickle.dumps(Evil(str(here / "marker")), protocol=2))
    (here / "words.pt").write_text("epoch,loss\n1,2.3\n")
    colour = models.build("lenet", num_classes=10, in_channels=3)
    checkpoints.save(here / "colour.pt", colour, "cifar10", {})
    (here / "file").write_text("a regular file")
    (here / "results" / "taken").mkdir(parents=True)
    folder = here / "nets" / "lenet" / "Digits" / "in0-gn0"
    folder.mkdir(parents=True)
    (folder / "model.pt").write_bytes(lenets[0].read_bytes())
    for part in ("train", "test"):
        for name in "abc":
            for shade in range(2):
                image = here / "three" / part / name / f"{shade}.png"
                image.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((32, 32), 40 * shade, np.uint8)).save(image)
    return here


STITCH = "find_transform.py net.pt net.pt relu1 relu1 digits -o results "
TRAIN = "train.py -d digits -e 1 -o nets -i 1 "
MISTAKES = [  # command, what the sentence has to contain
    ("find_transform.py net.pt evil.pt relu1 relu1 digits", "evil.pt"),
    ("find_transform.py net.pt net.pt relu1 relu1 digits -o file/below", "file/below"),
    ("find_transform.py gone.pt net.pt relu1 relu1 digits", "gone.pt"),
    ("find_transform.py net.pt half.pt relu1 relu1 digits", "half.pt"),
    ("find_transform.py net.pt words.pt relu1 relu1 digits", "words.pt"),
    ("find_transform.py net.pt net.pt relu9 relu1 digits -o results", "'relu9'; did you mean relu"),
    ("find_transform.py net.pt net.pt relu1 cov1 digits -o results", "'cov1'; did you mean conv"),
    ("find_transform.py net.pt net.pt relu1 relu1 digitz", "'digitz'; did you mean digits"),
    ("find_transform.py net.pt net.pt relu1 relu1 ./no/folder", "no/folder"),
    ("find_transform.py net.pt net.pt relu1 relu1 ./three -o results", "three"),
    ("find_transform.py net.pt net.pt relu1", "end_layer, dataset"),
    ("find_transform.py net.pt net.pt conv1 conv2 digits -o results --init eye", "6 and .* 16"),
    ("find_transform.py net.pt net.pt conv1 conv2 digits -o results --init perm", "6 and .* 16"),
    (STITCH + "--run-name taken", "results/taken"),
    (STITCH + "--run-name a/b", "a/b"),
    (STITCH + "--run-name ..", r"--run-name \.\. is no plain"),
    (STITCH + "--init ident", "ident"),
    (STITCH + "-e 0", "'0'"),
    (STITCH + "-e 1.5", "1.5"),
    (STITCH + "-lr __import__('os')", "__import__"),
    (STITCH + "-lr 1/0", "1/0"),
    (STITCH + "-lr 1" + "0" * 400, "10000"),
    (STITCH + "--seed -1", "-1"),
    (STITCH + "-b none", "none"),
    (STITCH + "--attack-ratio 2", "'2'"),
    (STITCH + "--epsilon 8", "'8'"),
    (STITCH + "--device cuda:99", "cuda:99"),
    (STITCH + "--device gpu", "gpu"),
    (STITCH + "--device meta", "meta"),
    (STITCH + "--epoch 3", "--epoch"),
    (STITCH + "--robust --madry", "--robust and --madry"),
    (STITCH + "--epsilon 4/255", "--epsilon"),
    (STITCH + "--madry --beta 3", "--beta"),
    # Training
    (TRAIN + "-m lenett", "'lenett'; did you mean lenet"),
    (TRAIN + "-d digitz", "'digitz'; did you mean digits"),
    (TRAIN + "-d three/train", "three/train"),
    (TRAIN + "-i 0", "nets/lenet/Digits/in0-gn0/model.pt"),
    (TRAIN + "-i 0 --resume", "nets/lenet/Digits/in0-gn0/model.pt"),
    (TRAIN + "-o file", "file"),
    (TRAIN + "-lr 1e30 --clip-norm 0", "1e.30"),
    (TRAIN + "-d mnist", "mnist.*digits needs no files"),
    (TRAIN + "--clip-norm -1", "-1"),
    (TRAIN + "--warmup 2.5", "2.5"),
    (TRAIN + "--robust --madry", "--robust and --madry"),
    (TRAIN + "--beta 3", "--beta"),
    (TRAIN + "stray", "stray"),
    (TRAIN + "--optimizer lion", "lion"),
    # Looking at networks
    ("layer_info.py tiny11", "'tiny11'; did you mean tiny10"),
    ("layer_info.py gone.pt", "gone.pt"),
    ("layer_info.py evil.pt", "evil.pt"),
    ("layer_info.py words.pt", "words.pt"),
    ("layer_info.py", "model"),
    ("eval_net.py gone.pt", "gone.pt"),
    ("eval_net.py three", "three"),
    ("eval_net.py half.pt", "half.pt"),
    ("eval_net.py evil.pt", "evil.pt"),
    ("eval_net.py net.pt -d ./three", "three"),
    ("eval_net.py net.pt -d digitz", "'digitz'; did you mean digits"),
    ("eval_net.py colour.pt", "cifar10.*no network here"),
    ("eval_net.py net.pt --mean 0.5,x", "x"),
    ("eval_net.py net.pt --mean 0.5,0.4,0.3", "mean"),
    ("eval_net.py net.pt --std 0", "std"),
    ("eval_net.py net.pt --split both", "both"),
    ("eval_net.py net.pt --json file/x.json", "file"),
]


def check_mistake(left, told, yard, before, tree):
    assert left.status == 2
    assert "Traceback" not in left.err
    assert left.err.count("\n") == 1
    assert re.search(told, left.err)
    assert tree(yard) == before
    assert not (yard / "marker").exists()


@pytest.mark.parametrize("command, told", MISTAKES, ids=[m[0][:90] for m in MISTAKES])
def test_a_mistake_is_one_sentence_and_changes_nothing(
    command, told, yard, call_script, tree, monkeypatch
):
    def refuse(*args, **kwargs):
        raise URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("DATASET_ROOT_PYTORCH", str(yard / "datasets"))
    monkeypatch.chdir(yard)
    before = tree(yard)
    left = call_script(*shlex.split(command.replace("'", r"\'")))
    check_mistake(left, told, yard, before, tree)
    assert left.out == ""


@pytest.mark.parametrize("command, told", MISTAKES[:2])
def test_the_same_in_a_process_of_its_own(command, told, yard, run_script, tree):
    before = tree(yard)
    check_mistake(run_script(*shlex.split(command), cwd=yard), told, yard, before, tree)
