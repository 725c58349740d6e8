"""Robustness through the scripts: evaluation, adversarial training, stitching, mistakes."""

import re
import shlex
import sys

import pytest
import torch
from torch import equal

from conftest import REPOSITORY
from left_behind import only, strict_json
from robust_stitching import checkpoints, models
from robust_stitching.evaluation import kept
from robust_stitching.evaluation.intervals import wilson

LENET = REPOSITORY / "archive/lenet/Digits/in0-gn0/model.pt"
MADRY = REPOSITORY / "archive/lenet/Digits/in0-gn0-madry-eps0.3/model.pt"
NETWORKS = ["front", "end", "untrained", "stitched", "direct_matching"]
QUICK = ["--tier", "quick", "--steps", "3", "--n-images", "40", "-b", "10"]


# Evaluation


def test_a_network_under_attack(call_script, tmp_path):
    flags = ["--tier", "quick", "--n-images", "40", "--epsilon", "0.5*0.2"]
    done = call_script("eval_net_robustness.py", LENET, *flags, "--json", tmp_path / "x.json")
    assert (done.status, done.err) == (0, "")
    found = strict_json(tmp_path / "x.json")
    assert list(found["robust"]) == ["FGSM", "PGD-20", "worst case"]
    assert (found["n_images"], found["norm"], found["dataset"]) == (40, "linf", "Digits")
    assert found["epsilon"] == pytest.approx(0.1)
    images = found["images"]
    assert len(images) == 40
    assert found["accuracy"] == pytest.approx(sum(image["right"] for image in images) / 40)
    for name, accuracy in found["robust"].items():
        fooled = [
            image["fooled_at_step"] if name == "worst case" else name in image["fooled_at_step"]
            for image in images
        ]
        alone = [i["right"] and not f for i, f in zip(images, fooled, strict=True)]
        assert accuracy == pytest.approx(sum(alone) / 40)
        low, high = wilson(accuracy, 40)
        row = rf"{accuracy:.2%} +{low:.2%} – {high:.2%} "
        assert re.search(rf"^{name} +{row}", done.out, re.MULTILINE)
        assert found["robust_interval"][name] == pytest.approx([low, high])
    assert re.search(rf"^none +{found['accuracy']:.2%} ", done.out, re.MULTILINE)
    assert "40 test images of Digits, linf radius 0.1, seed 0" in done.out
    for image in images:
        assert image["right"] or not image["fooled_at_step"]
        assert all(0 <= step <= 20 for step in image["fooled_at_step"].values())


def test_an_l2_ball(call_script, tmp_path):
    flags = [*QUICK, "--norm", "l2", "--json", tmp_path / "x.json"]
    done = call_script("eval_net_robustness.py", LENET, *flags)
    assert (done.status, done.err) == (0, "")
    found = strict_json(tmp_path / "x.json")
    assert (found["norm"], found["epsilon"]) == ("l2", 0.5)
    assert "l2 radius 0.5" in done.out
    wide = call_script("eval_net_robustness.py", LENET, *flags, "--epsilon", "40")
    assert wide.status == 0  # not bounded by 1, as an l-inf radius is
    assert strict_json(tmp_path / "x.json")["robust"]["worst case"] < found["robust"]["worst case"]


def test_an_interrupted_evaluation_goes_on(call_script, tmp_path, monkeypatch):
    command = ["eval_net_robustness.py", LENET, *QUICK, "--json"]
    assert call_script(*command, tmp_path / "whole.json").status == 0
    path, append, written = tmp_path / "kept", kept._Journal.append, []

    def interrupt(journal, part):
        append(journal, part)
        written.append(part.start)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(kept._Journal, "append", interrupt)
    left = call_script(*command, tmp_path / "parts.json", "--keep", path)
    assert left.status == 130
    assert not (tmp_path / "parts.json").exists()
    done = call_script(*command, tmp_path / "parts.json", "--keep", path)
    assert (done.status, done.err) == (0, "")
    assert written == [0, 10, 20, 30]
    assert strict_json(tmp_path / "parts.json") == strict_json(tmp_path / "whole.json")
    whole = strict_json(tmp_path / "whole.json")
    fooled = [i for i, image in enumerate(whole["images"]) if image["fooled_at_step"]]
    places = [places for places, _ in kept.adversarial_images(path)]
    assert torch.cat(places).tolist() == fooled


def test_the_default_tier(call_script, tmp_path):
    flags = ["--epsilon", "0.2", "--n-images", "30", "--steps", "5", "--json", tmp_path / "x.json"]
    done = call_script("eval_net_robustness.py", MADRY, *flags)
    assert (done.status, done.err) == (0, "")
    found = strict_json(tmp_path / "x.json")
    names = ["FGSM", "PGD-5", "APGD-CE", "APGD-DLR", "APGD-T", "Square"]
    assert list(found["robust"]) == [*names, "worst case"]
    assert found["cumulative"] == ["APGD-T", "Square"]
    assert (found["tier"], found["targets"], found["queries"]) == ("default", 9, 500)
    left = [image["right"] for image in found["images"]]
    for name in names:
        here = [name in image["fooled_at_step"] for image in found["images"]]
        if name in found["cumulative"]:
            assert found["attacked"][name] == sum(left)
            left = [stands and not fooled for stands, fooled in zip(left, here, strict=True)]
            assert found["robust"][name] == pytest.approx(sum(left) / 30)
        else:
            left = [stands and not fooled for stands, fooled in zip(left, here, strict=True)]
            right = [i["right"] and not f for i, f in zip(found["images"], here, strict=True)]
            assert found["robust"][name] == pytest.approx(sum(right) / 30)
    assert found["robust"]["Square"] == found["robust"]["worst case"]
    assert "APGD-T and Square were run on the images that every attack before had left" in done.out


# Training


@pytest.mark.parametrize("flag, kind", [("--madry", "madry"), ("--robust", "trades")])
def test_adversarial_training(flag, kind, call_script, tmp_path):
    train = shlex.split(f"train.py -m lenet -d digits -e 1 -b 256 -o {tmp_path}")
    attack = f"{flag} --epsilon 0.2 --step-size 0.1 --perturb-steps 2 --ramp 0".split()
    standard, robust = call_script(*train), call_script(*train, *attack)
    assert (standard.status, robust.status) == (0, 0)
    assert "under attack" in robust.out and "under attack" not in standard.out
    folder = tmp_path / "lenet" / "Digits"
    assert {path.name for path in folder.iterdir()} == {"in0-gn0", f"in0-gn0-{kind}-eps0.2"}
    path = folder / f"in0-gn0-{kind}-eps0.2" / "model.pt"
    training = checkpoints.load(path).training
    assert training["kind"] == kind
    assert training["plan"]["adversary"]["perturb_steps"] == 2
    own, other = (torch.load(f / "model.pt", weights_only=True) for f in folder.iterdir())
    assert not equal(own["state_dict"]["fc3.weight"], other["state_dict"]["fc3.weight"])
    done = call_script("eval_net.py", path, "--json", tmp_path / "x.json")
    assert done.status == 0
    accuracy = strict_json(tmp_path / "x.json")["accuracy"]
    assert f"test loss {strict_json(tmp_path / 'x.json')['loss']:.4f}" in robust.out
    assert f"{accuracy:.2%}" in robust.out


# Stitching


def test_an_attacked_stitch(call_script, lenets, tmp_path):
    flags = "relu3 relu3 digits -e 1 -b 256 --madry --perturb-steps 1 --robust-images 20"
    where = ["-o", tmp_path, "--run-name", "x", "--eval-epsilon", "0.05"]
    done = call_script("find_transform.py", *lenets, *flags.split(), *where)
    assert done.status == 0
    assert "find_transform.py: warning: one step of 0.007843 go" in done.err
    found = strict_json(only(tmp_path / "x" / "json"))
    attacks = found["attacks"]
    assert (attacks["tier"], attacks["cumulative"]) == ("gradient", [])
    assert (attacks["n_images"], attacks["epsilon"]) == (20, pytest.approx(0.05))
    assert "0.05, 20 test images" in done.out
    for name in NETWORKS:
        robust = found[name]["robust"]
        assert list(robust) == ["FGSM", "PGD-20", "APGD-CE", "APGD-DLR", "worst case"]
        for accuracy in robust.values():
            assert accuracy * 20 == pytest.approx(round(accuracy * 20))
            assert f"{accuracy:.2%}" in done.out
        assert robust["worst case"] <= min(robust.values())
    assert list(found["transfer"]) == ["front", "end", "stitched"]
    assert all(list(row) == NETWORKS for row in found["transfer"].values())
    assert found["curve"][0]["train_robust_accuracy"] is not None

    frank = only(tmp_path / "x" / "frank_model")
    assert checkpoints.load(frank).training["plan"]["objective"]["adversary"]["kind"] == "madry"
    done = call_script("eval_net_robustness.py", frank, *QUICK, "--json", tmp_path / "x.json")
    assert (done.status, done.err) == (0, "")
    assert 0 <= strict_json(tmp_path / "x.json")["robust"]["worst case"] <= 1
    assert strict_json(tmp_path / "x.json")["n_images"] == 40


def test_a_stitch_without_robustness(call_script, lenets, tmp_path):
    flags = f"fc2 fc2 digits -e 1 --no-robustness --no-pinv -o {tmp_path} --run-name x"
    done = call_script("find_transform.py", *lenets, *flags.split())
    assert (done.status, done.err) == (0, "")
    found = strict_json(only(tmp_path / "x" / "json"))
    assert found["transfer"] is found["attacks"] is None
    assert all(found[name]["robust"] is None for name in NETWORKS[:-1])
    assert "attack" not in done.out


# Mistakes


@pytest.fixture(scope="module")
def yard(tmp_path_factory, lenets):
    here = tmp_path_factory.mktemp("yard")
    (here / "net.pt").write_bytes(lenets[0].read_bytes())
    (here / "words.pt").write_text("words")
    (here / "other.pt").write_bytes(lenets[0].read_bytes())
    bare = models.build("lenet", num_classes=10, in_channels=1).state_dict()
    (here / "lenet" / "Digits").mkdir(parents=True)
    torch.save(bare, here / "lenet" / "Digits" / "bare.pt")
    return here


ATTACK = "eval_net_robustness.py net.pt --n-images 20 --tier quick --json x.json "
TRAIN = "train.py -m lenet -d digits -e 1 -o nets "
STITCH = "find_transform.py net.pt net.pt fc2 fc2 digits -e 1 -o results "
MISTAKES = [  # command, what the sentence has to contain
    (ATTACK + "--epsilon 0", "'0'"),
    (ATTACK + "--epsilon -1", "'-1'"),
    (ATTACK + "--epsilon 2", "2"),
    (ATTACK + "--epsilon 8/0", "8/0"),
    (ATTACK + "--epsilon nan", "nan"),
    (ATTACK + "--norm l1", "l1"),
    (ATTACK + "--norm l2 --epsilon 1e29", "choose 32 at most"),
    (ATTACK + "--epsilon 1e39", "1e+39"),
    (ATTACK + "--steps 0", "'0'"),
    (ATTACK + "--step-size 0", "'0'"),
    (ATTACK + "--restarts 0", "'0'"),
    (ATTACK + "--n-images 0", "'0'"),
    (ATTACK + "--tier full", "full"),
    (ATTACK + "--tier standard --steps 5", "--steps"),
    (ATTACK + "--tier standard --restarts 2", "--restarts"),
    (ATTACK + "--tier standard", "pyautoattack"),
    (ATTACK + "--keep words.pt", "words.pt"),
    (ATTACK + "--keep other.pt", "other.pt"),
    (ATTACK + "--keep net.pt/x.pt", "net.pt"),
    (TRAIN + "--madry --epsilon 0", "'0'"),
    (TRAIN + "--madry --epsilon -1", "'-1'"),
    (TRAIN + "--madry --epsilon 2", "'2'"),
    (TRAIN + "--madry --attack-ratio 1.5", "1.5"),
    (TRAIN + "--robust --attack-ratio -0.5", "-0.5"),
    (TRAIN + "--robust --perturb-steps 0", "'0'"),
    (TRAIN + "--robust --step-size 0", "'0'"),
    (TRAIN + "--robust --ramp -1", "-1"),
    (TRAIN + "--robust --beta -1", "-1"),
    (TRAIN + "--robust --madry", "--robust and --madry"),
    (TRAIN + "--epsilon 4/255", "--epsilon"),
    (TRAIN + "--perturb-steps 3", "--perturb-steps"),
    (TRAIN + "--madry --beta 3", "--beta"),
    (STITCH + "--robust-images 0", "'0'"),
    (STITCH + "--eval-epsilon 0", "'0'"),
    (STITCH + "--eval-epsilon 2", "'2'"),
    (STITCH + "--tier full", "full"),
    (STITCH + "--tier standard", "pyautoattack"),
    (STITCH + "--tier quick --no-robustness", "--tier"),
    (STITCH + "--madry --attack-ratio 1.5", "1.5"),
]


def check_mistake(left, told):
    assert left.status == 2
    assert "Traceback" not in left.err
    assert left.err.count("\n") == 1
    assert told in left.err
    assert left.out == ""


@pytest.mark.parametrize("command, told", MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_sentence(command, told, yard, call_script, tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)  # as if it were not installed
    monkeypatch.chdir(yard)
    before = tree(yard)
    check_mistake(call_script(*shlex.split(command)), told)
    assert tree(yard) == before


BARE = "eval_net_robustness.py lenet/Digits/bare.pt --tier quick --steps 2 --n-images 20 "
OTHERS = [
    "--seed 1",
    "--steps 3",
    "--tier gradient",
    "--epsilon 0.2",
    "--norm l2",
    "--mean 0.9 --std 0.1",
]


@pytest.mark.parametrize("other", OTHERS)
def test_a_file_kept_with_other_settings(other, yard, call_script, tmp_path, monkeypatch):
    monkeypatch.chdir(yard)
    kept = tmp_path / "kept.pt"
    command = [*shlex.split(BARE), "--keep", kept]
    assert call_script(*command).status == 0
    before = kept.read_bytes()
    check_mistake(call_script(*command, *other.split()), str(kept))
    assert kept.read_bytes() == before


def test_a_file_kept_of_another_network(yard, call_script, lenets, tmp_path):
    path, kept = tmp_path / "net.pt", tmp_path / "kept.pt"
    path.write_bytes(lenets[0].read_bytes())
    assert call_script("eval_net_robustness.py", path, *QUICK, "--keep", kept).status == 0
    path.write_bytes(lenets[1].read_bytes())  # trained anew
    check_mistake(
        call_script("eval_net_robustness.py", path, *QUICK, "--keep", kept),
        str(kept),
    )
