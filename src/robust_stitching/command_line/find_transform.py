"""Stitch the front of one network to the end of another and report what that shows.

    python src/bin/find_transform.py archive/tiny10/Digits/in0-gn0/model.pt \\
        archive/tiny10/Digits/in1-gn1/model.pt bn3 bn3 digits -e 5 --run-name demo

Only the map between the two layers is trained. Results go to results/<run-name>/: the map (matrix),
the stitched network (frank_model), the report (pdf) and its numbers (json), and one line in
results/results.csv.
"""

from robust_stitching.command_line import options
from robust_stitching.command_line.parser import Parser
from robust_stitching.command_line.stitching import stitch_and_print
from robust_stitching.plans import StitchPlan


def parser() -> Parser:
    p = Parser(__doc__, StitchPlan)
    options.add_stitching(p)
    p.setting("measured.no_pinv", help="leave out CKA, direct matching and what follows from them")
    p.setting("no_bn", help="freeze the running statistics of the donors' batch norms too")
    options.add_runs(p, options.RESULTS)
    options.add_plan(p)
    options.add_device(p)
    options.add_adversary(p, "objective.adversary")
    options.add_robustness(p)
    return p


def main(argv: list[str]) -> None:
    stitch_and_print(parser, argv)
