"""An evaluation under attack as plain values: the JSON report, from which its table is printed."""

from collections.abc import Mapping
from typing import Any

from robust_stitching.evaluation.intervals import interval_of
from robust_stitching.evaluation.known import Robustness
from robust_stitching.evaluation.suites import Suite


def as_record(
    known: Robustness, model: str, attacks: Suite, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What --json writes: accuracies, and for each image what fooled the network at which step.

    `attacked` says how many images each attack was run on; of those in `cumulative`, which were run
    on what all before them had left, the accuracy is that after all of them.
    """
    robust, n = known.accuracies(), len(known.right)
    accuracy = known.clean_accuracy()
    return {
        "model": model,
        **settings,
        "accuracy": accuracy,
        "accuracy_interval": interval_of(accuracy, n),
        "robust": robust,
        "robust_interval": {name: interval_of(value, n) for name, value in robust.items()},
        "cumulative": list(known.cumulative),
        "attacked": {name: int(known.tried(name).sum()) for name in known.steps},
        "left_out": list(attacks.notes),
        "warnings": known.warnings,
        "images": [
            {
                "label": known.labels[i].tolist(),
                "right": known.right[i].tolist(),
                "fooled_at_step": {
                    name: steps[i].tolist()
                    for name, steps in known.steps.items()
                    if (steps[i] >= 0).any()
                },
            }
            for i in range(n)
        ],
    }
