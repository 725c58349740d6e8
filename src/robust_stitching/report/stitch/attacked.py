"""The tables of a stitch under attack."""

from collections.abc import Mapping
from typing import Any

from robust_stitching.evaluation.intervals import margin, wilson
from robust_stitching.evaluation.robustness import WORST
from robust_stitching.evaluation.suites import cumulative_note
from robust_stitching.report.stitch.tables import Table, measured
from robust_stitching.report.tables import INTERVAL, shown

NORM_SIGNS = {"linf": "l∞", "l2": "l2"}


def tables(record: Mapping[str, Any]) -> list[Table]:
    """What attacks did: each network's own, and those made on another. Where no network is right on
    any attacked image, a sentence says so."""
    names = measured(record, "robust")
    most = wilson(0, record["attacks"]["n_images"])[1]
    own = (
        f"No network ({', '.join(names.values())}) is right on a single image under any of these "
        f"attacks; 95% interval of each: up to {most:.1%}. {attack_caption(record)}"
    )
    moved = f"No network is right on a single image of another. {transfer_caption(record)}"
    told = [
        ("Accuracy under attack", robust_rows, attack_caption, own),
        ("Transfer of attacks", transfer_rows, transfer_caption, moved),
    ]
    right = (
        any(any(record[name]["robust"].values()) for name in names),
        any(any(accuracies.values()) for accuracies in record["transfer"].values()),
    )
    return [
        (heading, rows(record), caption(record)) if some else (heading, [], sentence)
        for (heading, rows, caption, sentence), some in zip(told, right, strict=True)
    ]


def robust_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Accuracy under every attack; the interval of the worst case says what the images allow."""
    attacked = measured(record, "robust")
    attacks = list(record[next(iter(attacked))]["robust"])
    columns = [(attack, f"robust.{attack}", ".2%") for attack in attacks]
    columns.append(("95% interval", f"robust_interval.{WORST}", INTERVAL))
    clean = record["attacks"]["clean_accuracy"]
    table = [["network", "no attack", *(heading for heading, _, _ in columns)]]
    for name, label in attacked.items():
        cells = [shown(record[name], key, form) for _, key, form in columns]
        table.append([label, format(clean[name], ".2%"), *cells])
    return table


def transfer_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Accuracy of every network (columns) on images made against another (rows)."""
    transfer = record["transfer"]
    tried = next(iter(transfer.values()))
    answering = {name: label for name, label in measured(record).items() if name in tried}
    table = [["attack made on", *answering.values()]]
    unattacked = {"no network": record["attacks"]["clean_accuracy"]}
    for source, accuracies in {**unattacked, **transfer}.items():
        table.append([source, *(format(accuracies[name], ".2%") for name in answering)])
    return table


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


def transfer_caption(record: Mapping[str, Any]) -> str:
    """What the table of transfer tells."""
    return (
        "Accuracy of each network (columns) on the images that "
        f"{record['attacks']['transfer attack']}, all steps, made against another (rows); the "
        f"images that attacks of their own were tried on; {_known(record['attacks']['n_images'])}"
    )


def _known(n: int) -> str:
    return f"a share of {n:,} images is known to ±{100 * margin(n):.1f} points or better."
