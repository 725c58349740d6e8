"""An evaluation under attack, from its JSON report: text for the terminal."""

from collections.abc import Mapping
from statistics import median_low
from typing import Any

from robust_stitching.evaluation.autoattack import NAME as AUTOATTACK
from robust_stitching.evaluation.intervals import wilson
from robust_stitching.evaluation.suites import cumulative_note
from robust_stitching.report.tables import aligned


def as_text(record: Mapping[str, Any]) -> str:
    """Accuracy under each attack, with how many answers it was tried on and made wrong."""
    n, clean, attributes = len(record["images"]), record["accuracy"], _attributes(record)
    table = [["attack", "accuracy", "95% interval", "attacked", "fooled", "median step"]]
    for name, accuracy in {"none": clean, **record["robust"]}.items():
        low, high = wilson(accuracy, n)
        steps, run = _steps(record, name), name in record["attacked"]
        fooled = len(steps) if run else round((clean - accuracy) * n * (attributes or 1))
        table.append(
            [
                name,
                f"{accuracy:.2%}",
                f"{low:.2%} – {high:.2%}",
                f"{record['attacked'][name]:,}" if run else "–",
                f"{fooled:,}",
                str(median_low(steps)) if steps and name != AUTOATTACK else "–",
            ]
        )
    told = f" with {attributes} attributes" if attributes else ""
    head = (
        f"{record['model']} on {n:,} test images of {record['dataset']}{told}, {record['norm']} "
        f"radius {record['epsilon']:.4g}, seed {record['seed']}"
    )
    notes = [cumulative_note(record["cumulative"])] if record["cumulative"] else []
    notes += [*record["left_out"], *(f"Warning: {warning}" for warning in record["warnings"])]
    return "\n\n".join([head, aligned(table), *notes])


def _attributes(record: Mapping[str, Any]) -> int:
    """How many answers an image has; 0 where it has a class."""
    label = record["images"][0]["label"]
    return len(label) if isinstance(label, list) else 0


def _steps(record: Mapping[str, Any], attack: str) -> list[int]:
    """The step at which each answer was made wrong, of those that were."""
    told = [image["fooled_at_step"].get(attack, -1) for image in record["images"]]
    each = [step for steps in told for step in (steps if isinstance(steps, list) else [steps])]
    return [step for step in each if step >= 0]
