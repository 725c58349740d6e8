"""Claim: the graph of a resnet18 that nobody has looked at takes 0.2 s of computing.

    python benchmarks/graph_of.py [model]

Tracing it, following its images and proving that it is the network; and the same
for a network that is alike, which has a graph already. The least of seven runs: seconds, and, on a
busy machine, seconds of computing by one thread (OMP_NUM_THREADS=1).
"""

import sys
import time
from collections.abc import Callable

from _common import told

from robust_stitching import models
from robust_stitching.graphs.graph import Graph, graph_of

ROUNDS = 7


def least(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of computing."""
    times = []
    for _ in range(ROUNDS):
        began, computed = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - began, time.process_time() - computed))
    return tuple(map(min, zip(*times, strict=True)))


def main(model: str) -> None:
    network = models.build(model, num_classes=10, in_channels=3)
    kept = graph_of(network)
    computed = {}
    for what, run in (("new", lambda: Graph(network)), ("known", lambda: graph_of(network))):
        seconds, computed[what] = least(run)
        print(f"{what:>5}: {seconds:.3f} s, {computed[what]:.3f} s of computing")
    told(**computed)
    del kept


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "resnet18")
