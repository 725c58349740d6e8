"""Claim: the default attack suite on a robust network costs at most 1.2 times its bare passes.

    python benchmarks/attack_suite.py CHECKPOINT [DATASET]

Fooled images leave; those of a robust network stay, so what counts is a pass. The bare passes are
as many, of as many images, forward and, where the suite asks for a gradient, backward to the image,
through the same network with folded batch norms. 250 test images at the dataset's usual radius.
"""

import sys
from pathlib import Path

import torch
from _common import paired, told

from robust_stitching import checkpoints, data
from robust_stitching.attacks.losses import cross_entropy
from robust_stitching.basics.modes import attackable
from robust_stitching.evaluation.robustness import robustness, suite
from robust_stitching.evaluation.suites import threat_on
from robust_stitching.graphs.folding import view_of

IMAGES, ROUNDS = 250, 2


def main(path: str, dataset: str | None) -> None:
    checkpoint = checkpoints.load(Path(path)).to(torch.device("cpu"))
    _, test = data.load(dataset or checkpoint.dataset)
    test = test.sample(IMAGES)
    attacks = suite("default", threat_on(test, None), len(test.classes))
    network, view = checkpoint.network, view_of(checkpoint.network)
    ((images, labels),) = test.batches(IMAGES)
    passes = []

    def attacked() -> None:
        passes.clear()
        note = view.register_forward_hook(
            lambda module, given, logits: passes.append((len(logits), logits.requires_grad))
        )
        robustness(network, test, attacks, view=view)
        note.remove()

    def bare() -> None:
        with attackable(view):
            for n, gradient in passes:
                x = images[:n].detach().requires_grad_(gradient)
                loss = cross_entropy(view(x), labels[:n])
                if gradient:
                    torch.autograd.grad(loss.sum(), x)

    a, b, ratio = paired(attacked, bare, ROUNDS)
    steps = sum(n for n, gradient in passes if gradient)
    queries = sum(n for n, gradient in passes if not gradient)
    print(f"the suite {a:.1f} s, its passes alone {b:.1f} s")
    print(f"{steps:,} images forward and backward, {queries:,} forward alone")
    print(f"ratio {ratio:.2f} (median of {ROUNDS} rounds)")
    told(ratio=ratio)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
