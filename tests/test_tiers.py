"""Tiers: which attacks they are, on which images they are run, how their numbers are to be read."""

import json
from dataclasses import replace
from statistics import median_low

import pytest
import torch

from conftest import REPOSITORY
from robust_stitching import checkpoints
from robust_stitching.attacks import Threat
from robust_stitching.basics.errors import UserError
from robust_stitching.data import Split
from robust_stitching.evaluation.record import record_under_attack as as_record
from robust_stitching.evaluation.robustness import WORST, robustness, suite
from robust_stitching.evaluation.suites import Suite, cumulative_note
from robust_stitching.report.attack import as_text
from sure_networks import Linear, planted, rows, scaled_by

THREAT = Threat(0.1)
QUICK = ["FGSM", "PGD-20"]
GRADIENT = [*QUICK, "APGD-CE", "APGD-DLR"]
DEFAULT = [*GRADIENT, "APGD-T", "Square"]


# What they are


@pytest.mark.parametrize("tier, names", [
    ("quick", QUICK), ("gradient", GRADIENT), ("default", DEFAULT),
])  # fmt: skip
def test_the_attacks_of_a_tier(tier, names):
    attacks = suite(tier, THREAT, 10)
    assert list(attacks.attacks) == names
    assert attacks.cumulative == (("APGD-T", "Square") if tier == "default" else ())
    assert attacks.notes == attacks.warnings == ()
    assert attacks.settings["PGD step size"] == pytest.approx(2.5 * 0.1 / 20)
    found = robustness(Linear(), rows(), suite(tier, Threat(0.01), 4))
    assert list(found.accuracies()) == [*names, WORST]


@pytest.mark.parametrize("classes, names, told", [
    (2, ["FGSM", "PGD-20", "APGD-CE", "Square"], ["APGD-DLR needs three", "APGD-T needs four"]),
    (3, [*GRADIENT, "Square"], ["APGD-T needs four"]),
    (4, DEFAULT, []),
])  # fmt: skip
def test_what_few_classes_leave_out(classes, names, told):
    attacks = suite("default", THREAT, classes)
    assert list(attacks.attacks) == names
    assert len(attacks.notes) == len(told)
    for note, words in zip(attacks.notes, told, strict=True):
        assert words in note and f"there are {classes}" in note
    assert attacks.settings.get("targets") == (3 if classes == 4 else None)
    found = robustness(Linear(classes), rows(classes), attacks)
    assert list(found.accuracies()) == [*names, WORST]


def test_what_attributes_leave_out():
    attacks = suite("default", THREAT, 40, attributes=True)
    assert list(attacks.attacks) == ["FGSM", "PGD-20", "APGD-CE", "Square"]
    assert all("attributes" in note for note in attacks.notes) and len(attacks.notes) == 2


def test_an_unknown_tier():
    with pytest.raises(UserError, match="unknown tier 'defualt'; did you mean default"):
        suite("defualt", THREAT, 10)


def test_a_step_of_zero_is_not_the_usual_one():
    attacks = suite("quick", THREAT, 10, step_size=0.0)
    assert attacks.settings["PGD step size"] == 0
    assert "20 steps of 0 go 0 at most" in attacks.warnings[0]


# On which images, and how to read the numbers


def test_the_worst_case_is_that_of_each_image():
    """Three attacks that fool other images each: none is alone responsible for the worst case."""
    attacks = {"A": planted(range(10)), "B": planted(range(8, 20)), "C": planted(range(18, 25))}
    found = robustness(Linear(), rows(), Suite(THREAT, "quick", attacks, {}), batch_size=16)
    accuracies = {name: 40 * accuracy for name, accuracy in found.accuracies().items()}
    assert accuracies == pytest.approx({"A": 30, "B": 28, "C": 33, WORST: 15})
    assert torch.equal(found.fooled(WORST), torch.arange(40) < 25)


def test_what_is_left_is_left_by_every_attack_before():
    seen = {"T": [], "S": []}
    attacks = {
        "A": planted(range(10)),
        "B": planted([*range(5, 12), 39]),
        "T": planted([3, 20, 21], True, seen["T"]),  # 3 is not its to fool any more
        "S": planted([21, 30], True, seen["S"]),
    }
    split = rows()
    split = replace(split, labels=torch.where(torch.arange(40) == 25, 0, split.labels))  # wrong
    found = robustness(Linear(), split, Suite(THREAT, "x", attacks, {}), batch_size=7)
    left = [*range(12, 25), *range(26, 39)]
    assert seen["T"] == left
    assert seen["S"] == [place for place in left if place not in (20, 21)]
    counts = {name: 40 * accuracy for name, accuracy in found.accuracies().items()}
    assert counts == pytest.approx({"A": 29, "B": 31, "T": 24, "S": 23, WORST: 23})
    assert [int(found.tried(name).sum()) for name in attacks] == [39, 39, 26, 24]
    assert found.steps["T"].tolist().count(1) == 2 and found.steps["S"].tolist().count(1) == 1
    settings = {"dataset": "Rows", "norm": "linf", "epsilon": 0.1, "seed": 0}
    values = as_record(found, "linear", Suite(THREAT, "x", attacks, {}), settings)
    text = as_text(json.loads(json.dumps(values)))
    cells = {line.split()[0]: line.split() for line in text.splitlines() if "%" in line}
    assert [cells[name][-3:-1] for name in "ABTS"] == [
        ["39", "10"], ["39", "8"], ["26", "2"], ["24", "1"]
    ]  # fmt: skip
    medians = [str(median_low(found.steps[name][found.steps[name] >= 0].tolist())) for name in "AB"]
    assert [cells[name][-1] for name in "AB"] == medians
    assert cells["T"][1] == "60.00%" and cells["worst"][2] == "57.50%"
    assert cumulative_note(("T", "S")) in text and "T and S were run on the images" in text
    assert values["cumulative"] == ["T", "S"]
    assert values["attacked"] == {"A": 39, "B": 39, "T": 26, "S": 24}


@pytest.mark.parametrize("model", ["in0-gn0", "in0-gn0-madry-eps0.3"])
def test_the_scale_of_logits_changes_nothing(model, digits):
    """Cross-entropy depends on it; what the default tier adds does not."""
    path = REPOSITORY / "archive/lenet/Digits" / model / "model.pt"
    network, few = checkpoints.load(path).network, digits[1].sample(60)
    left = []
    for scale in (1, 3, 100, 1e-3):
        scaled = scaled_by(network, scale)
        left.append(robustness(scaled, few, suite("default", THREAT, 10)).accuracies())
    assert left[3]["PGD-20"] > left[0]["PGD-20"] + 0.04
    for accuracies in left[1:]:
        assert accuracies["APGD-DLR"] == pytest.approx(left[0]["APGD-DLR"], abs=1.1 / 60)
        assert accuracies[WORST] == pytest.approx(left[0][WORST], abs=1.1 / 60)


# Restarts


class Lottery(Linear):
    """Without a gradient; one start in four within 0.2 of grey pixels (0.4) makes it answer 1."""

    def forward(self, x):
        nothing, drawn = 0 * x[:, 0, :1, 0], 2.0 * (x[:, 0, :1, 0] > 0.5)
        return torch.cat([nothing + 1, drawn, nothing, nothing], dim=1)


@pytest.mark.parametrize("tier", ["quick", "gradient"])
def test_restarts_only_help(tier):
    grey = torch.full((200, 1, 8, 8), 102, dtype=torch.uint8)
    images = Split("Grey", grey, torch.zeros(200, dtype=torch.long), tuple("abcd"))
    one, three = (
        robustness(Lottery(), images, suite(tier, Threat(0.2), 4, steps=2, restarts=n))
        for n in (1, 3)
    )
    for name in one.steps:
        assert (one.fooled(name) <= three.fooled(name)).all()
    for name in set(one.steps) - {"FGSM"}:
        for n, found in ((1, one), (3, three)):
            share = found.fooled(name).double().mean().item()
            assert share == pytest.approx(1 - 0.75**n, abs=0.12)


def test_restarts_of_the_expensive_attacks(digits):
    path = REPOSITORY / "archive/lenet/Digits/in0-gn0-madry-eps0.3/model.pt"
    network, few = checkpoints.load(path).network, digits[1].sample(60)
    attacks = [suite("default", Threat(0.2), 10, steps=3, restarts=n) for n in (1, 3)]
    one, three = (robustness(network, few, a) for a in attacks)
    assert three.accuracies()["APGD-T"] < one.accuracies()["APGD-T"]
    assert three.accuracies()[WORST] <= one.accuracies()[WORST]
