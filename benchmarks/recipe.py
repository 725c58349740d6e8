"""Claim: two epochs by the fast recipe give at least the accuracy of the default's thirty minus 0.3
points at every clean cut, and under Madry's attack the worst case minus 1 point.

    python benchmarks/recipe.py
    python benchmarks/recipe.py --cuts relu1 relu3 --madry
    python benchmarks/recipe.py --front A.pt --end B.pt --dataset PATH --cuts all --images 10000

Both recipes train a map between the same layers of two networks on the same images. A cut fails
where the paired 95% interval of (fast − paper) over the test images lies wholly below the margin: a
fixed margin on the difference alone would fail some of many equal cuts by chance. Where the paper's
map gives one answer to all images, no attack changes it: its worst case is that of having learned
nothing, and is not counted. Without options,
three cuts of two LeNets of digits, whose 360 test images tell only differences of some points.
"all" are all clean cuts, "stages" one a stage, as a map of stitches takes them.
"""

import argparse
import time
from typing import Any

from _common import ROOT, told
from torch import Tensor, nn

import robust_stitching as rs
from robust_stitching.basics.labels import are_right
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit
from robust_stitching.evaluation import predict
from robust_stitching.evaluation.robustness import WORST, robustness, suite
from robust_stitching.evaluation.suites import threat_on
from robust_stitching.graphs.graph import graph_of
from robust_stitching.graphs.stages import stages
from robust_stitching.plans import Adversary
from robust_stitching.plans.recipes import FAST, PAPER

NETWORKS = [ROOT / f"archive/lenet/Digits/in{i}-gn{i}/model.pt" for i in (0, 1)]
CLEAN_MARGIN, ROBUST_MARGIN = 0.3, 1.0
"""Points."""

HOLDS, FAILS, IDLE = "holds", "FAILS", "not counted: the paper's gives one answer to all images"
FEW = 100


def interval(fast: Tensor, paper: Tensor) -> tuple[float, float, float]:
    """Mean of the differences of answers (N,) that are right, and its 95% interval, in points."""
    difference = 100 * (fast.double() - paper.double())
    mean, half = float(difference.mean()), 1.96 * float(difference.std()) / len(difference) ** 0.5
    return mean, mean - half, mean + half


def line(what: str, right: dict[str, Tensor], margin: float, idle: bool = False) -> str:
    """One quantity of a cut; `idle` where the paper's recipe has learned nothing there."""
    fast, paper = (100 * float(right[recipe].double().mean()) for recipe in (FAST, PAPER))
    mean, low, high = interval(right[FAST], right[PAPER])
    verdict = FAILS if high < -margin else HOLDS
    verdict = IDLE if idle and verdict == FAILS else verdict
    return (
        f"{what:24} fast {fast:6.2f}%  paper {paper:6.2f}%  difference {mean:+5.2f} "
        f"[{low:+.2f}, {high:+.2f}]  {verdict}"
    )


def worst_case(network: nn.Module, test: AnySplit, epsilon: float | None) -> Tensor:
    """Which images stay right under every attack of the tier of reports."""
    attacks = suite("gradient", threat_on(test, epsilon), len(test.classes))
    return ~robustness(network, test, attacks, keep_images=False).fooled(WORST)


def main(asked: argparse.Namespace | None = None) -> None:
    asked = asked or options().parse_args()
    donors = [rs.load(path) for path in (asked.front, asked.end)]
    train, test = rs.load_data(asked.dataset, image_size=donors[0].network.input_shape[-1])
    train = train.sample(min(asked.images, len(train)), seed=0)
    attacked = test.sample(min(asked.robust_images, len(test)), seed=0)
    epsilon = threat_on(test, asked.epsilon).epsilon
    adversary = Adversary("madry", epsilon, epsilon / 4) if asked.madry else None
    print(
        f"{len(train):,} training images, {len(test):,} test images, seed {asked.seed}"
        + (f", Madry's attack with radius {epsilon:.4g}" if adversary else "")
    )
    cuts = cuts_of(asked.cuts, *(donor.network for donor in donors))
    failed, gained = [], {}
    for some in [[cut] for cut in cuts] if adversary else [cuts]:
        how = {"seed": asked.seed, "adversary": adversary}
        made = {recipe: trained(donors, some, train, recipe, **how) for recipe in (FAST, PAPER)}
        for cut in some:
            networks = {recipe: made[recipe][0][cut] for recipe in made}
            answers = {r: predict(n, test) for r, n in networks.items()}
            clean = {r: are_right(own, test.labels) for r, own in answers.items()}
            gained[cut] = interval(clean[FAST], clean[PAPER])[0]
            lines = [line(cut, clean, CLEAN_MARGIN)]
            if adversary:
                worst = {r: worst_case(n, attacked, epsilon) for r, n in networks.items()}
                idle = len(answers[PAPER].argmax(dim=1).unique()) == 1
                lines.append(line(f"  worst case of {len(attacked):,}", worst, ROBUST_MARGIN, idle))
            failed += [each for each in lines if FAILS in each]
            print(*lines, sep="\n", flush=True)
        print(f"trained {made[PAPER][1] / made[FAST][1]:.1f} times as fast", flush=True)
    print(f"{len(failed)} of {len(cuts)} cuts fail")
    told(failed=len(failed), **gained)


def trained(
    donors: list[Checkpoint], cuts: list[str], train: AnySplit, recipe: str, **how: Any
) -> tuple[dict[str, nn.Module], float]:
    """The network stitched at each cut, and the seconds that all took. What the log of training
    looks at changes nothing of the maps: a few images."""
    few = train.sample(min(FEW, len(train)), seed=0)
    layers = {"front_layers": tuple(cuts), "end_layers": tuple(cuts), "cells": "pairs"}
    started = time.perf_counter()
    measured = {"no_pinv": True, "no_robustness": True}
    made = rs.stitch_map(*donors, (train, few), recipe=recipe, **layers, **measured, **how)
    seconds = time.perf_counter() - started
    return {cell.plan.cut.front_layer: cell.trained.network for cell in made.cells}, seconds


def cuts_of(asked: list[str], front: nn.Module, end: nn.Module) -> list[str]:
    """Layers that both networks have; of "all", one for each activation."""
    if asked == ["stages"]:
        return [layer for layer in stages(front) if layer in stages(end)]
    if asked != ["all"]:
        return asked
    ours, theirs = (graph_of(network) for network in (front, end))
    clean = {ours.node(name): name for name, layer in ours.layers.items() if layer.clean}
    return [name for name in clean.values() if name in theirs.layers and theirs.layers[name].clean]


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
