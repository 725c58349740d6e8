"""A stitching run as plain values: the JSON report, from which every table and figure is drawn."""

import csv
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from robust_stitching.basics.files import as_json
from robust_stitching.basics.origin import commit, versions
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.evaluation.intervals import interval_of
from robust_stitching.evaluation.misread import LOG
from robust_stitching.graphs.transform import StitchingLayer
from robust_stitching.plans import as_values, flat
from robust_stitching.plans.actions import Stitched
from robust_stitching.plans.parts import INVARIANT, PERMUTED
from robust_stitching.stitching.invariant import ESTIMATOR as INVARIANT_ESTIMATOR
from robust_stitching.stitching.invariant import InvariantImages
from robust_stitching.stitching.measure import Measured
from robust_stitching.stitching.noise_front import ESTIMATOR as NOISE_ESTIMATOR
from robust_stitching.stitching.ood import ESTIMATOR as OOD_ESTIMATOR
from robust_stitching.stitching.run import StitchResult

CONTROLS = (
    *("untrained", "direct_matching", "direct_matching_recalibrated"),
    *("self_stitch", "random_front"),
)
NETWORKS = ("front", "end", "untrained", "stitched", *CONTROLS[1:])
CKA_ESTIMATOR = "linear, exact (biased HSIC), float64 sums"
DEBIASED_ESTIMATOR = "linear, debiased (unbiased HSIC, all images together), float64 sums"
CKA_INTERVAL = "95%, jackknife over random blocks of images, t quantile"
INTERVAL = "95%, of shares Wilson's over the images; the spread over trainings is not in it"
L2_DEFINITION = "mean over images of the Euclidean distance"
RELATIVE_L2 = "‖own − end’s‖ / ‖end’s‖, Frobenius norms over the images"
SOME = ", on {:,} images chosen by the seed, or all if these are fewer"


def as_record(result: StitchResult, command: str) -> dict[str, Any]:
    """The JSON report of a run, as it comes back from its file; the keys are those of the
    documentation of the commands.

    Parameters
    ----------
    command : the command line that asked for the run.
    """
    network = result.network
    record = {
        **about(result, command, network.transform.bias.device, result.precision),
        "transformation": transformation(network.transform),
        **of_images(result.invariant),
        **numbers(result.measured, n_train_images=result.train_images),
        "elsewhere": result.elsewhere and numbers(result.elsewhere),
        "curve": [asdict(epoch) for epoch in result.trained.curve],
    }
    return as_json(record)


def about(result: Any, command: str, device: torch.device, precision: str) -> dict[str, Any]:
    """What a record says of a stitch, or of a grid of them, before any number.

    Parameters
    ----------
    result : with plan, seconds, notes, similarity_images, front and end.
    precision : that maps were trained in.
    """
    plan = result.plan
    compared = result.similarity_images
    looked_at = "" if compared is None else SOME.format(compared)
    return {
        "command": command,
        "plan": as_values(plan),
        "params": flat(plan) | {"precision": precision, "similarity_images": compared},
        "versions": versions(device),
        "commit": commit(),
        "seconds": round(result.seconds, 1),
        "notes": result.notes,
        "estimators": {
            "cka": CKA_ESTIMATOR + looked_at,
            "debiased_cka": DEBIASED_ESTIMATOR + looked_at,
            "debiased_cka_interval": CKA_INTERVAL,
            "l2": L2_DEFINITION + looked_at,
            "relative_l2": RELATIVE_L2 + looked_at,
            "interval": INTERVAL,
            "ood": OOD_ESTIMATOR + looked_at,
            "noise_front": NOISE_ESTIMATOR,
            **({"invariant_images": INVARIANT_ESTIMATOR} if plan.images == INVARIANT else {}),
        },
        "seed_varies": seed_varies(plan, compared),
        "donors": {"front": _donor(result.front), "end": _donor(result.end)},
    }


def transformation(transform: StitchingLayer) -> dict[str, Any]:
    """What is said of a map."""
    return {
        "kind": transform.form.kind,
        "in_shape": list(transform.source.shape),
        "out_shape": list(transform.target.shape),
        "parameters": transform.size,
    }


def of_images(invariant: InvariantImages | None) -> dict[str, Any]:
    """What is said of the images that a map was trained on, where they are no real ones."""
    return {} if invariant is None else {"invariant_images": invariant.as_dict()}


def _donor(checkpoint: Checkpoint) -> dict[str, Any]:
    path = checkpoint.path
    return {**checkpoint.as_dict(), "learning_curve": path and learning_curve(path)}


def learning_curve(checkpoint: Path) -> dict[str, list[float]] | None:
    """Epochs and test accuracies from the training log beside a checkpoint; None where there is no
    readable one."""
    try:
        with checkpoint.with_name(LOG).open(newline="", encoding="utf-8") as file:
            read = [(line["epoch"], line["test_accuracy"]) for line in csv.DictReader(file)]
        curve = {
            "epoch": [int(epoch) for epoch, _ in read],
            "test_accuracy": [float(share or "nan") for _, share in read],
        }
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None
    return curve if read else None


def numbers(measured: Measured, **of_data: int) -> dict[str, Any]:
    """What was measured on one dataset, of which `of_data` tells more."""
    scores = {name: one.as_dict() for name, one in measured.scores.items()}
    attacks = measured.attacks
    for name in scores:
        robust = attacks and attacks.robust.get(name)
        scores[name]["robust"] = robust
        scores[name]["robust_interval"] = robust and {
            attack: interval_of(share, attacks.n_images) for attack, share in robust.items()
        }
    stitched = scores.get("stitched", {}).get("accuracy")  # of a grid some may have diverged
    control = {name: scores[name]["accuracy"] for name in CONTROLS if name in scores}
    if measured.random_fronts:
        control["random_front"] = fmean(measured.random_fronts)
    return {
        "data": {"name": measured.data, "n_images": measured.n_images, **of_data},
        "cka": measured.cka,
        "debiased_cka": measured.debiased_cka,
        "debiased_cka_interval": measured.scores["front"].debiased_cka_to_end_interval,
        "l2": measured.l2,
        **{name: scores.get(name) for name in NETWORKS},
        "random_fronts": list(measured.random_fronts) or None,
        "noise_front": [score.as_dict() for score in measured.noise_front] or None,
        "ood": {
            name: one.ood.as_dict() for name, one in measured.scores.items() if one.ood is not None
        }
        or None,
        "gaps": {
            name: None if stitched is None else stitched - accuracy
            for name, accuracy in control.items()
        },
        "transfer": attacks and (attacks.transfer or None),
        "attacks": attacks
        and {
            "norm": attacks.threat.norm,
            "epsilon": attacks.threat.epsilon,
            "n_images": attacks.n_images,
            "tier": attacks.tier,
            "cumulative": list(attacks.cumulative),
            **attacks.settings,
            "clean_accuracy": attacks.clean,
            "clean_accuracy_interval": {
                name: interval_of(share, attacks.n_images) for name, share in attacks.clean.items()
            },
            "warnings": list(attacks.warnings),
        },
    }


def seed_varies(plan: Stitched, compared: int | None) -> list[str]:
    """What another seed would change of a run: error bars over seeds are about that, no more."""
    varied = ["the order and the augmentation of the batches"]
    if plan.images == INVARIANT:
        varied = ["the order of the batches", "the noise that invariant images begin as"]
    if plan.transform.init in ("random", "perm"):
        varied.append("the first values of the map")
    if plan.transform.mask == PERMUTED:
        varied.append("the mask")
    if plan.measured.controls:
        varied.append("the random fronts")
    if compared is not None and not plan.measured.no_pinv:
        varied.append("the images that activations are compared on, where these are not all")
    if not plan.measured.no_robustness:
        varied.append("the images that are attacked, where these are not all")
    if not plan.measured.no_robustness or plan.objective.adversary:
        varied.append("the random starts of attacks")
    return varied
