"""Claim: APGD on cross-entropy and targeted APGD as AutoAttack runs them take at most 0.8 of the
time of pyautoattack, and with Square no more than it, and leave the same accuracy within a point.

    python benchmarks/peers/autoattack.py
    python benchmarks/peers/autoattack.py --attacks apgd-ce apgd-t
    python benchmarks/peers/autoattack.py --dataset FOLDER --images 100   # CIFAR-10 as JPEG, 8/255

The attacks of AutoAttack's standard version but FAB, one after the other, each on the images that
are left: 100 steps, 9 targets, 5,000 queries, one start, L-infinity, on a network that was trained
by Madry's PGD (a LeNet of digits at 0.3 unless a folder is named). Square's schedule is stretched
to the number of queries on both sides. What is left out: FAB-T, which is not written here; the tier
"standard" is pyautoattack's own code.

Held to float64: whether adversarial images are in the ball, and how many fool a float64 copy of the
network. Random starts differ, so that single images at the edge may.
"""

import logging
from collections.abc import Sequence
from types import ModuleType

import torch
from _peers import OURS, options, peer, side_by_side, told
from pgd import BATCH, KINDS, Work, looked_at, right, work_of
from torch import Tensor

from robust_stitching.attacks import Threat, apgd, apgd_targeted, square
from robust_stitching.basics.modes import logits_of, without_tf32
from robust_stitching.basics.seeds import generator_for
from robust_stitching.graphs.folding import view_of

ROUNDS, STEPS, TARGETS, QUERIES = 1, 100, 9, 5000
PEER = "pyautoattack"
ATTACKS = ("apgd-ce", "apgd-t", "square")


def main() -> None:
    parser = options(__doc__, ROUNDS)
    parser.add_argument("--dataset", default="digits", help="digits, or a folder of CIFAR-10")
    parser.add_argument("--images", type=int, default=250, help="of the test split, at most")
    parser.add_argument("--network", choices=KINDS, default="madry")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=[*ATTACKS])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--queries", type=int, default=QUERIES)
    asked = parser.parse_args()
    theirs = peer("pyautoattack", PEER)
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    work = work_of(asked.network, asked)
    how = {"attacks": asked.attacks, "steps": asked.steps, "queries": asked.queries}
    tools = {OURS: lambda: ours(work, **how), PEER: lambda: by_pyautoattack(theirs, work, **how)}
    found = side_by_side(tools, asked)
    attacks = f"{', '.join(asked.attacks)} of {asked.steps} steps, {asked.queries:,} queries"
    print(f"{asked.network}, {len(work.labels):,} images, radius {work.epsilon:.4g}, {attacks}:")
    print(f"clean accuracy {right(work.network, work.images, work.labels):.1%}")
    found.tell()
    seen = {name: looked_at(work, name, found.answers[name]) for name in tools}
    print(f"FAB-T, the fourth attack of the standard version, is {PEER}'s alone.")
    told(
        ratio=found.ratios[PEER],
        points=100 * (seen[OURS][0] - seen[PEER][0]),
        outside=seen[OURS][1],
        changed=seen[OURS][2],
        memory=found.memory[OURS] / found.memory[PEER],
    )


def ours(work: Work, attacks: Sequence[str], steps: int, queries: int) -> Tensor:
    """The adversarial images; those of images that nothing fooled are as they were."""
    view, threat, source = view_of(work.network), Threat(work.epsilon), generator_for(0)
    runs = {
        "apgd-ce": lambda x, y: apgd(view, x, y, threat, steps=steps, generator=source),
        "apgd-t": lambda x, y: apgd_targeted(
            view, x, y, threat, steps=steps, generator=source, targets=TARGETS
        ),
        "square": lambda x, y: square(view, x, y, threat, queries=queries, generator=source),
    }

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        changed = images.clone()
        left = (logits_of(view, images).argmax(dim=1) == labels).nonzero()[:, 0]
        for run in map(runs.get, attacks):
            if not len(left):
                break
            found = run(images[left], labels[left])
            changed[left[found.fooled]] = found.images[found.fooled]
            left = left[~found.fooled]
        return changed

    with without_tf32():
        return work.each(attack)


def by_pyautoattack(
    pyautoattack: ModuleType, work: Work, attacks: Sequence[str], steps: int, queries: int
) -> Tensor:
    suite = pyautoattack.AutoAttack(
        work.network, norm="Linf", eps=work.epsilon, seed=0, version="custom", attacks=[*attacks]
    )
    suite.apgd.n_restarts, suite.apgd.n_iter = 1, steps
    suite.apgd_targeted.n_iter, suite.apgd_targeted.n_target_classes = steps, TARGETS
    suite.square.n_queries, suite.square.rescale_schedule = queries, True
    return suite.run_standard_evaluation(work.images, work.labels, batch_size=BATCH)[0]


if __name__ == "__main__":
    main()
