"""Claim: a small stitch costs at most twice its bare steps in a process of their own.

    python benchmarks/small_stitch.py

Both are whole processes. The stitch is find_transform.py on digits, tiny10 to tiny10 at bn3, one
epoch, nothing attacked, with its measures, its report and its files. The other imports torch and
matplotlib, which nobody who trains and draws is spared, and trains the map for one epoch on random
images of the same size: it reads nothing, measures nothing and writes nothing.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from _common import paired, told
from torch.nn.functional import cross_entropy

from robust_stitching import models

ROUNDS, STEPS, SIZE = 5, 12, 128
ROOT = Path(__file__).resolve().parents[1]
NETWORKS = [ROOT / f"archive/tiny10/Digits/in{i}-gn{i}/model.pt" for i in (0, 1)]
ARGUMENTS = ["bn3", "bn3", "digits", "-e", "1", "--no-robustness", "--device", "cpu"]


def steps() -> None:
    """An epoch of a map of 32 channels in the middle of a frozen tiny10."""
    from matplotlib.figure import Figure  # noqa: F401

    network = models.build("tiny10", num_classes=10, in_channels=1).requires_grad_(False)
    network.bn3 = torch.nn.Sequential(network.bn3, torch.nn.Conv2d(32, 32, 1))
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.bn3[1].parameters())
    images, labels = torch.rand(SIZE, 1, 32, 32), torch.randint(0, 10, (SIZE,))
    for _ in range(STEPS):
        loss = cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    def stitch() -> None:
        with tempfile.TemporaryDirectory() as folder:
            started("src/bin/find_transform.py", *NETWORKS, *ARGUMENTS, "-o", folder)

    def started(*arguments: str | Path) -> None:
        subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )

    a, b, ratio = paired(stitch, lambda: started(__file__, "steps"), ROUNDS)
    print(f"a small stitch {a:.1f} s, its steps alone {b:.1f} s")
    print(f"ratio {ratio:.2f} (median of {ROUNDS} rounds)")
    told(ratio=ratio)


if __name__ == "__main__":
    steps() if sys.argv[1:] == ["steps"] else main()
