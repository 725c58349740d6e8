"""One way to train: `Trainer` steps through epochs; what it minimises is an objective."""

from robust_stitching.training.objectives import Objective, standard
from robust_stitching.training.trainer import Diverged, EpochRecord, Trainer, TrainingConfig

__all__ = ["Diverged", "EpochRecord", "Objective", "Trainer", "TrainingConfig", "standard"]
