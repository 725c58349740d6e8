"""The layers of a model between which one can stitch.

    python src/bin/layer_info.py tiny10
    python src/bin/layer_info.py torchvision:vit_b_16 --image-size 224
    python src/bin/layer_info.py archive/tiny10/Digits/in0-gn0/model.pt

At a clean cut the whole image passes through the layer. At one that leaks, a skip connection jumps
over it: a stitch into the network there lets part of the image pass by the map.
"""

from pathlib import Path

import _library  # noqa: F401

from robust_stitching import checkpoints, cli, models, values
from robust_stitching.errors import UserError
from robust_stitching.graph import Graph
from robust_stitching.report.table import aligned


def parser() -> cli.Parser:
    p = cli.Parser(__doc__)
    p.add_argument("model", help=f"a checkpoint's path, or one of: {models.choices()}")
    p.add_argument(
        "--image-size",
        type=values.positive_int,
        help="height and width of a named model's images (default: 32; 224 for imagenetrn50); a "
        "checkpoint has its own",
    )
    p.add_argument("--clean", action="store_true", help="list the clean cuts only")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    path = Path(args.model)
    if not models.is_name(args.model) and (path.suffix or path.exists()):
        network = checkpoints.load(path).network
        size = network.input_shape[-1]
        if args.image_size not in (None, size):
            raise UserError(
                f"{path} takes images of {size}×{size} pixels; leave out --image-size "
                f"{args.image_size}, which is for models named without a file."
            )
    else:
        network = models.build(
            args.model, num_classes=10, in_channels=3, image_size=args.image_size
        )
    traced = Graph(network)
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


if __name__ == "__main__":
    cli.run(main)
