"""Adversarial attacks in pixel space under an l-inf or l2 threat: FGSM, PGD, APGD, Square."""

from robust_stitching.attacks.apgd import apgd, apgd_targeted
from robust_stitching.attacks.draws import Draws, draws_at
from robust_stitching.attacks.loop import Attacked
from robust_stitching.attacks.pgd import fgsm, pgd
from robust_stitching.attacks.square import square
from robust_stitching.attacks.threat import Threat

__all__ = [
    "Attacked",
    "Draws",
    "Threat",
    "apgd",
    "apgd_targeted",
    "draws_at",
    "fgsm",
    "pgd",
    "square",
]
