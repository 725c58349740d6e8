"""Compare the layers of two networks, all with all, and their answers.

    python src/bin/compare_nets.py archive/tiny10/Digits/in0-gn0/model.pt \\
        archive/tiny10/Digits/in1-gn1/model.pt digits --run-name compared
    python src/bin/compare_nets.py A.pt B.pt digits --layers1 relu1 relu2 --layers2 relu3 \\
        --measures cka debiased-cka svcca
    python src/bin/compare_nets.py A.npz B.npz --null 200

Without networks, two files of saved activations are compared, as extract_layers.py writes them.
Every array in them is a layer; `ids` (n,) say which image each row is of.

Prints a table of layers × layers for each measure and leaves the numbers (json, csv) and a heat map
of each measure (figures) in results/<run-name>/. CKA and norms of RSM differences take whole
feature maps. All other measures of layers take channels, averaged over positions or at positions
(--positions); those of what channels span (CCA, regression, GULP without ridge, eigenspaces) need
more rows than channels, and many more to mean anything.
"""

import argparse
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robust_stitching.command_line import cli, networks, options
from robust_stitching.command_line.parser import Parser
from robust_stitching.plans import ComparePlan, CompareSavedPlan, from_options, written

WIDTH = 120
SAVED = ".npz"


def parser() -> Parser:
    p = Parser(__doc__, ComparePlan, epilog=f"measures, and what they cost:\n{measures()}")
    p.setting("model1.path", "model1", help=f"rows of the tables: {networks.NETWORK}")
    p.setting("model2.path", "model2", help=f"columns of the tables: {networks.NETWORK}")
    p.setting("dataset.name", "dataset", help=f"images to show them, one of: {options.DATASETS}")
    _add_layers(p, "as layer_info.py lists them, with spaces or commas between them", "clean cuts")
    p.setting("split", help="which part of the dataset")
    _add_comparing(p)
    roles = {f"model{n}": (f"model {n}", f"--{{}}{n}", n) for n in ("1", "2")}
    networks.add_networks(p, roles)
    return p


def parser_of_files() -> Parser:
    """For saved activations, which need no network and no dataset."""
    p = Parser(__doc__, CompareSavedPlan, epilog=f"measures, and what they cost:\n{measures()}")
    for number, shown in ((1, "rows"), (2, "columns")):
        p.setting(
            f"model{number}.path",
            f"model{number}",
            help=f"{shown} of the tables: a file of activations, as extract_layers.py or "
            "numpy.savez writes it",
        )
    _add_layers(p, "names of arrays, with spaces or commas between them", "layers")
    _add_comparing(p)
    return p


def _add_layers(p: Parser, named: str, all_of: str) -> None:
    for number in (1, 2):
        p.setting(
            f"layers{number}",
            metavar="LAYER",
            help=f"layers of model {number}, {named} (default: its {all_of})",
        )


def _add_comparing(p: Parser) -> None:
    """How to compare, whatever is compared."""
    from robust_stitching.similarity.measures import chosen

    p.setting(
        "measures",
        metavar="MEASURE",
        help='see below, with spaces or commas between them; "all" for every one (default: '
        f"{', '.join(measure.name for measure in chosen())})",
    )
    p.setting("n_images", help="compare on this many images, chosen at random (default: all)")
    p.setting(
        "batch_size",
        "-b",
        "--batch-size",
        help="images at a time, of which the activations of all layers have to fit into memory; "
        "the batches of minibatch-cka; changes no other measure",
    )
    p.setting(
        "neighbours",
        metavar="K",
        help="how many nearest neighbours of an image are looked at, by measures that say k",
    )
    p.setting(
        "positions",
        help="what measures of channels compare: the mean over the positions of each image, or the "
        "positions themselves, on the coarser grid of two layers, a random choice of them",
    )
    p.setting(
        "seed",
        help="seed of the choice of images and positions, of the order in batches, and of "
        "permutations",
    )
    p.setting(
        "null",
        metavar="K",
        help="permute the images of model 2 so many times, 19 at least, and tell what values would "
        "be by chance: p, the threshold at 5%%, the value calibrated by it (0: none)",
    )
    p.setting(
        "interval",
        help="give every value its 95%% interval, by the jackknife over blocks of images",
    )
    options.add_runs(p, options.RESULTS)
    options.add_plan(p)
    options.add_device(p)


def measures() -> str:
    """A paragraph for each measure."""
    from robust_stitching.similarity.measures import MEASURES

    told, width = [], max(map(len, MEASURES)) + 4
    for measure in MEASURES.values():
        estimator = measure.estimator_for(
            "channels (--positions)", batch_size="--batch-size", k="--neighbours"
        )
        indent = {
            "initial_indent": f"  {measure.name}".ljust(width),
            "subsequent_indent": " " * width,
        }
        told.append(textwrap.fill(f"{estimator}. Cost: {measure.cost}.", 100, **indent))
    return "\n".join(told)


def plan_of(p: Parser, args: argparse.Namespace) -> ComparePlan:
    """The plan that the arguments ask for."""
    from robust_stitching.command_line.misplaced import check_places

    check_places(args, "model1", "model2", "dataset")
    _check_neighbours(args)
    return from_options(ComparePlan, networks.settings_of(p, args))


def plan_of_files(p: Parser, args: argparse.Namespace) -> CompareSavedPlan:
    """The same where files are compared."""
    _check_neighbours(args)
    return from_options(CompareSavedPlan, p.settings(args))


def _check_neighbours(args: argparse.Namespace) -> None:
    from robust_stitching.similarity.measures import MEASURES, chosen

    if not any(measure.uses("k") for measure in chosen(args.measures)):
        users = " or ".join(name for name, measure in MEASURES.items() if measure.uses("k"))
        needs = f"is for the measure {users}, which was not asked for."
        options.refuse(args, ("neighbours",), needs)


def are_of_files(argv: Sequence[str]) -> bool:
    """Whether arguments, or the plan that they name, are of saved activations."""
    if any(arg.endswith(SAVED) for arg in argv):
        return True
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--plan", type=Path)
    named = peek.parse_known_args(argv)[0].plan
    return named is not None and written.kind_in(named) == CompareSavedPlan.KIND


def main(argv: list[str]) -> None:
    of_files = are_of_files(argv)
    p = parser_of_files() if of_files else parser()
    read = plan_of_files if of_files else plan_of
    args, plan = cli.understood(p, argv, lambda args: read(p, args))
    from robust_stitching.report.comparison import as_text
    from robust_stitching.runs import compare, compare_saved

    def text(record: dict[str, Any]) -> str:
        return as_text(record, max(80, shutil.get_terminal_size((WIDTH, 40)).columns))

    cli.carried_out((compare_saved if of_files else compare).run, p, plan, args, argv, text)
