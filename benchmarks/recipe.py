"""Claim: two epochs by the fast recipe give at least the accuracy of the default's thirty minus 0.3
points at every clean cut, and under Madry's attack the worst case minus 1 point.

    python benchmarks/recipe.py
    python benchmarks/recipe.py --cuts relu1 relu3 --madry
    python benchmarks/recipe.py --front A.pt --end B.pt --dataset PATH --cuts bn3 bn8 --images 10000

Both recipes train a map between the same layers of two networks on the same images. A cut fails
where the paired 95% interval of (fast − paper) over the test images lies wholly below the margin: a
fixed margin on the difference alone would fail some of many equal cuts by chance. Without options,
three cuts of two LeNets of digits, whose 360 test images tell only differences of some points.
"""

import argparse
import time
from pathlib import Path

import torch
from _common import ROOT
from torch import Tensor

from robust_stitching import checkpoints, data
from robust_stitching.basics.labels import are_right
from robust_stitching.data import AnySplit
from robust_stitching.evaluation import predict
from robust_stitching.evaluation.robustness import WORST, robustness, suite
from robust_stitching.evaluation.suites import threat_on
from robust_stitching.plans import Adversary, stitching
from robust_stitching.plans.recipes import FAST, PAPER
from robust_stitching.stitching.fit import find_map

NETWORKS = [ROOT / f"archive/lenet/Digits/in{i}-gn{i}/model.pt" for i in (0, 1)]
CLEAN_MARGIN, ROBUST_MARGIN = 0.3, 1.0
"""Points."""


def interval(fast: Tensor, paper: Tensor) -> tuple[float, float, float]:
    """Mean of the differences of answers (N,) that are right, and its 95% interval, in points."""
    difference = 100 * (fast.double() - paper.double())
    mean, half = float(difference.mean()), 1.96 * float(difference.std()) / len(difference) ** 0.5
    return mean, mean - half, mean + half


def line(what: str, right: dict[str, Tensor], margin: float) -> str:
    """One quantity of a cut."""
    fast, paper = (100 * float(right[recipe].double().mean()) for recipe in (FAST, PAPER))
    mean, low, high = interval(right[FAST], right[PAPER])
    told = "FAILS" if high < -margin else "holds"
    return (
        f"{what:24} fast {fast:6.2f}%  paper {paper:6.2f}%  difference {mean:+5.2f} "
        f"[{low:+.2f}, {high:+.2f}]  {told}"
    )


def worst_case(network: torch.nn.Module, test: AnySplit, epsilon: float | None) -> Tensor:
    """Which images stay right under every attack of the tier of reports."""
    attacks = suite("gradient", threat_on(test, epsilon), len(test.classes))
    return ~robustness(network, test, attacks, keep_images=False).fooled(WORST)


def main(asked: argparse.Namespace | None = None) -> None:
    asked = asked or options().parse_args()
    front, end = (checkpoints.load(Path(path)).network for path in (asked.front, asked.end))
    train, test = data.load(asked.dataset)
    train = train.sample(min(asked.images, len(train)), seed=0)
    attacked = test.sample(min(asked.robust_images, len(test)), seed=0)
    epsilon = threat_on(test, asked.epsilon).epsilon
    adversary = Adversary("madry", epsilon, epsilon / 4) if asked.madry else None
    print(
        f"{len(train):,} training images, {len(test):,} test images"
        + (f", Madry's attack with radius {epsilon:.4g}" if adversary else "")
    )
    for cut in asked.cuts:
        clean, worst, seconds = {}, {}, {}
        for recipe in (FAST, PAPER):
            plan = stitching(cut, cut, recipe=recipe, seed=asked.seed, adversary=adversary)
            started = time.perf_counter()
            made = find_map((front, cut), (end, cut), train, test, plan, main=False)
            seconds[recipe] = time.perf_counter() - started
            clean[recipe] = are_right(predict(made.network, test), test.labels)
            if adversary:
                worst[recipe] = worst_case(made.network, attacked, epsilon)
        faster = f"{seconds[PAPER] / seconds[FAST]:.1f} times as fast"
        print(line(cut, clean, CLEAN_MARGIN), faster, sep="  ", flush=True)
        if adversary:
            print(line(f"  worst case of {len(attacked):,}", worst, ROBUST_MARGIN), flush=True)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--front", default=NETWORKS[0])
    parser.add_argument("--end", default=NETWORKS[1])
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--cuts", nargs="+", default=["relu1", "relu2", "relu3"])
    parser.add_argument("--images", type=int, default=10000, help="of training, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--madry", action="store_true", help="train both under Madry's attack")
    parser.add_argument("--epsilon", type=float, help="the usual one of the dataset if not given")
    parser.add_argument("--robust-images", type=int, default=1000, help="attacked, at most")
    return parser


if __name__ == "__main__":
    main()
