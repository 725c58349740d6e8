"""The tables of a stitch: rows and captions of what was measured on one dataset."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from robust_stitching.report.tables import INTERVAL, RANGE, between, shown
from robust_stitching.stitching.record import CONTROLS, NETWORKS

MATCHED_FIRST = "direct matching (start)"
"""What a map is called that is direct matching's and the one before training."""

Table = tuple[str, list[list[str]], str]
"""Heading, rows and caption; without rows a sentence stands for them."""

Column = tuple[str, str, str]
"""Heading, key in the record (dots go deeper), format, `INTERVAL` or `RANGE`."""

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
    ("both right", "overlap_with_end.rr", ".2%"),
    ("right, end wrong", "overlap_with_end.rw", ".2%"),
    ("wrong, end right", "overlap_with_end.wr", ".2%"),
    ("both wrong", "overlap_with_end.ww", ".2%"),
)
SIMILARITY: tuple[Column, ...] = (
    ("CKA at cut", "cka_to_end", ".4f"),
    ("debiased", "debiased_cka_to_end", ".4f"),
    ("95% interval", "debiased_cka_to_end_interval", RANGE),
    ("l2 at cut", "relative_l2_to_end", ".3f"),
    ("CKA of logits", "logit_cka_to_end", ".4f"),
    ("l2 of logits", "relative_logit_l2_to_end", ".3f"),
)


def called(name: str) -> str:
    """A network's name for people."""
    return name.replace("_", " ").replace("matching recalibrated", "matching, recalibrated")


def began_matched(record: Mapping[str, Any]) -> bool:
    """Whether the map before training was direct matching's, in all that was measured of both."""
    untrained = record.get("untrained")
    return untrained is not None and untrained == record.get("direct_matching")


def measured(record: Mapping[str, Any], key: str | None = None) -> dict[str, str]:
    """Networks that were measured, or that have a `key`, to their names for people. The map before
    training and direct matching are one network where the training began there."""
    found = {name: record[name] for name in NETWORKS if record.get(name) is not None}
    names = {n: called(n) for n, one in found.items() if key is None or one.get(key) is not None}
    if began_matched(record):
        names.pop("untrained", None)
        names |= {n: MATCHED_FIRST for n in names if n == "direct_matching"}
    return names


def rows(record: Mapping[str, Any], columns: Sequence[Column]) -> list[list[str]]:
    """A heading and a row for each network that was measured; "–" stands for no number."""
    table = [["network", *(heading for heading, _, _ in columns)]]
    for name, label in measured(record).items():
        cells = [shown(record[name], key, form) for _, key, form in columns]
        table.append([label, *cells])
    return table


def similarity_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """What is compared of activations and logits, with intervals where there are some."""
    table = rows(record, SIMILARITY)
    shown = [column for column in zip(*table, strict=True) if set(column[1:]) != {"–"}]
    return [[*row] for row in zip(*shown, strict=True)]


def beside(rows: Sequence[Sequence[str]], more: Sequence[Sequence[str]]) -> list[list[str]]:
    """A table with the columns of another one, by the names in their first columns."""
    columns = {name: cells for name, *cells in more}
    none = ["–"] * (len(more[0]) - 1)
    return [[*row, *columns.get(row[0], none)] for row in rows]


def control_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """The stitched network's accuracy and those of its controls, with the gap in points. Of several
    random fronts the row has the mean, and their range in place of an interval."""
    table = [["network", "accuracy", "95% interval", "relative accuracy", "stitched minus control"]]
    known = measured(record)
    for name in ("stitched", *(name for name in CONTROLS if name in known)):
        values, label = record[name], known[name]
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
    known = measured(record)
    for name, values in found.items():
        if name in known:
            cells = [shown(values, *how) for how in (("auroc", ".3f"), ("auroc_interval", RANGE))]
            table.append([known[name], *cells])
    return table if found else []


def similarity_caption(estimators: Mapping[str, str]) -> str:
    """What the table of similarities tells."""
    told = f"CKA at the cut: {estimators['cka']}, and {estimators['debiased_cka']}, which does not "
    told += "rise with the number of features; "
    if "debiased_cka_interval" in estimators:
        told += f"its interval: {estimators['debiased_cka_interval']}; "
    return f"{told}of logits, the exact one. l2: {estimators['relative_l2']}."


def noise_caption(record: Mapping[str, Any], estimators: Mapping[str, str]) -> str:
    """What the table of noise fronts tells."""
    (first, *_) = record["noise_front"]
    return f"Accuracy of {estimators['noise_front']}. Chance: {first['chance']:.1%}."


def ood_caption(record: Mapping[str, Any], estimators: Mapping[str, str]) -> str:
    """What the table of distances from the end's own activations tells."""
    reasons = {values["reason"] for values in record["ood"].values() if "reason" in values}
    told = f"0.5 as far out as the end's own, 1 further out: {estimators['ood']}."
    return " ".join([told, *(f"Not known: {reason}." for reason in sorted(reasons))])
