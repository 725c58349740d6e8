"""Compare the layers of two networks, all with all, and their answers.

    python src/bin/compare_nets.py archive/tiny10/Digits/in0-gn0/model.pt \\
        archive/tiny10/Digits/in1-gn1/model.pt digits --run-name compared
    python src/bin/compare_nets.py A.pt B.pt digits --layers1 relu1 relu2 --layers2 relu3 \\
        --measures cka debiased-cka svcca

Prints a table of layers × layers for each measure and leaves the numbers (json, csv) and a heat map
of each measure (figures) in results/<run-name>/. CKA takes whole feature maps. All other measures
of layers take channels, averaged over positions or at positions (--positions); cca, squared-cca,
svcca and regression need more rows than channels, and many more to mean anything.
"""

import shlex
import shutil
import textwrap
from pathlib import Path

from robust_stitching.basics.progress import shown
from robust_stitching.basics.signals import uninterrupted
from robust_stitching.command_line import cli, options, values
from robust_stitching.command_line.misplaced import check_places
from robust_stitching.evaluation.pair import look_at
from robust_stitching.report.comparison import as_record, as_text, write_comparison
from robust_stitching.runs.unfinished import begun
from robust_stitching.similarity import compare
from robust_stitching.similarity.compare import prepared
from robust_stitching.similarity.forms import POOLED, POSITIONS, Settings
from robust_stitching.similarity.measures import MEASURES, chosen

WIDTH = 120
SETTINGS = ("dataset", "split", "batch_size", "neighbours", "positions", "seed", "n_images")


def parser() -> cli.Parser:
    p = cli.Parser(__doc__, epilog=f"measures, and what they cost:\n{measures()}")
    p.add_argument("model1", type=Path, help="checkpoint of a network: rows of the tables")
    p.add_argument("model2", type=Path, help="checkpoint of the other: columns of the tables")
    p.add_argument("dataset", help=f"images to show them, one of: {options.DATASETS}")
    for number in (1, 2):
        p.add_argument(
            f"--layers{number}",
            nargs="+",
            action=cli.Listed,
            metavar="LAYER",
            help=f"layers of model {number}, as layer_info.py lists them, with spaces or "
            "commas between them (default: its clean cuts)",
        )
    p.add_argument(
        "--measures",
        nargs="+",
        action=cli.Listed,
        metavar="MEASURE",
        help='see below, with spaces or commas between them; "all" for every one (default: '
        f"{', '.join(measure.name for measure in chosen())})",
    )
    p.add_argument(
        "--n-images",
        type=values.positive_int,
        help="compare on this many images, chosen at random (default: all)",
    )
    p.add_argument(
        "--split", choices=["test", "train"], default="test", help="which part of the dataset"
    )
    p.add_argument(
        "-b",
        "--batch-size",
        type=values.positive_int,
        default=Settings.batch_size,
        help="images at a time, of which the activations of all layers have to fit into memory; "
        "the batches of minibatch-cka; changes no other measure",
    )
    p.add_argument(
        "--neighbours",
        type=values.positive_int,
        default=Settings.k,
        metavar="K",
        help="how many nearest neighbours mutual-knn looks at",
    )
    p.add_argument(
        "--positions",
        choices=POSITIONS,
        default=POOLED,
        help="what measures of channels compare: the mean over the positions of each image, or the "
        "positions themselves, on the coarser grid of two layers, a random choice of them",
    )
    p.add_argument(
        "--seed",
        type=values.seed,
        default=0,
        help="seed of the choice of images and positions and of the order in batches",
    )
    p.add_argument("-o", "--out-dir", type=Path, default=options.RESULTS, help="where results go")
    p.add_argument("--run-name", help="subfolder of the results; the date and time if not given")
    options.add_device_options(p, training=False)
    options.add_constants(p, "model 1", "model 2")
    return p


def measures() -> str:
    """A paragraph for each measure."""
    told = []
    for measure in MEASURES.values():
        estimator = measure.estimator_for(
            "channels (--positions)", batch_size="--batch-size", k="--neighbours"
        )
        indent = {"initial_indent": f"  {measure.name:16}", "subsequent_indent": " " * 18}
        told.append(textwrap.fill(f"{estimator}. Cost: {measure.cost}.", 100, **indent))
    return "\n".join(told)


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    check_places(args, "model1", "model2", "dataset")
    if not any(measure.uses("k") for measure in chosen(args.measures)):
        users = " or ".join(name for name, measure in MEASURES.items() if measure.uses("k"))
        options.refuse(
            args, ("neighbours",), f"is for the measure {users}, which was not asked for."
        )
    device = cli.device(args.device)
    paths = ((args.model1, "1"), (args.model2, "2"))
    models = tuple(cli.one_of_two(path, args, number).to(device) for path, number in paths)
    train, test = cli.load_data(cli.dataset(args.dataset), device, *models)
    split = test if args.split == "test" else train
    for model in models:
        model.require_images(split)
    if args.n_images is not None:
        split = split.sample(args.n_images, args.seed)
    networks = [model.network for model in models]
    asked = (split, args.layers1, args.layers2, args.measures)
    settings = {
        "batch_size": args.batch_size,
        "k": args.neighbours,
        "positions": args.positions,
    }
    prepared(*networks, *asked, **settings)  # mistakes are told before the first image
    with begun(args.out_dir, args.run_name, cli.say) as run:
        pair = look_at(models, split, args.batch_size, shown)
        cli.warn(*pair.notes)
        found = compare(
            *networks, *asked, **settings, seed=args.seed, order=pair.order, progress=shown
        )
        params = {key: getattr(args, key) for key in SETTINGS}
        command = shlex.join(["python", "src/bin/compare_nets.py", *argv])
        record = as_record(found, models, pair, params, command)
        told = as_text(record, max(80, shutil.get_terminal_size((WIDTH, 40)).columns))
        try:
            paths = write_comparison(found, record, models, run.folder)
            with uninterrupted():
                paths = run.finish(paths)
        except Exception:
            print(told)  # the work is done, and these are its numbers
            raise
    print(told)
    print()
    for kind, path in paths.items():
        print(f"{kind:12} {path}")
