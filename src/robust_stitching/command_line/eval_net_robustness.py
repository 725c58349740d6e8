"""Accuracy under attack of a trained network, or of a stitched one from results/*/frank_model/.

    python src/bin/eval_net_robustness.py archive/lenet/Digits/in0-gn0/model.pt
    python src/bin/eval_net_robustness.py archive/lenet/Digits/in0-gn0/model.pt \\
        --tier quick --epsilon 8/255 --n-images 100 --json robust.json

Every image that the network gets right is attacked with the attacks of the tier, docs/attacks.md
says how. An image counts as robust if none fools the network: the worst case per image. Of
attributes, each of each image counts so.
"""

import argparse
from functools import partial
from pathlib import Path

from robust_stitching.basics.errors import UserError
from robust_stitching.command_line import cli, networks, options
from robust_stitching.command_line.evaluating import add_evaluation, evaluate_and_print
from robust_stitching.command_line.parser import Parser
from robust_stitching.data import in_words, usual_epsilon
from robust_stitching.plans import AttackPlan, from_options


def parser() -> Parser:
    p = Parser(__doc__, AttackPlan)
    add_evaluation(p, "attack", "the numbers, image by image too,")
    group = p.add_argument_group("the attacks")
    options.add_tier(p, "tier", group)
    p.setting(
        "epsilon",
        group=group,
        help="radius of the ball in pixel space, an expression (default: for l-inf "
        f"{in_words(usual_epsilon)}; for l2 0.5)",
    )
    for name, told in {
        "norm": "of the change of an image",
        "steps": "of PGD and of each APGD",
        "step_size": "of PGD, an expression (default: 2.5 epsilon / steps)",
        "restarts": "random starts, but of FGSM",
        "n_images": "how many test images, chosen at random by the seed (default: all)",
        "seed": "of the random starts and the choice of images",
    }.items():
        p.setting(name, group=group, help=told)
    p.beside(
        "--keep",
        type=Path,
        help="a file to which each batch adds what is found, adversarial images included; with the "
        "same settings an interrupted run goes on from it",
    )
    return p


def main(argv: list[str]) -> None:
    p = parser()

    def plan_of(args: argparse.Namespace) -> AttackPlan:
        from robust_stitching.command_line.misplaced import check_places

        check_places(args, "checkpoint")
        if args.tier == "standard":
            needed = ("steps", "step_size", "restarts")
            options.refuse(args, needed, "is fixed by AutoAttack; leave it out.")
        return from_options(AttackPlan, networks.settings_of(p, args))

    args, plan = cli.understood(p, argv, plan_of)
    if args.json and args.keep and args.json.resolve() == args.keep.resolve():
        raise UserError(f"--json and --keep both name {args.keep}; give each a file of its own.")
    from robust_stitching.report.attack import as_text
    from robust_stitching.runs import evaluate

    attack = partial(evaluate.attack, keep=args.keep)
    evaluate_and_print(attack, p, plan, args, as_text)
