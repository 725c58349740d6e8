"""Loss and accuracy of a trained network, or of a stitched one from results/*/frank_model/.

python src/bin/eval_net.py archive/tiny10/Digits/in0-gn0/model.pt
python src/bin/eval_net.py archive/lenet/Digits/in0-gn0/model.pt -d mnist --json lenet.json
"""

import argparse
from pathlib import Path
from typing import Any

from robust_stitching import data
from robust_stitching.basics.files import json_file, write_json
from robust_stitching.basics.progress import shown
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.command_line import cli, options, values
from robust_stitching.evaluation import Accuracy, evaluate
from robust_stitching.evaluation.intervals import interval_of, wilson
from robust_stitching.evaluation.misread import signs
from robust_stitching.report.tables import aligned, between


def parser() -> cli.Parser:
    p = cli.Parser(__doc__)
    p.add_argument("checkpoint", type=Path, help="a network's file")
    p.add_argument(
        "-d",
        "--dataset",
        help="what to evaluate on, by default what the network was "
        f"trained on; one of: {options.DATASETS}",
    )
    p.add_argument(
        "--split", choices=["test", "train"], default="test", help="which part of the dataset"
    )
    p.add_argument(
        "-b",
        "--batch-size",
        type=values.positive_int,
        default=500,
        help="images at a time; changes nothing but speed and memory",
    )
    p.add_argument(
        "--json", type=Path, help="a file to write the numbers to; replaces an earlier report"
    )
    options.add_device_options(p, training=False)
    options.add_checkpoint_options(p)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    checkpoint, train, test, notes = cli.evaluated(args)
    split = test if args.split == "test" else train
    with json_file(args.json):
        found = evaluate(checkpoint.network, split, args.batch_size, shown)
        strange = signs(checkpoint, split, found.accuracy, found.loss)
        cli.warn(*strange)
        try:
            if args.json:
                told = [*notes, *strange]
                write_json(args.json, as_values(args, checkpoint, split, found, told))
        finally:  # whatever becomes of the file, these are the numbers
            print(as_text(args, checkpoint, split, found))


def as_text(
    args: argparse.Namespace, checkpoint: Checkpoint, split: data.AnySplit, found: Accuracy
) -> str:
    """What is printed."""
    heading = ["network", "data", "images", "accuracy", "95% interval", "loss"]
    row = [
        checkpoint.model,
        f"{split.name} ({args.split})",
        f"{found.n_images:,}",
        *as_shares(found.accuracy, found.n_images),
        f"{found.loss:.4f}",
    ]
    told = aligned([heading, row])
    if found.per_attribute is not None:
        named = by_attribute(split, found).items()
        table = [["attribute", "accuracy", "95% interval"]]
        table += [[name, *as_shares(share, found.n_images)] for name, share in named]
        told += f"\n\n{aligned(table)}"
    return told


def as_shares(share: float, n: int) -> list[str]:
    """A share of images, and its interval."""
    return [f"{share:.2%}", between(wilson(share, n))]


def by_attribute(split: data.AnySplit, found: Accuracy) -> dict[str, float]:
    """Attribute to accuracy."""
    return dict(zip(split.classes, found.per_attribute, strict=True))


def as_values(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    split: data.AnySplit,
    found: Accuracy,
    notes: list[str],
) -> dict[str, Any]:
    """What --json writes."""
    values = {
        "checkpoint": str(args.checkpoint),
        "model": checkpoint.model,
        "dataset": split.name,
        "split": args.split,
        "accuracy": found.accuracy,
        "accuracy_interval": interval_of(found.accuracy, found.n_images),
        "loss": found.loss,
        "n_images": found.n_images,
        "notes": notes,
    }
    if found.per_attribute is not None:
        values["accuracy_per_attribute"] = by_attribute(split, found)
    return values
