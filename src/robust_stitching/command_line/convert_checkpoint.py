"""Turn a published network, a bare state dict, into a checkpoint that says what it is.

    python src/bin/convert_checkpoint.py downloads/resnet18-f37072fd.pth \\
        -m torchvision:resnet18 -d imagenet -o resnet18.pt
    python src/bin/convert_checkpoint.py best.pth -m resnet18 -d cifar10 \\
        --mean 0.4914,0.4822,0.4465 --std 0.2023,0.1994,0.2010 -o best.pt

The checkpoint holds the weights, the model, the dataset that it was made for, the names of its
classes, and mean and std of its images: every command then takes it without a further word.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from robust_stitching.basics.errors import UserError
from robust_stitching.command_line import cli, networks, options, values
from robust_stitching.command_line.parser import Parser
from robust_stitching.plans.settings import AT_LEAST_ONE, Kind

if TYPE_CHECKING:
    from robust_stitching.checkpoints import Checkpoint


def parser() -> Parser:
    p = Parser(__doc__)
    p.add_argument("state_dict", type=Path, help="the file of a published network")
    p.add_argument(
        "-d",
        "--dataset",
        required=True,
        help=f"what the network was made for, one of: {options.DATASETS}",
    )
    p.add_argument(
        "--image-size",
        type=values.reader(Kind(int), AT_LEAST_ONE),
        help="height and width of the images that it was made for (default: those of its dataset)",
    )
    p.add_argument("-o", "--out", type=Path, required=True, help="where the checkpoint goes")
    networks.add_network(p, None, required=True)
    return p


def main(argv: list[str]) -> None:
    p = parser()
    args = p.parse_args(argv)
    if args.out.exists():
        raise UserError(f"{args.out} exists already; choose another file, or remove it.")
    from robust_stitching import checkpoints, data
    from robust_stitching.runs.inputs import resolved

    dataset = resolved(args.dataset)
    if dataset not in data.SOURCES and data.names_of(dataset) is None:
        raise UserError(
            f"{dataset} has no train/ with a folder per class inside, which would say what the "
            "classes are called; give the folder of the images that the network was made for."
        )
    if checkpoints.is_ours(checkpoints.read(args.state_dict)):
        raise UserError(f"{args.state_dict} is a checkpoint already and says what it is; use it.")
    checkpoint = checkpoints.load(
        args.state_dict,
        model=args.model,
        dataset=dataset,
        image_size=args.image_size,
        mean=args.mean,
        std=args.std,
        weights=args.weights,
    )
    cli.listener(p).warn(*checkpoint.notes)
    training = {"kind": "published", "file": str(args.state_dict), "notes": list(checkpoint.notes)}
    checkpoints.save(
        args.out, checkpoint.network, checkpoint.dataset, training, checkpoint.class_names
    )
    print(f"{described(checkpoint)}\nkept in {args.out}")


def described(checkpoint: "Checkpoint") -> str:
    """What the checkpoint says of itself, for its maker to check."""
    from robust_stitching import models

    network = checkpoint.network
    size, (_, normalize) = network.input_shape[-1], models.normalisation_of(network)
    mean, std = (
        ", ".join(f"{value:.4g}" for value in values.flatten().tolist())
        for values in (normalize.mean, normalize.std)
    )
    names = checkpoint.class_names or ("their names are not known",)
    lines = {
        "model": checkpoint.model,
        "made for": f"{checkpoint.dataset}, images of {size}×{size} pixels",
        "classes": f"{checkpoint.classes:,}: {', '.join(names[:5])}{', …' if names[5:] else ''}",
        "mean": mean,
        "std": std,
    }
    return "\n".join(f"{what:10}{told}" for what, told in lines.items())
