"""What can be asked for, as plain values: each action one frozen plan, its defaults and choices.

Nothing here computes or imports more than the standard library, so that a command can be
understood, written as JSON, sent to another machine and compared before anything heavy is loaded.
"""

from robust_stitching.plans.actions import (
    AttackPlan,
    ComparePlan,
    CompareSavedPlan,
    EvaluatePlan,
    GridPlan,
    Stitching,
    StitchPlan,
    TrainPlan,
    stitching,
)
from robust_stitching.plans.parts import (
    Adversary,
    Cut,
    DataRef,
    FileRef,
    Measurement,
    NetworkRef,
    Objective,
    Optimisation,
    Transform,
)
from robust_stitching.plans.written import (
    as_values,
    changed,
    differences,
    flat,
    from_flat,
    from_options,
    from_values,
    identity,
    read,
)

__all__ = [
    "Adversary",
    "AttackPlan",
    "ComparePlan",
    "CompareSavedPlan",
    "Cut",
    "DataRef",
    "EvaluatePlan",
    "FileRef",
    "GridPlan",
    "Measurement",
    "NetworkRef",
    "Objective",
    "Optimisation",
    "StitchPlan",
    "Stitching",
    "TrainPlan",
    "Transform",
    "as_values",
    "changed",
    "differences",
    "flat",
    "from_flat",
    "from_options",
    "from_values",
    "identity",
    "read",
    "stitching",
]
