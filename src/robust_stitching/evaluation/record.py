"""Evaluations of a network as plain values: JSON reports, from which tables are printed."""

from collections.abc import Mapping, Sequence
from typing import Any

from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.accuracy import Accuracy
from robust_stitching.evaluation.intervals import interval_of
from robust_stitching.evaluation.known import Robustness
from robust_stitching.evaluation.suites import Suite
from robust_stitching.plans import EvaluatePlan, as_values


def record_of(
    plan: EvaluatePlan,
    checkpoint: Checkpoint,
    split: AnySplit,
    accuracy: Accuracy,
    notes: Sequence[str],
) -> dict[str, Any]:
    """What eval_net.py's --json writes."""
    values = {
        "checkpoint": checkpoint.called,
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


def record_under_attack(
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
