"""Claim: 8 × 8 layers of resnet_w1 compared over 10,000 images in under 4 GB: 1.9 GB and 8 minutes
of one core for exact CKA, 1.3 GB and a minute for measures that take one pass.

    python benchmarks/compare_memory.py              # exact CKA, the one that takes most
    python benchmarks/compare_memory.py minibatch-cka procrustes svcca mutual-knn

Two resnet_w1 with their first eight clean cuts behind the input, 16×32×32 = 16,384 features each:
the activations together are 10 GiB. Peak memory is the whole process, torch and the images
included.
"""

import resource
import sys
import time

import torch
from _common import told

from robust_stitching import models
from robust_stitching.basics.progress import shown
from robust_stitching.data import Split
from robust_stitching.graphs.graph import Graph
from robust_stitching.similarity.compare import compare
from robust_stitching.similarity.deciding import clean_cuts

N, LAYERS = 10_000, 8


def main(measures: list[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (N, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split("random", images, torch.zeros(N, dtype=torch.long), tuple("0123456789"))
    networks = [
        models.build("resnet_w1", num_classes=10, in_channels=3, seed=seed) for seed in (0, 1)
    ]
    layers = clean_cuts(Graph(networks[0]))[1 : LAYERS + 1]
    found = compare(*networks, split, layers, layers, measures, progress=shown)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sizes = f"{len(found.layers1)} × {len(found.layers2)} layers, {N:,} images"
    computed = time.process_time()
    seconds = f"{found.seconds:.0f} s ({computed:.0f} s of processor time)"
    print(f"{', '.join(measures)}; {sizes}: {seconds}, peak memory {peak / 1e9:.2f} GB")
    told(minutes=computed / 60, GB=peak / 1e9)


if __name__ == "__main__":
    main(sys.argv[1:] or ["cka"])
