"""What follows from a stitch, seen beside its controls: a paragraph that claims no more than the
numbers of its record carry."""

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from statistics import fmean
from typing import Any

from robust_stitching.evaluation.intervals import at_least, paired_interval, wilson
from robust_stitching.report.stitch.tables import began_matched

TELLING = 0.05
"""Accuracies of the two controls that are closer than this tell nothing apart, nor do those whose
95% intervals overlap."""

TRAINED = 0.9
"""The share of the end's own accuracy that a self-stitch reaches once it is trained, and of all
images that class means without noise do."""

ALIKE = 0.05
"""An AUROC that is closer to 0.5 than this shows a small difference, if one at all."""

LEEWAY = 0.1
"""An interval around 0.5 that reaches further shows nothing."""

UNLIKELY = 0.025
"""What is no chance any more, one-sided."""

AS_VARIED = 1.0
"""The sigma at which noise is as wide as the front's own activations within classes."""


class Front(Enum):
    """What the accuracy of a stitch beside those of its controls shows of the front."""

    UNKNOWN = auto()
    NOTHING = auto()
    PART = auto()
    ENOUGH = auto()


class Noise(Enum):
    """What the noise front shows."""

    UNKNOWN = auto()
    AROUND = auto()
    AS_GOOD = auto()
    WORSE = auto()


class Form(Enum):
    """How a mapped activation is beside the end's own."""

    UNKNOWN = auto()
    ALIKE = auto()
    INWARDS = auto()
    OUTSIDE = auto()
    OUTSIDE_AS_ITSELF = auto()


def verdict(record: Mapping[str, Any]) -> str | None:
    """The paragraph, of the numbers on one dataset; None where there is no trained stitch."""
    if record.get("stitched") is None:
        return None
    front, controls = _beside_controls(record)
    noise, about_noise = _beside_noise(record)
    form, about_form = _in_form(record)
    told = [
        _beside_end(record),
        controls,
        None if front is Front.UNKNOWN else _beside_least_squares(record),
        about_noise,
        about_form,
        _so(front, noise, form),
    ]
    return " ".join(filter(None, told))


def with_verdict(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of a stitch with its `verdict`, and that on another dataset, where there is one."""
    judged = {**record, "verdict": verdict(record)}
    if record.get("elsewhere"):
        judged["elsewhere"] = with_verdict(record["elsewhere"])
    return judged


def meaning(record: Mapping[str, Any]) -> str:
    """What the stitch shows of the front, seen beside the self-stitch and random fronts."""
    return _beside_controls(record)[1]


def _beside_end(record: Mapping[str, Any]) -> str | None:
    """The difference from the end's own accuracy on the same images."""
    stitched, end, n = record["stitched"], record["end"], record["data"]["n_images"]
    overlap = stitched.get("overlap_with_end")
    if overlap is None:
        return None
    told = (
        f"The stitched network is right on {stitched['accuracy']:.1%} of {n:,} test images, the "
        f"end itself on {end['accuracy']:.1%}"
    )
    low, high = paired_interval(overlap["rw"], overlap["wr"], n)
    between = f"{100 * low:+.1f} to {100 * high:+.1f} points, 95%, paired"
    if low <= 0 <= high:
        return f"{told}: these images show no difference ({between})."
    gap = overlap["rw"] - overlap["wr"]
    return f"{told}: {_better(gap)} ({between})."


def _beside_controls(record: Mapping[str, Any]) -> tuple[Front, str]:
    if record["self_stitch"] is None or record["random_front"] is None:
        return Front.UNKNOWN, _without_fronts(record)
    stitched, top, end = (record[name]["accuracy"] for name in ("stitched", "self_stitch", "end"))
    fronts = record["random_fronts"]
    bottom, n = fmean(fronts), record["data"]["n_images"]
    spread = f"{bottom:.1%}"
    if len(fronts) > 1:
        spread += f" on average, {min(fronts):.1%} to {max(fronts):.1%}"
    if wilson(bottom, n)[0] > wilson(end, n)[1]:
        return Front.NOTHING, (
            f"Even with a front of random weights ({spread}) the stitch is better than the end "
            f"network itself ({end:.1%}): the map learns the task by itself, and the stitch says "
            "little about the front."
        )
    ends = f"a front with random weights ({spread}) and the end stitched to itself ({top:.1%})"
    if top - bottom < TELLING or max(wilson(bottom, n)[1], *fronts) >= wilson(top, n)[0]:
        return Front.NOTHING, (
            f"The controls, {ends}, are too close to tell anything: at this cut the map and the "
            "end network learn the task, or fail to, whatever the front has learned."
        )
    share = (stitched - bottom) / (top - bottom)
    shows = Front.ENOUGH
    if share > 1.1 and wilson(stitched, n)[0] > wilson(top, n)[1]:
        told = "the front brings more than the end network's own"
    elif share >= 0.9:
        told = "the front has nearly all that the end network needs"
    elif share >= 0.1:
        shows, told = Front.PART, "the front has part of what the end network needs"
    elif wilson(stitched, n)[0] > max(wilson(front, n)[1] for front in fronts):
        shows, told = Front.PART, "the stitch shows little more than a random front would"
    else:
        shows, told = Front.NOTHING, "the stitch shows nothing that a random front would not"
    told = f"The stitch is at {share:.0%} of the way between {ends}: {told}."
    if shows is not Front.NOTHING and wilson(stitched, n)[0] <= max(fronts):
        shows = Front.NOTHING
        told += " But random fronts and the images spread as far."
    if top < TRAINED * end:
        told += (
            f" But even the self-stitch is far from the end's own {end:.1%}: such a map cannot do "
            "better, or was trained too little."
        )
    return shows, told


def _without_fronts(record: Mapping[str, Any]) -> str:
    gaps = record["gaps"]
    told = f"The trained map is {_better(gaps['untrained'])} than before training"
    if began_matched(record):
        told += ", at direct matching, which sees no labels"
    elif "direct_matching" in gaps:
        told += (
            f" and {_better(gaps['direct_matching'])} than direct matching, which sees no labels"
        )
    if "direct_matching_recalibrated" in gaps:
        again = _better(gaps["direct_matching_recalibrated"])
        told += f" ({again}, where that has the statistics of its batch norms estimated again)"
    return f"{told}. How much a map learns by itself, from any front, --controls tells."


def _beside_least_squares(record: Mapping[str, Any]) -> str | None:
    """Whether the map needed labels."""
    direct, again = record.get("direct_matching"), record.get("direct_matching_recalibrated")
    if direct is None:
        return None
    told = f"Direct matching, which sees no labels, is right on {direct['accuracy']:.1%}"
    best = direct["accuracy"]
    if again is not None:
        told += f" ({again['accuracy']:.1%} with statistics of batch norms estimated again)"
        best = max(best, again["accuracy"])
    n = record["data"]["n_images"]
    (low, high), (least, most) = (wilson(a, n) for a in (record["stitched"]["accuracy"], best))
    if low > most:
        return f"{told}, and less so than the trained map: training took it further."
    if high < least:
        return (
            f"{told}, more than the trained map: that was not trained to what a map can do here, "
            "so a gap to the end need not be the front's."
        )
    return f"{told}: that training took the map further these images do not show."


def _beside_noise(record: Mapping[str, Any]) -> tuple[Noise, str | None]:
    scores = record.get("noise_front") or []
    true = [score for score in scores if not score["shuffled_labels"]]
    shuffled = [score for score in scores if score["shuffled_labels"]]
    told = []
    if true:
        told.append(f"{_listed(true)} with true labels")
    if shuffled:
        chance = shuffled[0]["chance"]
        told.append(f"{_listed(shuffled)} with shuffled ones (chance {chance:.1%})")
    if not told:
        return Noise.UNKNOWN, None
    said = f"Noise around the front's class means in its place reaches {' and '.join(told)}."
    if shuffled and _above_chance(shuffled):
        return Noise.AROUND, (
            f"{said} Shuffled labels leave a map nothing to learn from, so the end knows these "
            "images otherwise than by the map, as where a skip connection passes by the cut."
        )
    clean = [score for score in true if score["sigma"] == 0]
    if clean and clean[0]["accuracy_interval"][1] < TRAINED:
        return Noise.UNKNOWN, (
            f"{said} That even the means alone fall short of 100% shows that such a map was "
            "trained too little to tell by noise."
        )
    wide = [score for score in true if score["sigma"] >= AS_VARIED]
    if not wide:
        return Noise.UNKNOWN, said
    if all(score["accuracy_interval"][0] <= score["chance"] for score in wide):
        return Noise.UNKNOWN, f"{said} No noise is told better than chance: it tells nothing here."
    least = wilson(record["stitched"]["accuracy"], record["data"]["n_images"])[0]
    as_good = [score for score in wide if score["accuracy_interval"][1] >= least]
    if as_good:
        widest = max(score["sigma"] for score in as_good)
        return Noise.AS_GOOD, (
            f"{said} At σ = {widest:g} that is no worse than the front itself: the accuracy shows "
            "no more of the front than where it has the classes."
        )
    narrow = min(score["sigma"] for score in wide)
    return Noise.WORSE, (
        f"{said} At σ = {narrow:g} that is worse than the front itself, whose activations vary "
        f"{'as much' if narrow == AS_VARIED else 'less'} within classes: not all of that is noise "
        "to the end."
    )


def _listed(scores: Sequence[Mapping[str, Any]]) -> str:
    """Accuracies with their sigmas."""
    return ", ".join(f"{s['accuracy']:.1%} (σ = {s['sigma']:g})" for s in scores)


def _above_chance(shuffled: Sequence[Mapping[str, Any]]) -> bool:
    """Whether maps of shuffled labels are right more often than they would be by chance. As noise
    of a class is mostly taken for the same class, right or wrong as a whole, there are as many
    answers as classes in all trainings, not as images."""
    answers, chance = sum(score["n_classes"] for score in shuffled), shuffled[0]["chance"]
    hits = round(answers * fmean(score["accuracy"] for score in shuffled))
    return chance < 1 and at_least(hits, answers, chance) < UNLIKELY


def _in_form(record: Mapping[str, Any]) -> tuple[Form, str | None]:
    found = record.get("ood") or {}
    own, itself = found.get("stitched"), found.get("self_stitch")
    if own is None:
        return Form.UNKNOWN, None
    if own["auroc"] is None:
        return Form.UNKNOWN, (
            f"Whether mapped activations are such as the end makes is not known: {own['reason']}."
        )
    area, (low, high) = own["auroc"], own["auroc_interval"]
    how = f"AUROC {area:.3f}, {low:.3f} to {high:.3f}"
    if low <= 0.5 <= high and max(0.5 - low, high - 0.5) > LEEWAY:
        return Form.UNKNOWN, (
            "By means and second moments of their channels, these images do not tell whether "
            f"mapped activations are such as the end's own ({how}; 0.5 for alike)."
        )
    if low <= 0.5 <= high or abs(area - 0.5) < ALIKE:
        hardly = "not" if low <= 0.5 <= high else "hardly"
        return Form.ALIKE, (
            f"By means and second moments of their channels, mapped activations are {hardly} to be "
            f"told from the end's own ({how}; 0.5 for alike)."
        )
    if area < 0.5:
        return Form.INWARDS, (
            "By means and second moments of their channels, mapped activations are nearer to the "
            f"middle of what the end makes than its own are ({how}; 0.5 for alike): of its "
            "variety something is missing."
        )
    told = (
        "By means and second moments of their channels, mapped activations are further out than "
        f"the end's own in {_share(area)} pairs ({how}; 0.5 for alike)"
    )
    if itself is None or itself["auroc"] is None:
        return Form.OUTSIDE, f"{told}."
    from_itself, to_itself = itself["auroc_interval"]
    if from_itself > 0.5 and to_itself >= low:
        return Form.OUTSIDE_AS_ITSELF, (
            f"{told}; so are those of the end stitched to itself ({itself['auroc']:.3f}): such a "
            "training leads there from any front."
        )
    shown = f"({itself['auroc']:.3f})"
    if from_itself <= 0.5:
        less = f"of those of the end stitched to itself these images do not show it {shown}"
    else:
        less = f"those of the end stitched to itself less so {shown}"
    return Form.OUTSIDE, f"{told}; {less}."


def _share(area: float) -> str:
    """In percent; all only where it is all."""
    return "all" if area == 1 else f"{min(area, 0.999):.1%} of"


FORMS = {
    Form.UNKNOWN: "",
    Form.ALIKE: ", in a form that the end could have made as far as these statistics show",
    Form.INWARDS: ", in a form that lacks some of the variety that the end's own has",
    Form.OUTSIDE: ", but not in the form in which the end has it: the two are compatible by this "
    "map, not shown to be alike",
    Form.OUTSIDE_AS_ITSELF: "; whether in the form in which the end has it, such a training does "
    "not show",
}


def _so(front: Front, noise: Noise, form: Form) -> str:
    """What follows from all of it."""
    if front is Front.UNKNOWN:
        return "So nothing follows yet about what the front has learned."
    if front is Front.NOTHING:
        return "So nothing follows about what the front has learned."
    if noise is Noise.AROUND:
        return "So little follows about the front: the end does not depend on it alone."
    if front is Front.PART:
        told = "So the front has some of what the end uses, more than random weights give"
    else:
        told = (
            "So, by such a map, the end gets from this front nearly all that it gets from its own"
        )
    told += FORMS[form]
    if noise is Noise.AS_GOOD:
        told += "; that need be no more than classes which are apart"
    return f"{told}."


def _better(gap: float) -> str:
    return f"{100 * abs(gap):.1f} points {'worse' if gap < 0 else 'better'}"
