"""Arguments in each other's places, names where files belong, layers of the other network, lists
with commas: what the commands say."""

import pytest

from left_behind import names, strict_json
from robust_stitching import checkpoints, models
from robust_stitching.basics.errors import UserError
from robust_stitching.plans import stitching
from robust_stitching.similarity import compare
from robust_stitching.stitching.run import stitch

ORDER = "the order is FRONT_MODEL END_MODEL FRONT_LAYER END_LAYER DATASET"
CROSS_ORDER = f"{ORDER} EVAL_DATASET"
TRAIN = "train it first, 'python src/bin/train.py -m "
STITCH, CROSS = "find_transform.py", "find_cross_dataset_transform.py"
ROBUSTNESS, COMPARE = "eval_net_robustness.py", "compare_nets.py"
MISTAKES = [  # command, what is said
    (f"{STITCH} a.pt relu1 b.pt relu1 digits", "END_MODEL, but 'relu1' is none; " + ORDER),
    (f"{STITCH} relu1 relu1 a.pt b.pt digits", "FRONT_MODEL, but 'relu1' is none; " + ORDER),
    (f"{STITCH} digits a.pt b.pt relu1 relu1", "'digits' looks like a dataset; " + ORDER),
    (f"{STITCH} a.pt b.pt digits relu1 relu1", "FRONT_LAYER, but 'digits' looks like a dat"),
    (f"{STITCH} a.pt digits b.pt relu1 relu1", "END_MODEL, but 'digits' looks like a dataset"),
    (f"{STITCH} relu1 a.pt relu1 b.pt digits", "FRONT_MODEL, but 'relu1' is none; " + ORDER),
    (f"{STITCH} a.pt layer1.0.add b.pt fc1 digits", "'layer1.0.add' is none; " + ORDER),
    (f"{STITCH} a.pt ./pictures relu1 b.pt relu1", "'./pictures' looks like a dataset"),
    (f"{CROSS} digits mnist a.pt b.pt relu1 relu1", "'digits' looks like a data"),
    (f"{CROSS} a.pt relu1 b.pt relu1 digits mnist", "'relu1' is none; " + CROSS_ORDER),
    (f"{COMPARE} digits a.pt b.pt", "the order is MODEL1 MODEL2 DATASET."),
    (f"{COMPARE} a.pt digits b.pt", "MODEL2, but 'digits' looks like a dataset"),
    # Names of networks where files belong
    (f"{STITCH} tiny10 a.pt bn3 relu1 digits", f"{TRAIN}tiny10 -d digits', and give"),
    (f"{STITCH} a.pt resnet_w1 relu1 bn1 mnist", "snapshots/resnet_w1/MNIST/in0-gn0/model.pt"),
    (f"{COMPARE} lenet tiny10 fashion", f"{TRAIN}lenet -d fashion'"),
    ("eval_net.py tiny10", f"{TRAIN}tiny10 -d digits'"),
    ("eval_net.py lenet -d mnist", f"{TRAIN}lenet -d mnist'"),
    (f"{ROBUSTNESS} torchvision:resnet18", f"{TRAIN}torchvision:resnet18 -d digits'"),
    ("eval_net.py torchvision:resnet19", "unknown"),
    ("eval_net.py digits", "CHECKPOINT, but 'digits' looks like a dataset."),
    ("eval_net.py bn3", "CHECKPOINT, but 'bn3' is none."),
    # What is left to others to say
    ("eval_net.py gone.pt", "the checkpoint gone.pt does not exist"),
    ("eval_net.py no/where", "the checkpoint no/where does not exist"),
    (f"{STITCH} a.pt no/where relu1 relu1 digits", "the checkpoint no/where does not exist"),
    (f"{STITCH} a.pt b.pt relu1 relu1 no/where", "no/where"),
    ("eval_net.py pictures", "'pictures' is a folder"),
    (f"{STITCH} a.pt pictures relu1 relu1 digits", "'pictures' is a folder"),
    (f"{STITCH} a.pt b.pt relu1 relu1 digitz", "'digitz'; did you mean digits"),
    (f"{STITCH} a.pt b.pt relu1 rel1 digits", "'rel1'; did you mean relu1"),
    (f"{STITCH} a.pt b.pt mnist relu1 digits", "unknown front layer 'mnist'"),
    # Layers of the other network
    (f"{STITCH} a.pt t.pt bn3 relu1 digits", "'bn3' is a layer of the end model."),
    (f"{STITCH} a.pt t.pt relu1 fc1 digits", "'fc1' is a layer of the front model."),
    (f"{CROSS} t.pt a.pt fc1 bn3 digits digits", "'bn3' is a layer of the front model."),
    (f"{COMPARE} a.pt t.pt digits --layers1 bn3 bn4", "'bn3' is a layer of model 2. 'bn4' is a"),
    (f"{COMPARE} a.pt t.pt digits --layers2 bn3,fc2", "'fc2' is a layer of model 1."),
    # Lists
    (f"{COMPARE} a.pt b.pt digits --layers1 ,", "--layers1: expected at least one argument"),
    (f"{COMPARE} a.pt b.pt digits --measures cka,ckb", "unknown measure 'ckb'; did you mean"),
]  # fmt: skip


@pytest.fixture(scope="module")
def yard(lenets, tiny10s, tmp_path_factory):
    here = tmp_path_factory.mktemp("yard")
    for name, path in (("a.pt", lenets[0]), ("b.pt", lenets[1]), ("t.pt", tiny10s[0])):
        (here / name).write_bytes(path.read_bytes())
    (here / "pictures").mkdir()
    return here


@pytest.mark.parametrize("command, told", MISTAKES, ids=[m[0] for m in MISTAKES])
def test_what_is_said(command, told, yard, call_script, monkeypatch):
    monkeypatch.chdir(yard)
    script, *rest = command.split()
    where = [] if script.startswith("eval") else ["-o", "results"]
    done = call_script(script, *rest, *where)
    assert (done.status, done.out) == (2, "")
    assert told in done.err and done.err.count("\n") == 1
    assert names(yard) == ["a.pt", "b.pt", "pictures", "t.pt"]


def test_a_file_of_a_networks_name_is_a_file(yard, call_script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lenet").write_bytes((yard / "a.pt").read_bytes())
    assert call_script("eval_net.py", "lenet").status == 0


def test_a_layer_may_be_called_as_a_dataset_is(digits, tmp_path, call_script):
    """Where all else is in its place."""
    network = models.build("lenet", num_classes=10, in_channels=1)
    path = tmp_path / "x.pt"
    checkpoints.save(path, network, "digits", {})
    done = call_script(STITCH, path, path, "mnist", "conv1", "digits", "-o", tmp_path / "out")
    assert "unknown front layer 'mnist'" in done.err and "order" not in done.err


def test_the_library_says_whose_layer_it_is(lenets, tiny10s, digits):
    lenet, tiny10 = (checkpoints.load(paths[0]) for paths in (lenets, tiny10s))
    with pytest.raises(UserError, match=r"'bn3' is a layer of the end model\.$"):
        stitch(lenet, tiny10, *digits, stitching("bn3", "bn3"))
    with pytest.raises(UserError, match=r"'fc1' is a layer of model 1\.$"):
        compare(lenet.network, tiny10.network, digits[1], ["fc1"], ["fc1"])
    with pytest.raises(UserError, match=r"'nowhere'.* lists all 13 layers\.$"):
        stitch(lenet, tiny10, *digits, stitching("nowhere", "bn3"))


@pytest.mark.parametrize("commas", [["relu1,relu3"], ["relu1,", "relu3"], [" relu1 , relu3,"]])
def test_lists_with_commas(commas, yard, call_script, tmp_path):
    both = ["--layers1", *commas, "--layers2", "relu2", "--measures", "svcca,debiased-cka"]
    where = ["-o", tmp_path, "--run-name", "x", "--n-images", "200"]
    done = call_script(COMPARE, yard / "a.pt", yard / "b.pt", "digits", *both, *where)
    assert (done.status, done.err) == (0, "")
    record = strict_json(tmp_path / "x" / "json" / "lenet-lenet.json")
    assert record["layers1"] == ["relu1", "relu3"] and record["layers2"] == ["relu2"]
    assert list(record["measures"]) == ["debiased-cka", "svcca"]


@pytest.mark.parametrize(
    "command",
    [
        *("eval_net.py a\0.pt", "eval_net.py a.pt --json x\0y", "eval_net.py a.pt -d a\0/b"),
        *("layer_info.py \0", f"{ROBUSTNESS} a.pt --keep k\0", "train.py -o a\0b"),
        *("train.py -d ./pic\0tures", "train.py -m le\0net", "collect_results.py re\0sults"),
        *(f"{STITCH} a.pt b.pt relu1 relu1 digits -o \0", f"{COMPARE} a.pt b\0 digits"),
        *(f"{CROSS} a.pt b.pt relu1 relu1 digits /\0", f"{COMPARE} a.pt b.pt digits --layers1 \0"),
        f"{STITCH} a.pt b.pt relu1 relu1 digits --run-name \0",
    ],
)
def test_no_argument_has_a_nul_in_it(command, yard, call_script, monkeypatch):
    monkeypatch.chdir(yard)
    done = call_script(*command.split(" "))
    assert (done.status, done.out) == (2, "")
    assert "has a NUL in it" in done.err and done.err.count("\n") == 1 and "\0" not in done.err
