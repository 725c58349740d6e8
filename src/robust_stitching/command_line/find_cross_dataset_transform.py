"""Stitch two networks on one dataset and measure the result on another one, too.

    python src/bin/find_cross_dataset_transform.py archive/lenet/Digits/in0-gn0/model.pt \\
        archive/lenet/MNIST/in0-gn0/model.pt relu2 relu2 digits mnist -e 10 --run-name cross

The map is trained and evaluated on the first dataset and only evaluated on the second; the report
has both. Both need as many classes as the end network tells apart; classes are matched by their
names, those that are left over in their order. Grey images are repeated for a network of colours.
"""

from robust_stitching.command_line import cli, options
from robust_stitching.command_line.command import stitch_and_report


def parser() -> cli.Parser:
    p = cli.Parser(__doc__)
    options.add_stitching_arguments(p)
    p.add_argument("eval_dataset", help="data to measure on, too; the map never learns from it")
    options.add_device_options(p)
    options.add_attack_options(p, trades=False)
    options.add_robustness_options(p)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    stitch_and_report(args, argv, eval_dataset=args.eval_dataset)
