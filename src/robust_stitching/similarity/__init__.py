"""How alike two representations are: linear CKA, direct matching, distances, outputs."""

from robust_stitching.similarity.cka import Activations, linear_cka, linear_ckas
from robust_stitching.similarity.moments import Moments
from robust_stitching.similarity.outputs import OutputComparison, compare_outputs

__all__ = [
    "Activations",
    "Moments",
    "OutputComparison",
    "compare_outputs",
    "linear_cka",
    "linear_ckas",
]
