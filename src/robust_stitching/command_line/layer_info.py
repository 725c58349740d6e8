"""The layers of a model between which one can stitch.

    python src/bin/layer_info.py tiny10
    python src/bin/layer_info.py torchvision:vit_b_16 --image-size 224
    python src/bin/layer_info.py archive/tiny10/Digits/in0-gn0/model.pt
    python src/bin/layer_info.py nets.py:mine

At a clean cut the whole image passes through the layer. At one that leaks, a skip connection jumps
over it: a stitch into the network there lets part of the image pass by the map.
"""

from pathlib import Path

from robust_stitching.basics.code import function_in
from robust_stitching.command_line import cli, networks, options, values
from robust_stitching.command_line.parser import Parser
from robust_stitching.plans.settings import AT_LEAST_ONE, Kind


def parser() -> Parser:
    p = Parser(__doc__)
    p.add_argument(
        "network",
        metavar="model",
        help=f"{networks.NETWORK}, or one of: {networks.models()}",
    )
    p.add_argument(
        "--image-size",
        type=values.reader(Kind(int), AT_LEAST_ONE),
        help="height and width of the images of a named model, or of a bare state dict (default: "
        "those of the model, or of the dataset); a checkpoint has its own",
    )
    p.add_argument("--clean", action="store_true", help="list the clean cuts only")
    p.add_argument("-d", "--dataset", help="what a bare state dict was made for")
    networks.add_network(p, None)
    return p


def main(argv: list[str]) -> None:
    p = parser()
    args = p.parse_args(argv)
    from robust_stitching import checkpoints, models
    from robust_stitching.graphs.graph import graph_of
    from robust_stitching.report.tables import aligned
    from robust_stitching.runs.inputs import resolved

    path, own = Path(args.network), function_in(args.network)
    if not own and not models.is_name(args.network) and (path.suffix or path.exists()):
        checkpoint = checkpoints.load(
            path,
            model=args.model,
            dataset=args.dataset and resolved(args.dataset),
            image_size=args.image_size,
            mean=args.mean,
            std=args.std,
            weights=args.weights,
        )
        cli.listener(p).warn(*checkpoint.notes)
        network = checkpoint.network
    else:
        given = ("model", "dataset", "mean", "std", "weights")
        options.refuse(args, given, "says how to read a file; leave it out.")
        network = models.example(args.network, args.image_size)
    traced = graph_of(network)
    layers = traced.layers.values()
    table = [["layer", "kind", "activation", "cut"]]
    for layer in layers:
        if layer.clean or not args.clean:
            held = str(layer.layout) if layer.layout.prefix else "×".join(map(str, layer.shape))
            table.append([layer.name, layer.kind, held, "clean" if layer.clean else "leaks"])
    print(aligned(table))
    clean = sum(layer.clean for layer in layers)
    print(f"\n{len(layers)} layers, {clean} of them clean cuts, {len(layers) - clean} leak")
    if traced.refused:
        print(
            "left out, because they do not hold channels at positions of the image, as windows "
            f"and heads of an attention: {len(traced.refused)}"
        )
