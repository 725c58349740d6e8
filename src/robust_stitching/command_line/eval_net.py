"""Loss and accuracy of a trained network, or of a stitched one from results/*/frank_model/.

python src/bin/eval_net.py archive/tiny10/Digits/in0-gn0/model.pt
python src/bin/eval_net.py archive/lenet/Digits/in0-gn0/model.pt -d mnist --json lenet.json
"""

import argparse
from pathlib import Path

from robust_stitching.basics.files import json_file, write_json
from robust_stitching.command_line import cli, options
from robust_stitching.command_line.parser import Parser
from robust_stitching.plans import EvaluatePlan, from_options


def parser() -> Parser:
    p = Parser(__doc__, EvaluatePlan)
    p.setting("checkpoint.path", "checkpoint", help="a network's file")
    p.setting(
        "dataset.name",
        "-d",
        "--dataset",
        help="what to evaluate on, by default what the network was "
        f"trained on; one of: {options.DATASETS}",
    )
    p.setting("split", help="which part of the dataset")
    p.setting(
        "batch_size",
        "-b",
        "--batch-size",
        help="images at a time; changes nothing but speed and memory",
    )
    p.beside("--json", type=Path, help="a file to write the numbers to; replaces an earlier report")
    options.add_plan(p)
    options.add_device(p)
    options.add_published(p, "checkpoint")
    return p


def main(argv: list[str]) -> None:
    p = parser()

    def plan_of(args: argparse.Namespace) -> EvaluatePlan:
        from robust_stitching.command_line.misplaced import check_places

        check_places(args, "checkpoint")
        return from_options(EvaluatePlan, p.settings(args))

    args, plan = cli.understood(p, argv, plan_of)
    from robust_stitching.report.accuracy import as_text
    from robust_stitching.runs import evaluate

    with json_file(args.json):
        record = evaluate.run(plan, cli.prepare(args), cli.listener(p))
        try:
            if args.json:
                write_json(args.json, record)
        finally:  # whatever becomes of the file, these are the numbers
            print(as_text(record))
