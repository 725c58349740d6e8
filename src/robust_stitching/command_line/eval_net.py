"""Loss and accuracy of a trained network, or of a stitched one from results/*/frank_model/.

python src/bin/eval_net.py archive/tiny10/Digits/in0-gn0/model.pt
python src/bin/eval_net.py archive/lenet/Digits/in0-gn0/model.pt -d mnist --json lenet.json
"""

import argparse

from robust_stitching.command_line import cli, networks
from robust_stitching.command_line.evaluating import add_evaluation, evaluate_and_print
from robust_stitching.command_line.parser import Parser
from robust_stitching.plans import EvaluatePlan, from_options


def parser() -> Parser:
    p = Parser(__doc__, EvaluatePlan)
    add_evaluation(p, "evaluate on")
    p.setting("split", help="which part of the dataset")
    return p


def main(argv: list[str]) -> None:
    p = parser()

    def plan_of(args: argparse.Namespace) -> EvaluatePlan:
        from robust_stitching.command_line.misplaced import check_places

        check_places(args, "checkpoint")
        return from_options(EvaluatePlan, networks.settings_of(p, args))

    args, plan = cli.understood(p, argv, plan_of)
    from robust_stitching.report.accuracy import as_text
    from robust_stitching.runs import evaluate

    evaluate_and_print(evaluate.run, p, plan, args, as_text)
