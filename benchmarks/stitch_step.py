"""Claim: training a stitch costs at most 0.6 times what running both networks whole costs.

    python benchmarks/stitch_step.py [layer]

The other side is the usual way: hooks on the two networks, of which one is run to its end for the
activation, the other from its beginning, only to have it replaced. tiny10 to tiny10 at bn3 unless
another layer is named, 32×32 colour images, batches of 128.
"""

import sys

import torch
from _common import paired, told
from torch.nn.functional import cross_entropy

from robust_stitching import models
from robust_stitching.graphs.layout import Layout
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.graphs.transform import LinearMap

STEPS, SIZE, ROUNDS = 20, 128, 9


class WholeNetworks(torch.nn.Module):
    """Both networks run from image to logits; hooks carry the activation across."""

    def __init__(self, front: torch.nn.Module, end: torch.nn.Module, layer: str, layout: Layout):
        super().__init__()
        self.front, self.end = front.requires_grad_(False), end.requires_grad_(False)
        self.transform = LinearMap(layout, layout)
        front.get_submodule(layer).register_forward_hook(self._keep)
        end.get_submodule(layer).register_forward_hook(self._replace)

    def _keep(self, module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self.kept = output

    def _replace(self, module: torch.nn.Module, inputs: tuple, output: torch.Tensor):
        return self.transform(self.kept)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.front(images)
        return self.end(images)


def main(layer: str) -> None:
    front, end = (
        models.build("tiny10", num_classes=10, in_channels=3, seed=seed).to(
            memory_format=torch.channels_last
        )
        for seed in (0, 1)
    )
    ours = StitchedNetwork(front, layer, end, layer)
    whole = WholeNetworks(front, end, layer, ours.transform.source)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(SIZE, 3, 32, 32, generator=generator).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (SIZE,), generator=generator)

    def training(network: torch.nn.Module):
        network.transform.set(torch.eye(len(ours.transform.weight)), ours.transform.bias)
        network.train()
        optimizer = torch.optim.Adam(network.transform.parameters(), lr=1e-3)

        def steps() -> None:
            for _ in range(STEPS):
                loss = cross_entropy(network(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return steps

    a, b, ratio = paired(training(ours), training(whole), ROUNDS)
    print(f"one graph {a / STEPS * 1e3:.1f} ms a step, both whole {b / STEPS * 1e3:.1f} ms")
    print(f"ratio {ratio:.2f} (median of {ROUNDS} rounds, tiny10 at {layer})")
    told(ratio=ratio)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "bn3")
