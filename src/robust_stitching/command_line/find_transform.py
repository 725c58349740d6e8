"""Stitch the front of one network to the end of another and report what that shows.

    python src/bin/find_transform.py archive/tiny10/Digits/in0-gn0/model.pt \\
        archive/tiny10/Digits/in1-gn1/model.pt bn3 bn3 digits -e 5 --run-name demo

Only the map between the two layers is trained. Results go to results/<run-name>/: the map (matrix),
the stitched network (frank_model), the report (pdf) and its numbers (json), and one line in
results/results.csv.
"""

from robust_stitching.command_line import cli, options
from robust_stitching.command_line.command import stitch_and_report


def parser() -> cli.Parser:
    p = cli.Parser(__doc__)
    options.add_stitching_arguments(p)
    p.add_argument(
        "--no-pinv",
        action="store_true",
        help="leave out CKA, direct matching and what follows from them",
    )
    p.add_argument(
        "--no-bn",
        action="store_true",
        help="freeze the running statistics of the donors' batch norms too",
    )
    options.add_device_options(p)
    options.add_attack_options(p)
    options.add_robustness_options(p)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    stitch_and_report(args, argv, no_pinv=args.no_pinv, no_bn=args.no_bn)
