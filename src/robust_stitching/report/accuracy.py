"""Loss and accuracy of a network as plain values and as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit
from robust_stitching.evaluation import Accuracy
from robust_stitching.evaluation.intervals import interval_of, wilson
from robust_stitching.plans import EvaluatePlan, as_values
from robust_stitching.report.tables import aligned, between


def as_record(
    plan: EvaluatePlan,
    checkpoint: Checkpoint,
    split: AnySplit,
    accuracy: Accuracy,
    notes: Sequence[str],
) -> dict[str, Any]:
    """The JSON report of an evaluation."""
    values = {
        "checkpoint": str(checkpoint.path),
        "model": checkpoint.model,
        "dataset": split.name,
        "split": plan.split,
        "accuracy": accuracy.accuracy,
        "accuracy_interval": interval_of(accuracy.accuracy, accuracy.n_images),
        "loss": accuracy.loss,
        "n_images": accuracy.n_images,
        "notes": list(notes),
        "plan": as_values(plan),
    }
    if accuracy.per_attribute is not None:
        shares = zip(split.classes, accuracy.per_attribute, strict=True)
        values["accuracy_per_attribute"] = dict(shares)
    return values


def as_text(record: Mapping[str, Any]) -> str:
    """What is printed of a record."""
    n = record["n_images"]
    heading = ["network", "data", "images", "accuracy", "95% interval", "loss"]
    row = [
        record["model"],
        f"{record['dataset']} ({record['split']})",
        f"{n:,}",
        *_as_shares(record["accuracy"], n),
        f"{record['loss']:.4f}",
    ]
    told = aligned([heading, row])
    if "accuracy_per_attribute" in record:
        table = [["attribute", "accuracy", "95% interval"]]
        shares = record["accuracy_per_attribute"].items()
        table += [[name, *_as_shares(share, n)] for name, share in shares]
        told += f"\n\n{aligned(table)}"
    return told


def _as_shares(share: float, n: int) -> list[str]:
    """A share of images, and its interval."""
    return [f"{share:.2%}", between(wilson(share, n))]
