"""Classes are matched by their names, in whatever order networks answer and datasets have them."""

import random

import pytest
import torch

from conftest import REPOSITORY
from digit_folders import WORDS, write_digits
from left_behind import only, strict_json
from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints.class_names import matched
from robust_stitching.evaluation import evaluate, predict
from robust_stitching.graphs.folding import Folded
from robust_stitching.graphs.graph import Graph
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import stitching
from robust_stitching.stitching.run import stitch
from streamed_files import write_imagenet

DIGITS, CIFAR10, CIFAR100 = map(data.names_of, ("digits", "cifar10", "cifar100"))


@pytest.fixture(scope="module")
def archived():
    """Two LeNets that know their digits."""
    return [REPOSITORY / f"archive/lenet/Digits/in{i}-gn{i}/model.pt" for i in (0, 1)]


ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)


# By name


@pytest.mark.parametrize("names", [DIGITS, CIFAR10, CIFAR100], ids=len)
def test_equal_sets_are_matched_by_name_whatever_their_order(names):
    for seed in range(5):
        shuffled = random.Random(seed).sample(names, len(names))
        found = matched(shuffled, names)
        assert [names[i] for i in found.order] == shuffled
        assert found.renamed == ()


def test_names_of_one_side_only_stand_for_each_other_in_their_order():
    classes = sorted("plane" if name == "airplane" else name for name in CIFAR10)
    found = matched(CIFAR10, classes)
    assert [classes[i] for i in found.order] == ["plane", *CIFAR10[1:]]
    assert found.renamed == (("plane", "airplane"),)
    assert str(found) == "plane for airplane"
    found = matched(("cat", "dog", "horse"), ("bird", "dog", "ant"))
    assert found.order == (0, 1, 2) and found.renamed == (("bird", "cat"), ("ant", "horse"))


def test_whole_numbers_have_their_own_order_among_names_that_are_left():
    numbered = sorted(str(i) for i in range(1, 11))
    assert numbered[:3] == ["1", "10", "2"]
    found = matched(CIFAR10, numbered)
    assert [int(numbered[i]) for i in found.order] == list(range(1, 11))
    assert len(found.renamed) == 10
    assert str(found) == "1 for airplane, 2 for automobile, 3 for bird and 7 more"
    hundred = sorted(str(i) for i in range(100))
    assert [int(hundred[i]) for i in matched(CIFAR100, hundred).order] == list(range(100))


def test_other_whole_numbers_only_count():
    from_one = sorted(str(i) for i in range(1, 11))
    found = matched(DIGITS, from_one)
    assert [int(from_one[i]) for i in found.order] == list(range(1, 11))
    assert len(found.renamed) == 10
    assert matched(from_one, from_one[::-1]).renamed == ()


def test_spelling_is_matched_and_told():
    found = matched(("T-shirt", "Ankle boot", "bag"), ("Bag", "ankle_boot", "t-shirt"))
    assert found.order == (2, 1, 0)
    assert set(found.renamed) == {
        ("Bag", "bag"),
        ("ankle_boot", "Ankle boot"),
        ("t-shirt", "T-shirt"),
    }
    assert matched(("a", "A", "b"), ("b", "A", "a")).order == (2, 1, 0)
    assert matched(("x", "x"), ("x", "x")).order == (0, 1)


def test_every_class_is_one_answer():
    words = [f"{a}{b}" for a in "abcAB_" for b in "12 "]
    for seed in range(200):
        rng = random.Random(seed)
        n = rng.randint(1, 12)
        found = matched(rng.choices(words, k=n), rng.choices(words, k=n))
        assert sorted(found.order) == list(range(n))


# Splits


def test_a_split_in_another_order(digits):
    test = digits[1]
    found = test.relabelled(ORDER)
    assert found.classes == tuple(DIGITS[i] for i in ORDER)
    assert [found.classes[i] for i in found.labels] == [DIGITS[i] for i in test.labels]
    back = found.relabelled([ORDER.index(i) for i in range(10)])
    assert torch.equal(back.labels, test.labels) and back.classes == test.classes
    assert torch.equal(found.between(5, 9).labels, found.labels[5:9])


def test_a_streamed_split_in_another_order(tmp_path, monkeypatch):
    test = data.load(write_imagenet(tmp_path, monkeypatch) and "imagenet")[1]
    found = test.relabelled((2, 0, 1))
    assert found.classes == tuple(test.classes[i] for i in (2, 0, 1))
    before, after = (torch.cat([labels for _, labels in s.batches(5)]) for s in (test, found))
    assert [found.classes[i] for i in after] == [test.classes[i] for i in before]


def test_attributes_in_another_order(digits):
    labels = torch.tensor([[0, 1, 1], [1, 0, 1]])
    split = data.Split("Faces", digits[1].images[:2], labels, ("bald", "young", "smiling"))
    found = split.relabelled((2, 0, 1))
    assert found.classes == ("smiling", "bald", "young")
    assert found.labels.tolist() == [[1, 0, 1], [1, 1, 0]]


def test_known_datasets_have_the_names_that_their_files_have(digits):
    assert data.names_of("digits") == digits[1].classes == tuple("0123456789")
    for key, count in (("digits", 10), ("fashion", 10), ("cifar10", 10), ("cifar100", 100)):
        assert len(set(data.names_of(key))) == len(data.names_of(key)) == count
    assert list(CIFAR100) == sorted(CIFAR100) and list(CIFAR10) == sorted(CIFAR10)
    from robust_stitching.data.vision import torchvision

    assert list(data.names_of("fashion")) == torchvision().datasets.FashionMNIST.classes
    assert data.names_of("imagenet") is None and data.names_of("/nowhere") is None


# Networks


def in_order(source, path, order=ORDER, **more):
    """A copy of a lenet whose answers stand in another order, and which says so."""
    net = checkpoints.load(source).network
    rows = torch.tensor(order)
    with torch.no_grad():
        for parameter in (net.fc3.weight, net.fc3.bias):
            parameter.copy_(parameter[rows])
    checkpoints.save(path, net, "digits", {}, [DIGITS[i] for i in order])
    return path


@pytest.mark.parametrize("stitched", [False, True], ids=["", "of a stitched network"])
def test_a_view_answers_in_another_order_and_has_the_same_layers(stitched, archived, digits):
    net, end = (checkpoints.load(path).network for path in archived)
    if stitched:
        net = StitchedNetwork(net, "relu2", end, "relu2").eval()
    kind, test = type(net), digits[1].between(0, 50)
    view = models.answering(net, ORDER)
    expected = predict(net, test)[:, list(ORDER)]
    assert torch.equal(predict(view, test), expected)
    torch.testing.assert_close(predict(Folded(view), test), expected)
    assert [*Graph(view).layers] == [*Graph(net).layers]
    assert Graph(view).answer_shape == (10,)
    assert type(net) is kind and torch.equal(predict(net, test)[:, list(ORDER)], expected)
    assert all(a is b for a, b in zip(view.parameters(), net.parameters(), strict=True))
    StitchedNetwork(view, "transform" if stitched else "relu3", end, "relu3")


def test_names_are_kept_in_the_file(archived, tmp_path, digits):
    loaded = checkpoints.load(in_order(archived[0], tmp_path / "a.pt"))
    assert loaded.class_names == tuple(DIGITS[i] for i in ORDER)
    split, notes = loaded.answerable(digits[1])
    assert notes == []
    ours = evaluate(checkpoints.load(archived[0]).network, digits[1])
    assert evaluate(loaded.network, split).accuracy == ours.accuracy


def test_old_files_have_the_names_of_their_dataset_if_it_is_a_known_one(archived, tmp_path, digits):
    kept = torch.load(archived[0], weights_only=True)
    kept.pop("classes", None)
    for dataset, names in (("digits", DIGITS), ("cifar10", CIFAR10), ("/data/mine", None)):
        torch.save({**kept, "dataset": dataset}, tmp_path / "old.pt")
        loaded = checkpoints.load(tmp_path / "old.pt")
        assert loaded.class_names == names
    split, (note,) = loaded.answerable(digits[1])
    assert split is digits[1] and "does not say what its 10 classes are called" in note


@pytest.mark.parametrize("names", [["0"] * 3, "0123456789"[:9], 7, [*range(10)]], ids=str)
def test_names_that_cannot_be_are_refused(names, archived, tmp_path):
    kept = torch.load(archived[0], weights_only=True)
    torch.save({**kept, "classes": names}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="does not hold what a network's file holds"):
        checkpoints.load(tmp_path / "x.pt")


NAMES = {
    "as they are": (DIGITS, None),
    "one renamed": ((*DIGITS[:3], "three", *DIGITS[4:]), "taken were three for 3"),
    "two renamed": (("null", *DIGITS[1:8], "acht", "9"), "taken were acht for 0, null for 8"),
    "words": (WORDS, "taken were eight for 0, five for 1, four for 2 and 7 more"),
    "numbers": ([f"{i:02d}" for i in range(10)], "taken were 00 for 0, 01 for 1"),
    "from one": ([f"{i + 1}" for i in range(10)], "taken were 1 for 0, 2 for 1, 3 for 2 and 7"),
}


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("own", [DIGITS, ORDER], ids=["plain network", "network in another order"])
def test_eval_net_on_folders_under_other_names(case, own, call_script, archived, digits, tmp_path):
    names, told = NAMES[case]
    folder = write_digits(tmp_path / "folder", digits, names)
    network = archived[0] if own is DIGITS else in_order(archived[0], tmp_path / "x.pt")
    done = call_script("eval_net.py", network, "-d", folder, "--json", tmp_path / "x.json")
    assert done.status == 0
    found = strict_json(tmp_path / "x.json")
    expected = evaluate(checkpoints.load(archived[0]).network, digits[1].between(0, 60))
    if told is None:
        assert "other names" not in done.err and found["notes"] == []
    elif own is DIGITS:
        assert told in done.err and any(told in note for note in found["notes"])
    if case in ("as they are", "one renamed", "numbers", "from one"):
        assert found["accuracy"] == pytest.approx(expected.accuracy)
    elif case == "words":
        assert "classes of folder have other names" in done.err


def test_published_networks_have_the_names_of_what_they_were_made_for(
    call_script, archived, digits, tmp_path
):
    """Where a path or -d names it; a folder of images of that dataset brings its own order."""
    bare = tmp_path / "lenet" / "Digits" / "x.pt"
    bare.parent.mkdir(parents=True)
    torch.save(dict(checkpoints.load(archived[0]).network.state_dict()), bare)
    folder = write_digits(tmp_path / "mine", digits, (*DIGITS[:3], "three", *DIGITS[4:]))
    done = call_script("eval_net.py", bare, "-d", folder, "--json", tmp_path / "x.json")
    assert done.status == 0 and "three for 3" in done.err
    expected = evaluate(checkpoints.load(archived[0]).network, digits[1].between(0, 60))
    assert strict_json(tmp_path / "x.json")["accuracy"] == pytest.approx(expected.accuracy)


def test_attacks_are_on_the_classes_that_they_name(call_script, archived, digits, tmp_path):
    network = in_order(archived[0], tmp_path / "x.pt")
    options = ("--tier", "quick", "--steps", "2", "--epsilon", "0.05", "--n-images", "50")
    found = []
    for path in (archived[0], network):
        done = call_script("eval_net_robustness.py", path, *options, "--json", tmp_path / "r.json")
        assert done.status == 0
        found.append(strict_json(tmp_path / "r.json"))
    assert found[0]["robust"] == found[1]["robust"] and found[0]["accuracy"] > 0.9


def test_answers_are_compared_class_by_class(call_script, archived, tmp_path):
    """A network and its copy in another order agree on everything."""
    network = in_order(archived[0], tmp_path / "x.pt")
    options = "--layers1 relu3 --layers2 relu3 --measures agreement jensen-shannon"
    for i, pair in enumerate(([archived[0], network], [network, archived[0]], [network, network])):
        where = ("-o", tmp_path, "--run-name", str(i))
        done = call_script("compare_nets.py", *pair, "digits", *options.split(), *where)
        assert done.status == 0
        record = strict_json(only(tmp_path / str(i) / "json"))
        assert record["measures"]["agreement"]["value"] == 1
        assert record["measures"]["jensen-shannon"]["value"] == pytest.approx(0, abs=1e-9)
        assert record["models"][0]["accuracy"] == record["models"][1]["accuracy"] > 0.9


# Stitches


@pytest.fixture(scope="module")
def plain(archived, digits):
    return stitched(archived, digits)


def stitched(paths, digits, **options):
    front, end = map(checkpoints.load, paths)
    options = {"epochs": 2, "target_type": "soft_12", "robust_images": 20, **options}
    train, test = digits[0].between(0, 256), digits[1].between(0, 100)
    config = stitching("relu3", "relu3", eval_epsilon=0.05, **options)
    return stitch(front, end, train, test, config, elsewhere=test)


@pytest.mark.parametrize("which", ["front", "end", "both"])
def test_a_stitch_does_not_depend_on_the_order_of_the_classes(
    which, plain, archived, digits, tmp_path
):
    paths = list(archived)
    for i, name in enumerate(("front", "end")):
        if which in (name, "both"):
            order = ORDER if i else ORDER[::-1]
            paths[i] = in_order(archived[i], tmp_path / f"{name}.pt", order)
    found = stitched(paths, digits)
    assert found.notes == plain.notes == []
    for name, scores in plain.scores.items():
        other = found.scores[name]
        assert other.accuracy == scores.accuracy, name
        assert other.loss == pytest.approx(scores.loss, rel=1e-4), name
        assert other.outputs.agreement == scores.outputs.agreement, name
        assert found.elsewhere.scores[name].accuracy == scores.accuracy
    assert found.measured.attacks.clean == plain.measured.attacks.clean
    torch.testing.assert_close(found.final.weight, plain.final.weight)
    assert found.class_names == checkpoints.load(paths[1]).class_names


def test_the_stitched_network_keeps_the_names_of_the_end(call_script, archived, digits, tmp_path):
    folder = write_digits(tmp_path / "three", digits, (*DIGITS[:3], "three", *DIGITS[4:]))
    end = in_order(archived[1], tmp_path / "end.pt")
    flags = f"relu3 relu3 {folder} -e 1 --no-robustness --no-pinv --run-name r -o {tmp_path}"
    done = call_script("find_transform.py", archived[0], end, *flags.split())
    assert done.status == 0
    assert done.err.count("three for 3") == 2  # the front's, and the end's
    record = strict_json(only(tmp_path / "r" / "json"))
    assert sum("three for 3" in note for note in record["notes"]) == 2
    frank = only(tmp_path / "r" / "frank_model")
    assert checkpoints.load(frank).class_names == tuple(DIGITS[i] for i in ORDER)
    done = call_script("eval_net.py", frank, "--json", tmp_path / "x.json")
    assert strict_json(tmp_path / "x.json")["accuracy"] == record["stitched"]["accuracy"]
