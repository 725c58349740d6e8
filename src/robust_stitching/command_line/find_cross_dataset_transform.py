"""Stitch two networks on one dataset and measure the result on another one, too.

    python src/bin/find_cross_dataset_transform.py archive/lenet/Digits/in0-gn0/model.pt \\
        archive/lenet/MNIST/in0-gn0/model.pt relu2 relu2 digits mnist -e 10 --run-name cross

The map is trained and evaluated on the first dataset and only evaluated on the second; the report
has both. Both need as many classes as the end network tells apart; classes are matched by their
names, those that are left over in their order. Grey images are repeated for a network of colours.
"""

from robust_stitching.command_line import options
from robust_stitching.command_line.parser import Parser
from robust_stitching.command_line.stitching import stitch_and_print
from robust_stitching.plans import StitchPlan


def parser() -> Parser:
    p = Parser(__doc__, StitchPlan)
    options.add_stitching(p)
    p.setting(
        "eval_dataset.name",
        "eval_dataset",
        help="data to measure on, too; the map never learns from it",
    )
    options.add_runs(p, options.RESULTS)
    options.add_plan(p)
    options.add_device(p)
    options.add_adversary(p, "objective.adversary", trades=False)
    options.add_robustness(p)
    return p


def main(argv: list[str]) -> None:
    stitch_and_print(parser, argv)
