"""What both commands that evaluate one network share: their options, their report."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robust_stitching.basics.files import json_file, write_json
from robust_stitching.command_line import cli, networks, options
from robust_stitching.command_line.parser import Parser
from robust_stitching.plans.settings import Settings


def add_evaluation(parser: Parser, what: str, told: str = "the numbers") -> None:
    """Which network is evaluated on which images, and where that is written.

    Parameters
    ----------
    what : is done with the images, a verb.
    told : what goes into the JSON report.
    """
    parser.setting("checkpoint.path", "checkpoint", help=f"a network: {networks.NETWORK}")
    parser.setting(
        "dataset.name",
        "-d",
        "--dataset",
        help=f"what to {what}, by default what the network was trained on; one of: "
        + options.DATASETS,
    )
    parser.setting(
        "batch_size", "-b", "--batch-size", help="images at a time, for speed and memory"
    )
    parser.beside(
        "--json", type=Path, help=f"a file to write {told} to; replaces an earlier report"
    )
    options.add_plan(parser)
    options.add_device(parser)
    networks.add_network(parser, "checkpoint")


def evaluate_and_print(
    run: Callable[..., dict[str, Any]],
    parser: Parser,
    plan: Settings,
    args: argparse.Namespace,
    text: Callable[[dict[str, Any]], str],
) -> None:
    """Carry out a plan, write its numbers where --json says, and print them.

    Parameters
    ----------
    run : `runs.evaluate.run` or `runs.evaluate.attack`.
    text : what is printed of a record.
    """
    with json_file(args.json):
        record = run(plan, cli.prepare(args), cli.listener(parser))
        try:
            if args.json:
                write_json(args.json, record)
        finally:  # whatever becomes of the file, these are the numbers
            print(text(record))
