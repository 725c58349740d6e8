"""Claim: exact CKA and direct matching over 10,000 images in under 24 s of computing, which
are 12 s on 2 cores, and 1.5 GB, and right to 1e-6.

    python benchmarks/cka.py            # time, memory, and the same number in float64 throughout
    python benchmarks/cka.py --no-check # without the latter, which takes memory of its own

Two tiny10 networks with their activations at bn3 (32×13×13, 5,408 features) for 10,000 random
images. Peak memory is the whole process, torch and the images included, read before the check.
"""

import resource
import sys
import time

import torch
from _common import told

from robust_stitching import models
from robust_stitching.data import Split
from robust_stitching.graphs.graph import layout_of
from robust_stitching.similarity.blocks import Blocks
from robust_stitching.similarity.gram import GramSums, normalised
from robust_stitching.similarity.stream import NetworkStream
from robust_stitching.stitching.matching import direct, moments_of

N, LAYER, BATCH_SIZE = 10_000, "bn3", 250


def main(check: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(N, 3, 8, 8, generator=generator)  # smooth, as real images are
    images = torch.cat(
        [torch.nn.functional.interpolate(part, 32, mode="bicubic") for part in small.split(1000)]
    )
    images = (images.clamp_(0, 1) * 255).byte()
    split = Split("random", images, torch.zeros(N, dtype=torch.long), tuple("0123456789"))
    networks = [
        models.build("tiny10", num_classes=10, in_channels=3, seed=seed).eval() for seed in (0, 1)
    ]
    started, computed = time.perf_counter(), time.process_time()
    stream = NetworkStream(
        [(network, {LAYER: layout_of(network, LAYER)}) for network in networks], split, BATCH_SIZE
    )
    blocks = Blocks(N, BATCH_SIZE, len(networks), stream.image_bytes, [GramSums])
    stream.gather([], blocks)
    found = float(normalised(blocks.taken[GramSums].biased())[0, 1])
    between = time.perf_counter()
    direct(moments_of(networks[0], LAYER, networks[1], LAYER, split))
    ended, computed = time.perf_counter(), time.process_time() - computed
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"CKA {between - started:.1f} s, direct matching {ended - between:.1f} s, ", end="")
    print(f"together {ended - started:.1f} s, {computed:.1f} s of computing; ", end="")
    print(f"peak memory {peak:.2f} GiB")
    found_out = {"computing": computed, "seconds": ended - started, "GiB": peak}
    if check:
        kept: list[list[torch.Tensor]] = []
        stream.gather([lambda batch: kept.append(batch.activations)])
        x, y = (torch.cat(own).flatten(1).double() for own in zip(*kept, strict=True))
        x, y = x - x.mean(dim=0), y - y.mean(dim=0)
        k, other = x @ x.T, y @ y.T
        exact = float((k * other).sum() / (k.norm() * other.norm()))
        print(f"CKA {found:.10f}, in float64 throughout {exact:.10f}")
        print(f"difference {abs(found - exact):.1e}; time of float64 Gram matrices not counted")
        found_out["difference"] = abs(found - exact)
    told(**found_out)


if __name__ == "__main__":
    main(check="--no-check" not in sys.argv[1:])
