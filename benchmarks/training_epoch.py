"""Claim: an epoch of training costs at most 1.1 times the bare step.

    python benchmarks/training_epoch.py

The bare step is forward, backward and update on one batch that is in memory already, in the same
layout and with the same optimiser; the epoch adds shuffling, augmentation, clipping, the schedule
and the running metrics. tiny10, 32×32 colour images, batches of 128.
"""

import torch
from _common import paired, told
from torch.nn.functional import cross_entropy

from robust_stitching import models
from robust_stitching.data import Split
from robust_stitching.data.source import NATURAL
from robust_stitching.plans import Optimisation
from robust_stitching.training import Trainer, standard

BATCHES, SIZE, ROUNDS = 40, 128, 15


def network() -> torch.nn.Module:
    built = models.build("tiny10", num_classes=10, in_channels=3)
    return built.to(memory_format=torch.channels_last).train()


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    n = BATCHES * SIZE
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (n,), generator=generator)
    data = Split("random", images, labels, tuple("0123456789"), NATURAL)
    config = Optimisation(epochs=1, lr=0.01, batch_size=SIZE, clip_norm=1.0)
    trained = network()

    def epoch() -> None:
        Trainer(trained, standard, data, config).run()

    bare = network()
    optimizer = torch.optim.SGD(
        bare.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    batch, targets = next(data.epoch(SIZE, seed=0, epoch=0))

    def steps() -> None:
        for _ in range(BATCHES):
            loss = cross_entropy(bare(batch), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    ours, floor, ratio = paired(epoch, steps, ROUNDS)
    print(f"epoch {ours / BATCHES * 1e3:.1f} ms a step, bare step {floor / BATCHES * 1e3:.1f} ms")
    print(f"ratio {ratio:.2f} (median of {ROUNDS} rounds)")
    told(ratio=ratio)


if __name__ == "__main__":
    main()
