"""Accuracy under attack of a trained network, or of a stitched one from results/*/frank_model/.

    python src/bin/eval_net_robustness.py archive/lenet/Digits/in0-gn0/model.pt
    python src/bin/eval_net_robustness.py archive/lenet/Digits/in0-gn0/model.pt \\
        --tier quick --epsilon 8/255 --n-images 100 --json robust.json

Every image that the network gets right is attacked with the attacks of the tier, docs/attacks.md
says how. An image counts as robust if none fools the network: the worst case per image. Of celeba,
each attribute of each image counts so.
"""

from pathlib import Path

from robust_stitching import checkpoints
from robust_stitching.attacks.threat import NORMS
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import json_file, write_json
from robust_stitching.basics.progress import shown
from robust_stitching.command_line import cli, options, values
from robust_stitching.evaluation.kept import attack_and_keep
from robust_stitching.evaluation.misread import signs
from robust_stitching.evaluation.record import as_record
from robust_stitching.evaluation.robustness import BATCH_SIZE, suite
from robust_stitching.evaluation.suites import threat_on
from robust_stitching.report.attack import as_text


def parser() -> cli.Parser:
    p = cli.Parser(__doc__)
    p.add_argument("checkpoint", type=Path, help="a network's file")
    p.add_argument(
        "-d",
        "--dataset",
        help="what to attack, by default what the network was trained on; one of: "
        + options.DATASETS,
    )
    options.add_tier_option(p, default="default")
    p.add_argument(
        "--epsilon",
        type=values.positive,
        help="radius of the ball in pixel space, an expression (default: for l-inf 0.3 on mnist, "
        "fashion and digits, 4/255 on imagenet, else 8/255; for l2 0.5)",
    )
    p.add_argument("--norm", choices=NORMS, default="linf", help="of the change of an image")
    p.add_argument("--steps", type=values.positive_int, default=20, help="of PGD and of each APGD")
    p.add_argument(
        "--step-size",
        type=values.positive,
        help="of PGD, an expression (default: 2.5 epsilon / steps)",
    )
    p.add_argument(
        "--restarts", type=values.positive_int, default=1, help="random starts, but of FGSM"
    )
    p.add_argument(
        "--n-images",
        type=values.positive_int,
        help="how many test images, chosen at random by the seed (default: all)",
    )
    p.add_argument(
        "--seed", type=values.seed, default=0, help="of the random starts and the choice of images"
    )
    p.add_argument(
        "-b",
        "--batch-size",
        type=values.positive_int,
        default=BATCH_SIZE,
        help="images at a time",
    )
    p.add_argument(
        "--json",
        type=Path,
        help="a file to write the numbers to, image by image too; replaces an earlier report",
    )
    p.add_argument(
        "--keep",
        type=Path,
        help="a file to which each batch adds what is found, adversarial images included; with the "
        "same settings an interrupted run goes on from it",
    )
    options.add_device_options(p, training=False)
    options.add_checkpoint_options(p)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    checkpoint, _, test, notes = cli.evaluated(args)
    split = test if args.n_images is None else test.sample(args.n_images, args.seed)
    threat = threat_on(split, args.epsilon, args.norm)
    if args.tier == "standard":
        needed = ("steps", "step_size", "restarts")
        options.refuse(args, needed, "is fixed by AutoAttack; leave it out.")
    attacks = suite(
        args.tier,
        threat,
        len(split.classes),
        steps=args.steps,
        step_size=args.step_size,
        restarts=args.restarts,
        attributes=split.attributes,
    )
    settings = {
        "checkpoint": str(args.checkpoint),
        "weights": checkpoints.fingerprint(*checkpoint.network.state_dict().values()),
        "dataset": split.name,
        "data": checkpoints.fingerprint(*split.content),
        "n_images": len(split),
        "seed": args.seed,
        "tier": args.tier,
        "norm": threat.norm,
        "epsilon": threat.epsilon,
        **attacks.settings,
    }
    if args.json and args.keep and args.json.resolve() == args.keep.resolve():
        raise UserError(f"--json and --keep both name {args.keep}; give each a file of its own.")
    cli.warn(*attacks.warnings)
    with json_file(args.json):
        found = attack_and_keep(
            checkpoint.network,
            split,
            attacks,
            settings,
            args.keep,
            seed=args.seed,
            batch_size=args.batch_size,
            progress=shown,
        )
        strange = signs(checkpoint, split, found.clean_accuracy())
        cli.warn(*strange)
        told = {"notes": [*attacks.notes, *notes, *strange], "batch_size": args.batch_size}
        record = as_record(found, checkpoint.model, attacks, settings | told)
        try:
            if args.json:
                write_json(args.json, record)
        finally:  # whatever becomes of the file, these are the numbers
            print(as_text(record))
