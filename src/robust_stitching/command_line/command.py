"""What the stitching commands do once their arguments are understood: run, write, tell."""

import gc
import shlex
from argparse import Namespace
from pathlib import Path

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.progress import shown
from robust_stitching.basics.signals import uninterrupted
from robust_stitching.command_line import cli, options
from robust_stitching.command_line.misplaced import PLACES, check_places
from robust_stitching.report import collected
from robust_stitching.report.record import as_record
from robust_stitching.report.table import as_text
from robust_stitching.report.write import write_results
from robust_stitching.runs.unfinished import begun
from robust_stitching.stitching.run import stitch


def stitch_and_report(
    script: str,
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
    gc.freeze()  # what is imported stays; to look through it again and again takes 0.3 s
    if args.debug:
        cli.log_verbosely()
    check_places(args, *(place for place in PLACES if hasattr(args, place)))
    device = cli.device(args.device)
    config = options.stitch_config(args, device, **more)
    front = cli.one_of_two(args.front_model, args, "1").to(device)
    end = cli.one_of_two(args.end_model, args, "2").to(device)
    train, test = cli.load_data(cli.dataset(args.dataset), device, front, end)
    elsewhere = None
    if eval_dataset is not None:
        _, elsewhere = cli.load_data(cli.dataset(eval_dataset), device, front, end)
    collected.read(args.out_dir / collected.NAME)  # what is no table is refused before any work
    cli.warn(*(config.adversary.warnings if config.adversary else ()))
    with begun(args.out_dir, args.run_name, cli.say) as run:
        result = stitch(front, end, train, test, config, shown, elsewhere, warn=cli.warn)
        record = as_record(result, shlex.join(["python", f"src/bin/{Path(script).name}", *argv]))
        try:
            paths = write_results(result, record, run.folder)
            with uninterrupted():
                paths = run.finish(paths)
                lacking = None if config.debug else _collect(args.out_dir, paths)
        except Exception:
            print(as_text(record))  # the work is done, and these are its numbers
            raise
    print(as_text(record))
    print()
    for kind, path in paths.items():
        print(f"{kind:12} {path}")
    if lacking is not None:
        raise lacking


def _collect(out: Path, paths: dict[str, Path]) -> UserError | None:
    """Put the run into the table of all, and that into `paths`; returns why it could not be."""
    try:
        table = collected.collect(out)
    except (UserError, OSError) as error:
        return UserError(
            f"the run is whole, but has no line in {collected.NAME} yet: {error} The next run adds "
            "it, and so does collect_results.py."
        )
    if table.aside:
        cli.say(
            f"{table.path} had lines that were not whole and was made again; as it was, it is in "
            f"{table.aside}."
        )
    paths["csv"] = table.path
    return None
