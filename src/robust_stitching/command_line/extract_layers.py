"""What a network makes of images, layer by layer, as a file of arrays.

    python src/bin/extract_layers.py archive/tiny10/Digits/in0-gn0/model.pt digits \\
        --layers relu2 relu7 -o A.npz

Every layer is an array of float32 under its name, a row an image: (n, d) or (n, C, H, W), and
(n, C, tokens, 1) where some tokens are at no position of the image. `ids` are the numbers of the
images in the dataset, `labels` their classes. compare_nets.py compares two such files.
"""

from pathlib import Path

from robust_stitching.basics.errors import UserError
from robust_stitching.command_line import cli, networks, options, values
from robust_stitching.command_line.parser import Listed, Parser
from robust_stitching.plans.parts import SPLITS
from robust_stitching.plans.settings import AT_LEAST_ONE, SEED, Kind

SUFFIX = ".npz"


def parser() -> Parser:
    p = Parser(__doc__)
    count = values.reader(Kind(int), AT_LEAST_ONE)
    p.add_argument("checkpoint", type=Path, help=networks.NETWORK)
    p.add_argument("dataset", help=f"images to show it, one of: {options.DATASETS}")
    p.add_argument(
        "--layers",
        nargs="+",
        action=Listed,
        metavar="LAYER",
        help="as layer_info.py lists them, with spaces or commas between them (default: the clean "
        "cuts)",
    )
    p.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="ends in .npz")
    p.add_argument("--split", choices=SPLITS, default="test", help="which part of the dataset")
    p.add_argument("--n-images", type=count, help="so many, chosen at random (default: all)")
    p.add_argument(
        "--seed",
        type=values.reader(Kind(int), SEED),
        default=0,
        help="of the choice of images: the same for two networks gives the same ones",
    )
    p.add_argument("-b", "--batch-size", type=count, default=250, help="images at a time")
    options.add_device(p)
    networks.add_network(p, None)
    return p


def main(argv: list[str]) -> None:
    p = parser()
    args = p.parse_args(argv)
    if args.out.suffix != SUFFIX:
        raise UserError(f"-o {args.out} does not end in {SUFFIX}; name the file with it.")
    from robust_stitching.plans import DataRef, NetworkRef
    from robust_stitching.report.tables import aligned
    from robust_stitching.runs.inputs import data_of, network_of
    from robust_stitching.similarity.extract import extract

    device, listener = cli.prepare(args), cli.listener(p)
    ref = NetworkRef(
        str(args.checkpoint),
        mean=args.mean,
        std=args.std,
        weights=args.weights,
        model=args.model,
    )
    checkpoint, _ = network_of(ref, "network", device, otherwise=args.dataset)
    listener.warn(*checkpoint.notes)
    progress = listener.progress
    train, test, _ = data_of(DataRef(args.dataset), device, checkpoint, progress=progress)
    split = test if args.split == "test" else train
    checkpoint.require_images(split)
    ids = split.drawn(args.n_images, args.seed)
    how = {"ids": ids, "batch_size": args.batch_size, "progress": progress}
    shapes = extract(checkpoint.network, split.take(ids), args.out, args.layers, **how)
    sizes = [[name, "×".join(map(str, shape))] for name, shape in shapes.items()]
    print(aligned([["layer", "shape"], *sizes]))
    print(f"\n{len(ids):,} images of {split.name} ({args.split}) in {args.out}")
