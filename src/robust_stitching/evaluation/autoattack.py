"""AutoAttack as published (Croce and Hein, 2020), by its authors' own package, where installed."""

import contextlib
import io

import torch
from torch import Tensor, nn

from robust_stitching.attacks import Attacked, Draws, Threat
from robust_stitching.attacks.loop import fools
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.modes import attackable, logits_of

NAME = "AutoAttack"
NORMS = {"linf": "Linf", "l2": "L2"}
LEAST_CLASSES = 4  # of the targeted DLR loss


def attack_for(threat: Threat, classes: int):
    """The standard version as a function of a batch that the network gets right.

    Raises
    ------
    UserError : where pyautoattack is not installed.
    """
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise UserError(
            "tier='standard' needs the package pyautoattack; install it with "
            "pip install -r requirements-autoattack.txt, or choose tier='default'."
        ) from error

    def run(network: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Attacked:
        seed = int(draws.rand()[0] * 2**24)  # its starts are those of the batch as a whole
        with torch.random.fork_rng(devices=_devices(x)), attackable(network):
            suite = AutoAttack(
                network,
                norm=NORMS[threat.norm],
                eps=threat.epsilon,
                seed=seed,
                version="standard",
                device=str(x.device),
            )
            if classes < LEAST_CLASSES:
                suite.attacks_to_run = ["apgd-ce", "square"]
            suite.apgd_targeted.n_target_classes = min(9, classes - 1)
            suite.fab.n_target_classes = min(9, classes - 1)
            with contextlib.redirect_stdout(io.StringIO()):
                adversarial, _ = suite.run_standard_evaluation(x.contiguous(), y, batch_size=len(x))
        fooled = fools(adversarial, logits_of(network, adversarial), y)
        step = torch.where(fooled, 0, -1)  # it does not tell the step
        unknown = torch.zeros_like(fooled)
        return Attacked(adversarial, fooled, step, unknown, unknown.clone())

    return run


def notes(classes: int) -> tuple[str, ...]:
    """What a reader has to know of AutoAttack on so many classes."""
    if classes >= LEAST_CLASSES:
        return ()
    return (
        f"With {classes} classes AutoAttack's targeted losses do not exist: only its APGD-CE and "
        "Square were run, so this is not the standard AutoAttack.",
    )


def _devices(x: Tensor) -> list[torch.device]:
    return [x.device] if x.device.type == "cuda" else []
