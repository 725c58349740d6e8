"""A stitch as text: rows and captions for the terminal and for the PDF."""

import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from robust_stitching.evaluation.intervals import margin
from robust_stitching.evaluation.robustness import WORST
from robust_stitching.evaluation.suites import cumulative_note
from robust_stitching.plans.parts import LINEAR, TASK
from robust_stitching.plans.recipes import PAPER
from robust_stitching.report.stitch.verdict import verdict
from robust_stitching.report.tables import INTERVAL, aligned, between, shown
from robust_stitching.stitching.record import CONTROLS, NETWORKS

Column = tuple[str, str, str]
"""Heading, key in the record (dots go deeper), format or `INTERVAL`."""

ACCURACY: tuple[Column, ...] = (
    ("accuracy", "accuracy", ".2%"),
    ("95% interval", "accuracy_interval", INTERVAL),
    ("loss", "loss", ".4f"),
    ("relative accuracy", "relative_accuracy", ".4f"),
)
ANSWERS: tuple[Column, ...] = (
    ("agreement", "agreement_with_end", ".2%"),
    ("95% interval", "agreement_with_end_interval", INTERVAL),
    ("agreement probability", "agreement_probability", ".2%"),
    ("kappa", "kappa", ".3f"),
    ("CE to end", "cross_entropy_to_end", ".4f"),
    ("rr", "overlap_with_end.rr", ".2%"),
    ("rw", "overlap_with_end.rw", ".2%"),
    ("wr", "overlap_with_end.wr", ".2%"),
    ("ww", "overlap_with_end.ww", ".2%"),
)
SIMILARITY: tuple[Column, ...] = (
    ("CKA at cut", "cka_to_end", ".4f"),
    ("debiased", "debiased_cka_to_end", ".4f"),
    ("l2 at cut", "l2_to_end", ".3f"),
    ("CKA of logits", "logit_cka_to_end", ".4f"),
    ("l2 of logits", "logit_l2_to_end", ".3f"),
)

NORM_SIGNS = {"linf": "l∞", "l2": "l2"}


def rows(record: Mapping[str, Any], columns: Sequence[Column]) -> list[list[str]]:
    """A heading and a row for each network that was measured; "–" stands for no number."""
    table = [["network", *(heading for heading, _, _ in columns)]]
    for name in _measured(record):
        cells = [shown(record[name], key, form) for _, key, form in columns]
        table.append([called(name), *cells])
    return table


def robust_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Accuracy under every attack; the interval of the worst case says what the images allow."""
    attacked = [name for name in NETWORKS if (record.get(name) or {}).get("robust")]
    attacks = list(record[attacked[0]]["robust"])
    columns = [(attack, f"robust.{attack}", ".2%") for attack in attacks]
    columns.append(("95% interval", f"robust_interval.{WORST}", INTERVAL))
    clean = record["attacks"]["clean_accuracy"]
    table = [["network", "no attack", *(heading for heading, _, _ in columns)]]
    for name in attacked:
        cells = [shown(record[name], key, form) for _, key, form in columns]
        table.append([called(name), format(clean[name], ".2%"), *cells])
    return table


def transfer_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Accuracy of every network (columns) on images made against another (rows)."""
    transfer = record["transfer"]
    answering = list(next(iter(transfer.values())))
    table = [["attack made on", *map(called, answering)]]
    unattacked = {"no network": record["attacks"]["clean_accuracy"]}
    for source, accuracies in {**unattacked, **transfer}.items():
        table.append([source, *(format(accuracies[name], ".2%") for name in answering)])
    return table


def control_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """The stitched network's accuracy and those of its controls, with the gap in points. Of several
    random fronts the row has the mean, and their range in place of an interval."""
    table = [["network", "accuracy", "95% interval", "relative accuracy", "stitched minus control"]]
    for name in ("stitched", *(name for name in CONTROLS if record[name])):
        values, label = record[name], called(name)
        cells = [shown(values, key, form) for _, key, form in (*ACCURACY[:2], ACCURACY[3])]
        fronts = record["random_fronts"] or []
        if name == "random_front" and len(fronts) > 1:
            label = f"random fronts, mean of {len(fronts)}"
            end, mean = record["end"]["accuracy"], fmean(fronts)
            relative = f"{mean / end:.4f}" if end else "–"
            cells = [f"{mean:.2%}", f"all {between((min(fronts), max(fronts)))}", relative]
        gap = record["gaps"].get(name)
        table.append([label, *cells, "–" if gap is None else f"{100 * gap:+.2f} points"])
    return table


def noise_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Accuracies of maps from noise around the front's class means, a line for each sigma; none
    where there is no noise front."""
    scores = record.get("noise_front") or []
    table = [["sigma", "true labels", "95% interval", "shuffled labels", "95% interval"]]
    for sigma in dict.fromkeys(score["sigma"] for score in scores):
        cells = []
        for shuffled in (False, True):
            one = [s for s in scores if (s["sigma"], s["shuffled_labels"]) == (sigma, shuffled)]
            values = one[0] if one else {}
            cells += [shown(values, key, form) for _, key, form in ACCURACY[:2]]
        table.append([f"{sigma:g}", *cells])
    return table if scores else []


def ood_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """How far out of the end's distribution mapped activations are, a line for each network; none
    where nobody looked."""
    found = record.get("ood") or {}
    table = [["network", "AUROC", "95% interval"]]
    for name, values in found.items():
        ends = values["auroc_interval"]
        interval = "–" if ends is None else f"{ends[0]:.3f} – {ends[1]:.3f}"
        table.append([called(name), shown(values, "auroc", ".3f"), interval])
    return table if found else []


def called(name: str) -> str:
    """A network's name for people."""
    return name.replace("_", " ").replace("matching recalibrated", "matching, recalibrated")


def _measured(record: Mapping[str, Any]) -> list[str]:
    return [name for name in NETWORKS if record.get(name) is not None]


def attack_caption(record: Mapping[str, Any]) -> str:
    """What was run, so that nobody has to guess."""
    attacks = record["attacks"]
    told = [
        f"{NORM_SIGNS[attacks['norm']]} radius {attacks['epsilon']:.4g}, "
        f"{attacks['n_images']:,} test images chosen at random"
    ]
    if "steps" in attacks:  # AutoAttack has its own
        starts = f"{attacks['restarts']} start{'s' if attacks['restarts'] > 1 else ''}"
        told.append(f"PGD and APGD with {attacks['steps']} steps, {starts}")
    told.append("worst case per image over these attacks, with its 95% interval (Wilson)")
    caption = f"{'; '.join(told)}; {_known(attacks['n_images'])}"
    if attacks["cumulative"]:
        caption += f" {cumulative_note(attacks['cumulative'])}"
    return caption


def similarity_caption(estimators: Mapping[str, str]) -> str:
    """What the table of similarities tells."""
    return (
        f"CKA at the cut: {estimators['cka']}, and {estimators['debiased_cka']}, which does not "
        f"rise with the number of features; of logits, the exact one. l2: {estimators['l2']}."
    )


def noise_caption(record: Mapping[str, Any], estimators: Mapping[str, str]) -> str:
    """What the table of noise fronts tells."""
    (first, *_) = record["noise_front"]
    return f"Accuracy of {estimators['noise_front']}. Chance: {first['chance']:.1%}."


def ood_caption(record: Mapping[str, Any], estimators: Mapping[str, str]) -> str:
    """What the table of distances from the end's own activations tells."""
    reasons = {values["reason"] for values in record["ood"].values() if "reason" in values}
    told = f"0.5 as far out as the end's own, 1 further out: {estimators['ood']}."
    return " ".join([told, *(f"Not known: {reason}." for reason in sorted(reasons))])


def transfer_caption(record: Mapping[str, Any]) -> str:
    """What the table of transfer tells."""
    return (
        f"Accuracy of each network (columns) on the images that "
        f"{record['attacks']['transfer attack']}, all steps, made against another (rows); the "
        f"images of the table above; {_known(record['attacks']['n_images'])}"
    )


def _known(n: int) -> str:
    return f"a share of {n:,} images is known to ±{100 * margin(n):.1f} points or better."


def _called(donor: Mapping[str, Any]) -> str:
    return donor["path"] or donor["model"]


def recipe(params: Mapping[str, Any]) -> str:
    """How a map was found, from the settings of its run: the recipe by its name, with what it, or
    whoever asked, said of first values and training."""
    epochs = params["epochs"]
    start = params["init"] + (", inputs whitened" if params.get("whiten") else "")
    objective = params.get("objective", TASK)
    falling = "to zero along a cosine" if params.get("schedule") == "cosine" else "in steps"
    return (
        f"{params.get('recipe', PAPER)}: first values {start}; {params['optimizer']} at "
        f"{params['lr']:g}, falling {falling}, {epochs} epoch{'s' if epochs > 1 else ''}"
        + ("" if objective == TASK else f"; objective {objective}")
    )


def called_map(*transformations: Mapping[str, Any]) -> str:
    """Of which kind one or several maps of a run are, and how many parameters they have."""
    kind = transformations[0].get("kind", LINEAR)
    sizes = [one["parameters"] for one in transformations]
    least, most = min(sizes), max(sizes)
    return f"{kind}, {least:,}{f' to {most:,}' if most > least else ''} parameters"


def as_text(record: Mapping[str, Any]) -> str:
    """The result of a run for the terminal."""
    data, donors = record["data"], record["donors"]
    params = record["params"]
    head = [
        f"front  {_called(donors['front'])} up to {params['front_layer']}",
        f"end    {_called(donors['end'])} from {params['end_layer']}",
        f"data   {data['name']}: map trained on {data['n_train_images']:,} images, "
        f"measured on {data['n_images']:,}",
        f"map    {called_map(record['transformation'])}",
        f"recipe {recipe(params)}",
    ]
    parts = ["\n".join(head), *_numbers(record, record["estimators"]), *record["notes"]]
    if record["elsewhere"]:
        other = record["elsewhere"]["data"]
        parts.append(f"On {other['name']}, {other['n_images']:,} images:")
        parts += _numbers(record["elsewhere"], record["estimators"])
    return "\n\n".join(part if "\n" in part else textwrap.fill(part, 100) for part in parts)


def _numbers(record: Mapping[str, Any], estimators: Mapping[str, str]) -> list[str]:
    """Tables and sentences about one dataset."""
    parts = [aligned(rows(record, (*ACCURACY, *ANSWERS[:2]))), aligned(control_rows(record))]
    if record.get("noise_front"):
        parts += [aligned(noise_rows(record)), noise_caption(record, estimators)]
    if record.get("ood"):
        parts += [aligned(ood_rows(record)), ood_caption(record, estimators)]
    parts += [f"Verdict: {verdict(record)}"]
    if record["l2"] is not None or record["cka"] is not None:
        parts.append(aligned(rows(record, SIMILARITY)))
        parts.append(similarity_caption(estimators))
    if record["attacks"] is not None:
        parts.append(f"Accuracy under attack: {attack_caption(record)}")
        parts.append(aligned(robust_rows(record)))
        parts.append(transfer_caption(record))
        parts.append(aligned(transfer_rows(record)))
        parts += record["attacks"]["warnings"]
    return parts
