"""Loss and accuracy of a network as plain values and as a table."""

from collections.abc import Mapping
from typing import Any

from robust_stitching.evaluation.intervals import wilson
from robust_stitching.report.tables import aligned, between


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
