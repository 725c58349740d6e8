"""Claim: evaluating a network takes at most 0.9 times as long as a plain loop.

    python benchmarks/evaluation.py [MODEL]

The plain loop takes the network as PyTorch makes it through batches of 250 images, which it divides
by 255, in evaluation mode and without gradients, and counts right answers. tiny10 unless another
model is named, 10,000 colour images of 32×32, its own answers for labels. Both compute the
same, so the bound is what memory order and the size of batches give.
"""

import sys

import torch
from _common import paired, told

import robust_stitching as rs
from robust_stitching import models
from robust_stitching.data import Split

IMAGES, SIZE, ROUNDS = 10_000, 250, 3


def main(model: str = "tiny10") -> None:
    plain, ours = (models.build(model, num_classes=10, in_channels=3).eval() for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)

    @torch.no_grad()
    def answers() -> torch.Tensor:
        return torch.cat([plain(some / 255).argmax(dim=1) for some in images.split(SIZE)])

    classes = tuple("0123456789")
    split = Split("random", images, answers(), classes)
    network = rs.network(ours, classes=classes)

    def evaluate() -> None:
        rs.evaluate(network, split)

    def loop() -> None:
        (answers() == split.labels).double().mean().item()

    a, b, ratio = paired(evaluate, loop, ROUNDS)
    print(f"evaluate {a:.2f} s, a plain loop {b:.2f} s")
    share = rs.evaluate(network, split).accuracy
    print(
        f"ratio {ratio:.2f} (median of {ROUNDS} rounds, {model}), the same answers to {share:.2%}"
    )
    told(ratio=ratio, same=share)


if __name__ == "__main__":
    main(*sys.argv[1:])
