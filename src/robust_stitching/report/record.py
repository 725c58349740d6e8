"""A stitching run as plain values: the JSON report, from which table and CSV line follow."""

import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from statistics import fmean
from typing import Any

import torch

from robust_stitching import __version__
from robust_stitching.basics.root import checkout
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.evaluation.intervals import interval_of
from robust_stitching.stitching.config import StitchConfig
from robust_stitching.stitching.measure import Measured
from robust_stitching.stitching.run import StitchResult

CONTROLS = (
    *("untrained", "direct_matching", "direct_matching_recalibrated"),
    *("self_stitch", "random_front"),
)
NETWORKS = ("front", "end", "untrained", "stitched", *CONTROLS[1:])
CKA_ESTIMATOR = "linear, exact (biased HSIC), float64 sums"
DEBIASED_ESTIMATOR = "linear, debiased (unbiased HSIC over all images), float64 sums"
INTERVAL = "95%, Wilson, over the images; the spread over trainings is not in it"
L2_DEFINITION = "mean over images of the Euclidean distance"


def as_record(result: StitchResult, command: str) -> dict[str, Any]:
    """The JSON report of a run; the keys are those of the documentation of the commands.

    Parameters
    ----------
    command : the command line that asked for the run.
    """
    return {
        "command": command,
        "params": asdict(result.config),
        "versions": versions(result.network.transform.bias.device),
        "commit": commit(),
        "seconds": round(result.seconds, 1),
        "notes": result.notes,
        "estimators": {
            "cka": CKA_ESTIMATOR,
            "debiased_cka": DEBIASED_ESTIMATOR,
            "l2": L2_DEFINITION,
            "interval": INTERVAL,
        },
        "seed_varies": seed_varies(result.config),
        "donors": {"front": donor(result.front), "end": donor(result.end)},
        "transformation": {
            "in_shape": list(result.network.transform.source.shape),
            "out_shape": list(result.network.transform.target.shape),
            "parameters": result.network.transform.size,
        },
        **_numbers(result.measured, n_train_images=result.train_images),
        "elsewhere": result.elsewhere and _numbers(result.elsewhere),
        "curve": [asdict(record) for record in result.trained.curve],
    }


def _numbers(measured: Measured, **of_data: int) -> dict[str, Any]:
    """What was measured on one dataset, of which `of_data` tells more."""
    scores = {name: found.as_dict() for name, found in measured.scores.items()}
    attacks = measured.attacks
    for name in scores:
        robust = attacks and attacks.robust.get(name)
        scores[name]["robust"] = robust
        scores[name]["robust_interval"] = robust and {
            attack: interval_of(share, attacks.n_images) for attack, share in robust.items()
        }
    stitched = scores["stitched"]["accuracy"]
    control = {name: scores[name]["accuracy"] for name in CONTROLS if name in scores}
    if measured.random_fronts:
        control["random_front"] = fmean(measured.random_fronts)
    return {
        "data": {"name": measured.data, "n_images": measured.n_images, **of_data},
        "cka": measured.cka,
        "debiased_cka": measured.debiased_cka,
        "l2": measured.l2,
        **{name: scores.get(name) for name in NETWORKS},
        "random_fronts": list(measured.random_fronts) or None,
        "gaps": {name: stitched - accuracy for name, accuracy in control.items()},
        "transfer": attacks and attacks.transfer,
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


def seed_varies(config: StitchConfig) -> list[str]:
    """What another seed would change of a run: error bars over seeds are about that, no more."""
    varied = ["the order and the augmentation of the batches"]
    if config.init in ("random", "perm"):
        varied.append("the first values of the map")
    if config.mask == "random-permutation":
        varied.append("the mask")
    if config.controls:
        varied.append("the random fronts")
    if not config.no_robustness or config.adversary:
        varied.append("the random starts of attacks")
    return varied


def donor(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a report says of one network."""
    return {
        "path": str(checkpoint.path),
        "model": checkpoint.model,
        "dataset": checkpoint.dataset,
        "classes": checkpoint.classes,
        "parameters": sum(p.numel() for p in checkpoint.network.parameters()),
        "training": checkpoint.training,
    }


def versions(device: torch.device) -> dict[str, str]:
    """Versions of what the numbers depend on, and what they were computed on."""
    found = {"robust_stitching": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    cuda = device.type == "cuda"
    found["device"] = torch.cuda.get_device_name(device) if cuda else platform.machine()
    return found


def commit() -> str | None:
    """The commit of this checkout, with "+" where files differ from it; None outside git."""
    folder = checkout()
    if folder is None or not (folder / ".git").exists():
        return None  # git would tell of a repository around us
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None if run.returncode == 0 else None
