"""Bring results.csv up to date: a line for each stitching run of a folder, from its JSON file.

    python src/bin/collect_results.py
    python src/bin/collect_results.py results --anew

Every run does that by itself when it is finished. Lines that are there stay as they are; --anew
keeps the earlier table beside and makes it again from what lies in the folder. Debugging runs have
no line.
"""

from pathlib import Path

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.root import root
from robust_stitching.command_line import options
from robust_stitching.command_line.parser import Parser


def parser() -> Parser:
    p = Parser(__doc__)
    p.add_argument(
        "folder", type=Path, nargs="?", default=root() / options.RESULTS, help="where the runs are"
    )
    p.add_argument(
        "--anew", action="store_true", help="make the whole table again; the earlier one is kept"
    )
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    from robust_stitching.report.collected import collect

    if not args.folder.is_dir():
        raise UserError(f"{args.folder} is no folder; give the one that the runs are in.")
    collected = collect(args.folder, args.anew)
    for path in collected.unreadable:
        print(f"left out: {path} cannot be read")
    if collected.aside:
        print(f"the earlier table is in {collected.aside}")
    if collected.path.exists():
        lines = "line" if len(collected.added) == 1 else "lines"
        print(f"{len(collected.added)} {lines} added to {collected.path}")
    else:
        print(f"there are no stitching runs in {args.folder}")
