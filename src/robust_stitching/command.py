"""What the stitching commands do once their arguments are understood: run, write, tell."""

import shlex
from argparse import Namespace
from pathlib import Path

from robust_stitching import cli, data, options
from robust_stitching.files import claimed
from robust_stitching.progress import shown
from robust_stitching.report.record import as_record
from robust_stitching.report.table import as_text
from robust_stitching.report.write import check_collected, write_results
from robust_stitching.stitching.run import stitch


def stitch_and_report(
    script: str,
    parser: cli.Parser,
    args: Namespace,
    argv: list[str],
    *,
    eval_dataset: str | None = None,
    **more: bool,
) -> None:
    """Stitch as `args` say, leave everything in the run's folder, print the numbers.

    Parameters
    ----------
    script, argv : the command, for the report.
    eval_dataset : another dataset to measure on.
    more : settings of `StitchConfig` that not every command has.
    """
    if args.debug:
        cli.log_verbosely()
    device = cli.device(args.device)
    config = options.stitch_config(parser, args, device, **more)
    front = cli.one_of_two(args.front_model, args, "1").to(device)
    end = cli.one_of_two(args.end_model, args, "2").to(device)
    train, test = data.load(cli.dataset(args.dataset), device, shown)
    elsewhere = None
    if eval_dataset is not None:
        _, elsewhere = data.load(cli.dataset(eval_dataset), device, shown)
    folder = cli.run_folder(args.out_dir, args.run_name)
    check_collected(args.out_dir)
    with claimed(folder):
        result = stitch(front, end, train, test, config, shown, elsewhere, warn=cli.warn)
        record = as_record(result, shlex.join(["python", f"src/bin/{Path(script).name}", *argv]))
        paths = write_results(result, record, folder)
    print(as_text(record))
    print()
    for kind, path in paths.items():
        print(f"{kind:12} {path}")
