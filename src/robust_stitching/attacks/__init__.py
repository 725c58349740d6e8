"""Adversarial attacks in pixel space: FGSM, PGD and APGD under an l-inf or l2 threat."""

from robust_stitching.attacks.apgd import apgd, apgd_targeted
from robust_stitching.attacks.loop import Attacked
from robust_stitching.attacks.pgd import fgsm, pgd
from robust_stitching.attacks.threat import Threat

__all__ = ["Attacked", "Threat", "apgd", "apgd_targeted", "fgsm", "pgd"]
