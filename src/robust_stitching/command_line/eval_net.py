"""Loss and accuracy of a trained network, or of a stitched one from results/*/frank_model/.

python src/bin/eval_net.py archive/tiny10/Digits/in0-gn0/model.pt
python src/bin/eval_net.py archive/lenet/Digits/in0-gn0/model.pt -d mnist --json lenet.json
"""

import argparse
from collections.abc import Mapping
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
        accuracy = evaluate(checkpoint.network, split, args.batch_size, shown)
        strange = signs(checkpoint, split, accuracy.accuracy, accuracy.loss)
        cli.warn(*strange)
        record = as_record(args, checkpoint, split, accuracy, [*notes, *strange])
        try:
            if args.json:
                write_json(args.json, record)
        finally:  # whatever becomes of the file, these are the numbers
            print(as_text(record))


def as_record(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    split: data.AnySplit,
    accuracy: Accuracy,
    notes: list[str],
) -> dict[str, Any]:
    """What --json writes."""
    record = {
        "checkpoint": str(args.checkpoint),
        "model": checkpoint.model,
        "dataset": split.name,
        "split": args.split,
        "accuracy": accuracy.accuracy,
        "accuracy_interval": interval_of(accuracy.accuracy, accuracy.n_images),
        "loss": accuracy.loss,
        "n_images": accuracy.n_images,
        "notes": notes,
    }
    if accuracy.per_attribute is not None:
        named = zip(split.classes, accuracy.per_attribute, strict=True)
        record["accuracy_per_attribute"] = dict(named)
    return record


def as_text(record: Mapping[str, Any]) -> str:
    """What is printed."""
    n = record["n_images"]
    heading = ["network", "data", "images", "accuracy", "95% interval", "loss"]
    row = [
        record["model"],
        f"{record['dataset']} ({record['split']})",
        f"{n:,}",
        *as_shares(record["accuracy"], n),
        f"{record['loss']:.4f}",
    ]
    told = aligned([heading, row])
    if attributes := record.get("accuracy_per_attribute"):
        rows = [[name, *as_shares(share, n)] for name, share in attributes.items()]
        told += f"\n\n{aligned([['attribute', 'accuracy', '95% interval'], *rows])}"
    return told


def as_shares(share: float, n: int) -> list[str]:
    """A share of images, and its interval."""
    return [f"{share:.2%}", between(wilson(share, n))]
