"""How alike two representations are: CKA, subspaces, neighbours, direct matching, outputs.

Each measure is one function on plain arrays; `compare` takes all layers of two networks at once.
"""

from robust_stitching.similarity.compare import Comparison, compare, compare_saved
from robust_stitching.similarity.measure import Measure
from robust_stitching.similarity.measures import MEASURES, register
from robust_stitching.similarity.measures.cka import cka, debiased_cka, minibatch_cka
from robust_stitching.similarity.measures.distance_correlation import (
    distance_correlation,
    unbiased_distance_correlation,
)
from robust_stitching.similarity.measures.gulp import gulp_0, gulp_1e_2, gulp_1e_4
from robust_stitching.similarity.measures.imd import imd
from robust_stitching.similarity.measures.linear import (
    cca,
    procrustes,
    regression,
    squared_cca,
    svcca,
)
from robust_stitching.similarity.measures.neighbours import euclidean_mutual_knn, mutual_knn
from robust_stitching.similarity.measures.outputs import agreement, disagreement, jensen_shannon
from robust_stitching.similarity.measures.rbf_cka import rbf_cka
from robust_stitching.similarity.measures.rsa import (
    raw_rsm_norm,
    rsa_correlation_pearson,
    rsa_correlation_spearman,
    rsa_euclidean_pearson,
    rsa_euclidean_spearman,
    rsm_norm,
)
from robust_stitching.similarity.measures.shapes import (
    aligned_cosine,
    angular_shape,
    permutation_procrustes,
    root_procrustes,
    size_and_shape,
)
from robust_stitching.similarity.measures.shared_neighbours import (
    euclidean_jaccard_knn,
    euclidean_rank_similarity,
    jaccard_knn,
    rank_similarity,
    second_order_cosine,
)
from robust_stitching.similarity.measures.statistics import (
    concentricity,
    magnitude,
    sphere_uniformity,
    uniformity,
)
from robust_stitching.similarity.measures.subspaces import (
    eigenspace_overlap,
    pwcca,
    reverse_pwcca,
    reverse_regression,
)
from robust_stitching.similarity.measures.units import (
    hard_correlation_match,
    soft_correlation_match,
    soft_matching,
)
from robust_stitching.similarity.moments import Moments, Spread
from robust_stitching.similarity.outputs import OutputComparison, compare_outputs

__all__ = [
    "MEASURES",
    "Comparison",
    "Measure",
    "Moments",
    "OutputComparison",
    "Spread",
    "agreement",
    "aligned_cosine",
    "angular_shape",
    "cca",
    "cka",
    "compare",
    "compare_outputs",
    "compare_saved",
    "concentricity",
    "debiased_cka",
    "disagreement",
    "distance_correlation",
    "eigenspace_overlap",
    "euclidean_jaccard_knn",
    "euclidean_mutual_knn",
    "euclidean_rank_similarity",
    "gulp_0",
    "gulp_1e_2",
    "gulp_1e_4",
    "hard_correlation_match",
    "imd",
    "jaccard_knn",
    "jensen_shannon",
    "magnitude",
    "minibatch_cka",
    "mutual_knn",
    "permutation_procrustes",
    "procrustes",
    "pwcca",
    "rank_similarity",
    "raw_rsm_norm",
    "rbf_cka",
    "register",
    "regression",
    "reverse_pwcca",
    "reverse_regression",
    "root_procrustes",
    "rsa_correlation_pearson",
    "rsa_correlation_spearman",
    "rsa_euclidean_pearson",
    "rsa_euclidean_spearman",
    "rsm_norm",
    "second_order_cosine",
    "size_and_shape",
    "soft_correlation_match",
    "soft_matching",
    "sphere_uniformity",
    "squared_cca",
    "svcca",
    "unbiased_distance_correlation",
    "uniformity",
]
