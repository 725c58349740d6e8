"""How alike two representations are: CKA, subspaces, neighbours, direct matching, outputs."""

from robust_stitching.similarity.cka import (
    Activations,
    debiased_cka,
    linear_cka,
    linear_ckas,
    minibatch_cka,
)
from robust_stitching.similarity.compare import Comparison, compare
from robust_stitching.similarity.moments import Moments
from robust_stitching.similarity.outputs import OutputComparison, compare_outputs

__all__ = [
    "Activations",
    "Comparison",
    "Moments",
    "OutputComparison",
    "compare",
    "compare_outputs",
    "debiased_cka",
    "linear_cka",
    "linear_ckas",
    "minibatch_cka",
]
