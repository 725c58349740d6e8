"""Claim: minibatch CKA of all layers of two networks takes at most 0.75 of the time of pytorch-cka,
and is right to 1e-6 where that is off by 1e-4.

    python benchmarks/peers/cka.py
    python benchmarks/peers/cka.py --arch resnet_w1 --images 1000

8 × 8 layers of two networks of 32×32 colour images, trained tiny10 unless another architecture is
named, whose weights are random then. The same smooth random images in the same batches. Distances
are to the same estimator in float64 throughout, networks included, by another formula: the
U-centred Gram matrices of Székely and Rizzo (2014), whose product is the unbiased HSIC.

pytorch-cka has minibatch CKA alone. Exact and debiased CKA over all images, which depend on no
batch, are ours alone; debiased CKA is held to float64, too.
"""

import argparse
import copy
from collections.abc import Iterator

import torch
from _peers import OURS, ROOT, options, peer, side_by_side, told
from torch import Tensor, nn

from robust_stitching import checkpoints, models
from robust_stitching.data import Split
from robust_stitching.graphs.graph import graph_of
from robust_stitching.similarity import compare
from robust_stitching.similarity.deciding import clean_cuts

ROUNDS, LAYERS = 5, 8
PEER = "pytorch-cka"
TRAINED = [ROOT / f"archive/tiny10/cifar10-jpeg/in{i}-gn{i}/model.pt" for i in (0, 1)]


def main() -> None:
    parser = options(__doc__, ROUNDS)
    parser.add_argument("--arch", default="tiny10")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=250)
    asked = parser.parse_args()
    if asked.images % asked.batch_size:
        parser.error("batches of one size alone weigh alike in both packages")
    theirs = peer("cka", PEER)
    networks, split = networks_of(asked.arch), smooth_images(asked.images)
    layers = layers_of(networks[0])
    batches = Batches(split, asked.batch_size)

    def ours(measure: str = "minibatch-cka") -> Tensor:
        found = compare(*networks, split, layers, layers, [measure], batch_size=asked.batch_size)
        return found.layerwise[measure]

    def pytorch_cka() -> Tensor:
        (found,) = theirs.compute_cka(
            *networks, batches, layers=layers, device="cpu", progress=False
        )
        return found.double()

    found = side_by_side({OURS: ours, PEER: pytorch_cka}, asked)
    print(f"{len(layers)} × {len(layers)} layers of {asked.arch}, {said(asked)}")
    found.tell()
    exact, debiased = in_float64(networks, layers, batches)
    off = {name: (values - exact).abs() for name, values in found.answers.items()}
    for name, distance in off.items():
        mean = f"{distance.mean():.1e} on average"
        print(f"{name:14} off float64 by {distance.max():.1e} at most, {mean}")
    alone = (ours("debiased-cka") - debiased).abs().max()
    print(f"debiased CKA over all images, ours alone: off float64 by {alone:.1e} at most")
    apart = (exact - debiased).abs().max()
    print(f"minibatch and debiased CKA, both in float64, are {apart:.1e} apart at most")
    told(
        ratio=found.ratios[PEER],
        difference=off[OURS].max(),
        theirs=off[PEER].max(),
        debiased=alone,
        memory=found.memory[OURS] / found.memory[PEER],
    )


def said(asked: argparse.Namespace) -> str:
    return f"{asked.images:,} images in batches of {asked.batch_size}"


def networks_of(arch: str) -> list[nn.Module]:
    if arch == "tiny10":
        return [checkpoints.load(path).network.eval() for path in TRAINED]
    return [models.build(arch, num_classes=10, in_channels=3, seed=seed).eval() for seed in (0, 1)]


def layers_of(network: nn.Module) -> list[str]:
    """The activations of tiny10, or the first clean cuts behind the input that are modules."""
    modules = dict(network.named_modules())
    cuts = [name for name in clean_cuts(graph_of(network)) if name in modules]
    activations = [name for name in cuts if isinstance(modules[name], nn.ReLU)]
    return (activations if len(activations) >= LAYERS else cuts[1:])[:LAYERS]


def smooth_images(n: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(n, 3, 8, 8, generator=generator)
    images = nn.functional.interpolate(small, 32, mode="bicubic").clamp_(0, 1)
    return Split("random", (images * 255).byte(), torch.zeros(n, dtype=torch.long), tuple("01"))


class Batches:
    """The batches that `compare` takes, in its order, laid out as a DataLoader gives them."""

    def __init__(self, split: Split, batch_size: int):
        self.split, self.batch_size = split, batch_size

    def __len__(self) -> int:
        return len(self.split) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.split.epoch(self.batch_size, seed=0, epoch=0, fold=False):
            yield images.contiguous(), labels


def in_float64(
    networks: list[nn.Module], layers: list[str], batches: Batches
) -> tuple[Tensor, Tensor]:
    """Minibatch and debiased CKA (layers, layers)."""
    seen: list[Tensor] = []
    hooked = [copy.deepcopy(network).double() for network in networks]
    for network in hooked:
        for layer in layers:
            network.get_submodule(layer).register_forward_hook(
                lambda module, inputs, output: seen.append(output.detach().flatten(1))
            )
    whole: list[list[Tensor]] = [[] for _ in range(2 * len(layers))]
    sums = torch.zeros(2 * len(layers), 2 * len(layers), dtype=torch.float64)
    for images, _ in batches:
        seen.clear()
        with torch.no_grad():
            for network in hooked:
                network(images.double())
        sums += products([u_centred(x @ x.T) for x in seen])
        for kept, x in zip(whole, seen, strict=True):
            kept.append(x)
    grams = []
    for kept in whole:
        x = torch.cat(kept)
        kept.clear()
        grams.append(u_centred(x @ x.T))
    return normalised(sums), normalised(products(grams))


def u_centred(gram: Tensor) -> Tensor:
    """A Gram matrix with a diagonal of zeros whose rows and columns sum to zero."""
    n = len(gram)
    gram = gram.clone().fill_diagonal_(0)
    rows = gram.sum(dim=1) / (n - 2)
    centred = gram - rows[:, None] - rows[None, :] + gram.sum() / ((n - 1) * (n - 2))
    return centred.fill_diagonal_(0)


def products(grams: list[Tensor]) -> Tensor:
    """Of all with all."""
    flat = torch.stack([gram.flatten() for gram in grams])
    return flat @ flat.T


def normalised(sums: Tensor) -> Tensor:
    """CKA of the layers of one network (rows) with those of the other."""
    own, half = sums.diagonal().sqrt(), len(sums) // 2
    return (sums / own[:, None] / own[None, :])[:half, half:]


if __name__ == "__main__":
    main()
