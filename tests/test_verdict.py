"""What a report says that follows: every sentence, from records made up for it."""

import copy

import pytest
from scipy.stats import binom

from robust_stitching.evaluation.intervals import at_least, interval_of, paired_interval
from robust_stitching.report.grid.verdict import with_verdicts
from robust_stitching.report.stitch.tables import noise_rows, ood_rows
from robust_stitching.report.stitch.verdict import verdict, with_verdict

N = 1000


def noise(sigma, accuracy, shuffled=False):
    return {
        "sigma": sigma,
        "accuracy": accuracy,
        "accuracy_interval": interval_of(accuracy, N),
        "shuffled_labels": shuffled,
        "chance": 0.1,
        "n_classes": 10,
    }


USUAL = [
    *(noise(0, 1.0), noise(1, 0.80), noise(4, 0.30)),
    *(noise(0, 0.0, True), noise(1, 0.2, True), noise(4, 0.1, True)),
]


def area(value, low, high):
    return {"auroc": value, "auroc_interval": [low, high]}


def record(
    stitched=0.95, itself=0.97, fronts=(0.2, 0.3), direct=0.9, again=0.94, scores=USUAL, ood=None
):
    accuracies = {"stitched": stitched, "end": 0.98, "untrained": 0.1, "direct_matching": direct}
    accuracies |= {"direct_matching_recalibrated": again, "self_stitch": itself}
    made = {
        name: None if accuracy is None else {"accuracy": accuracy}
        for name, accuracy in accuracies.items()
    }
    made["stitched"]["overlap_with_end"] = {
        "rr": stitched - 0.01,
        "rw": 0.01,
        "wr": 0.99 - stitched,
    }
    made["random_front"] = {"accuracy": fronts[0]} if fronts else None
    gaps = {name: stitched - value for name, value in accuracies.items() if value is not None}
    return made | {
        "random_fronts": list(fronts) or None,
        "gaps": gaps,
        "data": {"n_images": N},
        "noise_front": scores,
        "ood": ood,
    }


def says(*parts, **changed):
    told = verdict(record(**changed))
    for part in parts:
        assert part in told, told
    return told


def test_beside_the_end():
    says("95.0% of 1,000 test images, the end itself on 98.0%: 3.0 points worse (-4.4 to -1.6")
    says("on 98.0%: these images show no difference", stitched=0.978)
    says("0.9 points better (+0.2 to +1.6", stitched=0.989)


def test_beside_direct_matching():
    says(
        "right on 90.0% (91.0% with statistics of batch norms",
        "training took it further",
        again=0.91,
    )
    says("that training took the map further these images do not show.")
    says("that was not trained to what a map can do here", stitched=0.85, direct=0.95)
    told = says("right on 90.0%, and less so", again=None)
    assert "estimated again" not in told
    assert "Direct matching" not in verdict(record(direct=None, again=None))


def test_noise_in_place_of_the_front():
    says(
        "reaches 100.0% (σ = 0), 80.0% (σ = 1), 30.0% (σ = 4) with true labels and 0.0% (σ = 0)",
        "with shuffled ones (chance 10.0%)",
        "At σ = 1 that is worse than the front itself, whose activations vary as much within",
    )
    says(
        "At σ = 2 that is no worse than the front itself",
        "that need be no more than classes which are apart.",
        scores=[noise(0, 1.0), noise(1, 1.0), noise(2, 0.96), noise(4, 0.5)],
    )
    says("whose activations vary less within", scores=[noise(2, 0.5)])
    says("trained too little to tell by noise", scores=[noise(0, 0.7), noise(1, 0.6)])
    blind = [noise(1, 0.1), noise(4, 0.11)]
    told = says("No noise is told better than chance", stitched=0.1, itself=0.5, scores=blind)
    assert "no worse than the front" not in told
    told = says("reaches 100.0% (σ = 0) with true labels.", scores=[noise(0, 1.0)])
    assert "At σ" not in told
    for nothing in (None, []):
        assert "Noise" not in verdict(record(scores=nothing))


@pytest.mark.parametrize(
    ("accuracies", "around"),
    [((0.3, 0.0, 0.1), False), ((0.2, 0.2, 0.2), False), ((0.5, 0.4, 0.5), True), ((0.3,), False)],
)
def test_shuffled_labels_that_help_are_told(accuracies, around):
    """Ten classes are ten answers, not a thousand: three of them right are nothing."""
    scores = [noise(1, 0.8), *(noise(i, a, True) for i, a in enumerate(accuracies))]
    told = verdict(record(scores=scores))
    assert ("a skip connection passes by the cut" in told) == around
    assert ("So little follows about the front" in told) == around


def test_the_form_of_what_is_mapped():
    says("are not to be told from the end's own", ood={"stitched": area(0.52, 0.49, 0.55)})
    says("are hardly to be told", ood={"stitched": area(0.53, 0.51, 0.55)})
    says("nearer to the middle of what the end makes", ood={"stitched": area(0.2, 0.1, 0.3)})
    out = {"stitched": area(0.98, 0.97, 0.99)}
    says("further out than the end's own in 98.0% of pairs (AUROC 0.980, 0.970 to 0.990", ood=out)
    says("in all pairs (AUROC 1.000", ood={"stitched": area(1.0, 0.99, 1.0)})
    says("in 99.9% of pairs", ood={"stitched": area(0.99999, 0.99, 1.0)})
    as_itself = out | {"self_stitch": area(1.0, 0.98, 1.0)}
    says("so are those of the end stitched to itself (1.000): such a training", ood=as_itself)
    less = out | {"self_stitch": area(0.6, 0.55, 0.7)}
    says("those of the end stitched to itself less so (0.600)", ood=less)
    wide = {"stitched": area(0.6, 0.53, 0.66), "self_stitch": area(0.5, 0.46, 0.54)}
    says("of those of the end stitched to itself these images do not show it (0.500)", ood=wide)
    unknown = {"auroc": None, "auroc_interval": None, "reason": "9 training images are too few"}
    says("is not known: 9 training images are too few.", ood={"stitched": unknown})
    says("in 98.0% of pairs", ood=out | {"self_stitch": unknown})
    assert "moments" not in verdict(record(ood=None))


IN, OUT = area(0.51, 0.48, 0.54), area(0.98, 0.97, 0.99)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "gets from this front nearly all that it gets from its own."),
        ({"ood": {"stitched": IN}}, "own, in a form that the end could have made as far as"),
        ({"ood": {"stitched": area(0.2, 0.1, 0.3)}}, "own, in a form that lacks some of the"),
        ({"ood": {"stitched": OUT}}, "own, but not in the form in which the end has it"),
        ({"ood": {"stitched": OUT, "self_stitch": OUT}}, "own; whether in the form in which"),
        ({"stitched": 0.6}, "So the front has some of what the end uses, more than random"),
        ({"fronts": ()}, "So nothing follows yet about what the front has learned."),
        ({"itself": None}, "So nothing follows yet about what the front has learned."),
        ({"stitched": 0.21}, "So nothing follows about what the front has learned."),
        ({"fronts": (0.96, 0.97)}, "So nothing follows about what the front has learned."),
        ({"fronts": (0.2, 0.995)}, "So nothing follows about what the front has learned."),
        ({"stitched": 0.45, "fronts": (0.1, 0.45)}, "But random fronts and the images spread as"),
    ],
)
def test_what_follows(changed, said):
    assert said in says(said, **changed).replace("stitched to itself", "")


def test_no_more_is_claimed_than_the_images_show():
    wide = area(0.8, 0.45, 0.96)
    told = says("do not tell whether mapped activations are such", ood={"stitched": wide})
    assert "could have made" not in told
    assert "could have made" in says(ood={"stitched": area(0.51, 0.47, 0.55)})
    assert "brings more" not in says("nearly all", stitched=0.55, itself=0.5, fronts=(0.1, 0.1))
    says("brings more than the end network's own", stitched=0.7, itself=0.5, fronts=(0.1, 0.1))
    little = {"stitched": 0.17, "fronts": (0.1, 0.1)}
    says("little more than a random front would", "more than random weights give", **little)
    says("nothing that a random front would not", stitched=0.12, fronts=(0.1, 0.1))


def test_what_was_not_measured_is_not_told():
    """Records of earlier versions have a verdict, too, of what they have."""
    made = record(fronts=())
    for key in ("noise_front", "ood"):
        del made[key]
    del made["stitched"]["overlap_with_end"]
    told = verdict(made)
    assert told.startswith("The trained map is 85.0 points better than before training")
    assert "--controls tells" in told


def test_a_record_gets_its_verdicts():
    made = record() | {"elsewhere": record(stitched=0.5)}
    before = copy.deepcopy(made)
    judged = with_verdict(made)
    assert judged["verdict"] == verdict(made)
    assert judged["elsewhere"]["verdict"] == verdict(made["elsewhere"])
    assert made == before
    diverged = made | {"stitched": None, "elsewhere": None}
    cells = with_verdicts({"cells": [made, diverged]})["cells"]
    assert [cell["verdict"] for cell in cells] == [verdict(made), None]


def test_tables():
    made = record(ood={"self_stitch": OUT, "stitched": {"auroc": None, "auroc_interval": None}})
    heading, first, *_ = noise_rows(made)
    assert heading[:2] == ["sigma", "true labels"]
    assert first == ["0", "100.00%", "99.6 – 100.0%", "0.00%", "0.0 – 0.4%"]
    assert ood_rows(made)[1:] == [
        ["self stitch", "0.980", "0.970 – 0.990"],
        ["stitched", "–", "–"],
    ]
    made["noise_front"] = [noise(2, 0.5, True)]
    assert noise_rows(made)[1][:4] == ["2", "–", "–", "50.00%"]
    assert noise_rows(made | {"noise_front": None}) == ood_rows(made | {"ood": None}) == []


@pytest.mark.parametrize(
    "hits, n, p", [(0, 10, 0.1), (3, 10, 0.1), (10, 10, 0.5), (310, 3000, 0.1)]
)
def test_what_chance_brings(hits, n, p):
    assert at_least(hits, n, p) == pytest.approx(binom.sf(hits - 1, n, p), rel=1e-9)


def test_the_interval_of_a_paired_difference():
    """Agresti and Min (2005), in counts; as wide as can be where nothing is known."""
    low, high = paired_interval(0.02, 0.05, 100)
    b, c, n = 2.5, 5.5, 102
    middle, error = (b - c) / n, ((b + c) - (b - c) ** 2 / n) ** 0.5 / n
    assert (low, high) == pytest.approx((middle - 1.959964 * error, middle + 1.959964 * error))
    low, high = paired_interval(0, 0, 50)
    assert low == -high and 0 < high < 0.05
    assert paired_interval(1, 0, 3)[1] == 1
