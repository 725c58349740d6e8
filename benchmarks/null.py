"""Claim: 200 permutations of 8 × 8 layers on 2,000 images take at most twice as long again as the
comparison itself: three times the plain one in all.

    python benchmarks/null.py                              # CKA, exact and debiased
    python benchmarks/null.py minibatch-cka procrustes svcca mutual-knn disagreement

Two resnet_w1 of random weights on random images, the first eight clean cuts behind the input.
"""

import sys

import torch
from _common import told

from robust_stitching import models
from robust_stitching.data import Split
from robust_stitching.graphs.graph import Graph
from robust_stitching.similarity.compare import compare
from robust_stitching.similarity.deciding import clean_cuts

N, LAYERS, PERMUTATIONS = 2000, 8, 200


def main(measures: list[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (N, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split("random", images, torch.zeros(N, dtype=torch.long), tuple("0123456789"))
    networks = [
        models.build("resnet_w1", num_classes=10, in_channels=3, seed=seed) for seed in (0, 1)
    ]
    layers = clean_cuts(Graph(networks[0]))[1 : LAYERS + 1]
    asked = (*networks, split, layers, layers, measures)
    plain = compare(*asked).seconds
    doubted = compare(*asked, null=PERMUTATIONS).seconds
    print(
        f"{', '.join(measures)}; {LAYERS} × {LAYERS} layers, {N:,} images: plain {plain:.1f} s, "
        f"with {PERMUTATIONS} permutations {doubted:.1f} s, ratio {doubted / plain:.2f}"
    )
    told(ratio=doubted / plain)


if __name__ == "__main__":
    main(sys.argv[1:] or ["cka", "debiased-cka"])
