"""One way to train: `Trainer` steps through epochs; what it minimises is an objective."""

from robust_stitching.training.objectives import Adversary, Objective, objective_of, standard
from robust_stitching.training.optimisation import TrainingConfig
from robust_stitching.training.trainer import (
    Diverged,
    EpochRecord,
    Metrics,
    Trainer,
)

__all__ = [
    "Adversary",
    "Diverged",
    "EpochRecord",
    "Metrics",
    "Objective",
    "Trainer",
    "TrainingConfig",
    "objective_of",
    "standard",
]
