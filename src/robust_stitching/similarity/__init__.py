"""How alike two representations are: CKA, subspaces, neighbours, direct matching, outputs.

Each measure is one function on plain arrays; `compare` takes all layers of two networks at once.
"""

from robust_stitching.similarity.compare import Comparison, compare
from robust_stitching.similarity.measure import Measure
from robust_stitching.similarity.measures import MEASURES, register
from robust_stitching.similarity.measures.cka import cka, debiased_cka, minibatch_cka
from robust_stitching.similarity.measures.linear import (
    cca,
    procrustes,
    regression,
    squared_cca,
    svcca,
)
from robust_stitching.similarity.measures.neighbours import mutual_knn
from robust_stitching.similarity.measures.outputs import agreement, disagreement, jensen_shannon
from robust_stitching.similarity.moments import Moments
from robust_stitching.similarity.outputs import OutputComparison, compare_outputs

__all__ = [
    "MEASURES",
    "Comparison",
    "Measure",
    "Moments",
    "OutputComparison",
    "agreement",
    "cca",
    "cka",
    "compare",
    "compare_outputs",
    "debiased_cka",
    "disagreement",
    "jensen_shannon",
    "minibatch_cka",
    "mutual_knn",
    "procrustes",
    "register",
    "regression",
    "squared_cca",
    "svcca",
]
