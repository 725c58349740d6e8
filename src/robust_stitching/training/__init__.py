"""One way to train: `Trainer` steps through epochs; what it minimises is an objective."""

from robust_stitching.training.adversarial import objective_of
from robust_stitching.training.objectives import Objective, standard
from robust_stitching.training.trainer import Diverged, EpochRecord, Metrics, Trainer

__all__ = [
    "Diverged",
    "EpochRecord",
    "Metrics",
    "Objective",
    "Trainer",
    "objective_of",
    "standard",
]
