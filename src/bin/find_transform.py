"""Stitch the front of one network to the end of another and report what that shows.

    python src/bin/find_transform.py archive/tiny10/Digits/in0-gn0/model.pt \\
        archive/tiny10/Digits/in1-gn1/model.pt bn3 bn3 digits -e 5 --run-name demo

Only the map between the two layers is trained. Results go to results/<run-name>/: the map (matrix),
the stitched network (frank_model), the report (pdf) and its numbers (json), and one line in
results/results.csv.
"""

import shlex
import time

import _library  # noqa: F401

from robust_stitching import checkpoints, cli, data, options
from robust_stitching.files import claimed
from robust_stitching.progress import shown
from robust_stitching.report.record import as_record
from robust_stitching.report.table import as_text
from robust_stitching.report.write import check_collected, write_results
from robust_stitching.stitching.run import StitchConfig, stitch

LATER = ("flatten", "l1", "cka_reg", "mask", "low_rank", "target_type", "temperature")


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
    options.refuse(parser(), args, LATER, "does not work yet; leave it out.")
    if args.no_robustness:
        given = ("robust_images", "eval_epsilon")
        options.refuse(parser(), args, given, "says how to attack; leave out --no-robustness.")
    if args.debug:
        cli.log_verbosely()
    device = cli.device(args.device)
    front, end = (checkpoints.load(path).to(device) for path in (args.front_model, args.end_model))
    train, test = data.load(cli.dataset(args.dataset), device, shown)
    config = StitchConfig(
        front_layer=args.front_layer,
        end_layer=args.end_layer,
        epochs=args.epochs,
        lr=args.lr,
        batch_size=args.batch_size,
        save_frequency=args.save_frequency,
        seed=args.seed,
        weight_decay=args.weight_decay,
        optimizer=args.optimizer,
        init=args.init,
        no_bn=args.no_bn,
        no_pinv=args.no_pinv,
        debug=args.debug,
        precision=cli.precision(args.precision, device),
        adversary=options.adversary(parser(), args, seed=args.seed),
        no_robustness=args.no_robustness,
        robust_images=args.robust_images,
        eval_epsilon=args.eval_epsilon,
    )
    name = time.strftime("%Y-%m-%d_%H-%M-%S") if args.run_name is None else args.run_name
    folder = cli.run_folder(args.out_dir, name)
    check_collected(args.out_dir)
    with claimed(folder):
        result = stitch(front, end, train, test, config, shown)
        record = as_record(result, shlex.join(["python", "src/bin/find_transform.py", *argv]))
        paths = write_results(result, record, folder)
    print(as_text(record))
    print()
    for kind, path in paths.items():
        print(f"{kind:12} {path}")


if __name__ == "__main__":
    cli.run(main)
