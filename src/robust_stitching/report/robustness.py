"""An evaluation under attack as plain values and as a table."""

from typing import Any

import torch

from robust_stitching.evaluation.autoattack import NAME as AUTOATTACK
from robust_stitching.evaluation.intervals import interval_of, wilson
from robust_stitching.evaluation.robustness import Robustness, Suite
from robust_stitching.evaluation.suites import cumulative_note
from robust_stitching.report.tables import aligned


def as_values(found: Robustness, settings: dict[str, Any]) -> dict[str, Any]:
    """What --json writes: accuracies, and for each image what fooled the network at which step.

    `attacked` says how many images each attack was run on; of those in `cumulative`, which were run
    on what all before them had left, the accuracy is that after all of them.
    """
    robust, n = found.accuracies(), len(found.right)
    accuracy = found.clean_accuracy()
    return {
        **settings,
        "accuracy": accuracy,
        "accuracy_interval": interval_of(accuracy, n),
        "robust": robust,
        "robust_interval": {name: interval_of(value, n) for name, value in robust.items()},
        "cumulative": list(found.cumulative),
        "attacked": {name: int(found.tried(name).sum()) for name in found.steps},
        "warnings": found.warnings,
        "images": [
            {
                "label": found.labels[i].tolist(),
                "right": found.right[i].tolist(),
                "fooled_at_step": {
                    name: steps[i].tolist()
                    for name, steps in found.steps.items()
                    if (steps[i] >= 0).any()
                },
            }
            for i in range(n)
        ],
    }


def as_text(model: str, found: Robustness, settings: dict[str, Any], attacks: Suite) -> str:
    """What is printed."""
    n = len(found.right)
    table = [["attack", "accuracy", "95% interval", "attacked", "fooled", "median step"]]
    clean = found.clean_accuracy()
    for name, accuracy in {"none": clean, **found.accuracies()}.items():
        low, high = wilson(accuracy, n)
        steps = found.steps.get(name, torch.empty(0, dtype=torch.long))
        steps = steps[steps >= 0]
        run = name in found.steps
        fooled = len(steps) if run else round((clean - accuracy) * found.right.numel())
        table.append(
            [
                name,
                f"{accuracy:.2%}",
                f"{low:.2%} – {high:.2%}",
                f"{int(found.tried(name).sum()):,}" if run else "–",
                f"{fooled:,}",
                str(int(steps.median())) if len(steps) and name != AUTOATTACK else "–",
            ]
        )
    attributes = f" with {found.labels.shape[1]} attributes" if found.labels.ndim == 2 else ""
    head = (
        f"{model} on {n:,} test images of {settings['dataset']}{attributes}, {settings['norm']} "
        f"radius {settings['epsilon']:.4g}, seed {settings['seed']}"
    )
    told = [cumulative_note(found.cumulative)] if found.cumulative else []
    told += [*attacks.notes, *(f"Warning: {warning}" for warning in found.warnings)]
    return "\n\n".join([head, aligned(table), *told])
