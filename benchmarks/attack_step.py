"""Claim: a PGD-10 step of training a stitch costs at most 0.6 times that of two whole networks.

    python benchmarks/attack_step.py [layer]

Ours attacks one graph with batch norms folded into convolutions; the other side hooks two whole
networks together, frozen as well. tiny10 to tiny10 at bn3 unless another layer is named, 32×32
colour images, batches of 128.
"""

import sys

import torch
from _common import paired, told
from stitch_step import SIZE, WholeNetworks

from robust_stitching import models
from robust_stitching.graphs.folding import Folded
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import Adversary
from robust_stitching.training.adversarial import Attacking

ROUNDS = 7


def main(layer: str) -> None:
    front, end = (
        models.build("tiny10", num_classes=10, in_channels=3, seed=seed).to(
            memory_format=torch.channels_last
        )
        for seed in (0, 1)
    )
    ours = StitchedNetwork(front, layer, end, layer)
    view = Folded(ours)
    whole = WholeNetworks(front, end, layer, ours.transform.source)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(SIZE, 3, 32, 32, generator=generator).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (SIZE,), generator=generator)
    adversary = Adversary("madry", ramp=0)

    def step(network: torch.nn.Module, view: torch.nn.Module | None):
        objective = Attacking(adversary, view=view)
        network.transform.set(torch.eye(len(ours.transform.weight)), ours.transform.bias)
        network.train()
        optimizer = torch.optim.Adam(network.transform.parameters(), lr=1e-3)

        def run() -> None:
            loss = objective(network, images, labels, 0).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return run

    a, b, ratio = paired(step(ours, view), step(whole, None), ROUNDS)
    print(f"one folded graph {a * 1e3:.0f} ms a step, both whole {b * 1e3:.0f} ms")
    print(f"ratio {ratio:.2f} (median of {ROUNDS} rounds, tiny10 at {layer})")
    told(ratio=ratio)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "bn3")
