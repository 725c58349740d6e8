"""Claim: PGD-20 takes at most 0.3 of the time of torchattacks and foolbox on a standard network and
0.7 on a robust one, and leaves the accuracy that float64 leaves within two points.

    python benchmarks/peers/pgd.py
    python benchmarks/peers/pgd.py --dataset FOLDER    # CIFAR-10 as JPEG files, tiny10, 8/255

L-infinity, step of a quarter of the radius, a random start, cross-entropy, batches of 250, on a
standard network and on one that was trained by Madry's PGD. Without a folder: LeNets of digits, and
the radius of 0.3 that is usual there.

Held to float64: whether every adversarial image is within the radius and in [0, 1], how many images
fool a float64 copy of the network, and PGD-20 in float64 throughout, written here, from a start of
its own. Ours keeps the first iterate that fools, the others the last one whatever it does: an image
that a step fooled and a later one did not counts as right for them. Starts are random: accuracies
differ by a few images anyhow.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from _peers import OURS, ROOT, options, peer, side_by_side, told
from torch import Tensor, nn

from robust_stitching import checkpoints, data
from robust_stitching.attacks import Threat, pgd
from robust_stitching.basics.modes import without_tf32
from robust_stitching.basics.seeds import generator_for
from robust_stitching.graphs.folding import view_of

ROUNDS, STEPS, BATCH = 3, 20, 250
TORCHATTACKS, FOOLBOX = "torchattacks", "foolbox"
KINDS = ("standard", "madry")
DIGITS = ("lenet/Digits/in0-gn0", "lenet/Digits/in0-gn0-madry-eps0.3")
PHOTOGRAPHS = ("tiny10/cifar10-jpeg/in0-gn0", "tiny10/cifar10-jpeg/in0-gn0-madry-eps0.03137")


@dataclass(frozen=True)
class Work:
    """What every tool is given."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    epsilon: float

    @property
    def step_size(self) -> float:
        return self.epsilon / 4

    def each(self, attack: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The adversarial images of all batches."""
        batches = zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True)
        return torch.cat([attack(images, labels) for images, labels in batches])


def main() -> None:
    parser = options(__doc__, ROUNDS)
    parser.add_argument("--dataset", default="digits", help="digits, or a folder of CIFAR-10")
    parser.add_argument("--images", type=int, default=1000, help="of the test split, at most")
    parser.add_argument("--network", choices=KINDS, help="one of the two")
    asked = parser.parse_args()
    peers = peer("torchattacks", TORCHATTACKS), peer("foolbox", FOOLBOX)
    quantities = {}
    for kind in [asked.network] if asked.network else KINDS:
        work = work_of(kind, asked)
        found = side_by_side(tools(work, *peers), asked, extra=["--network", kind])
        print(f"\n{kind}, {len(work.labels):,} images, radius {work.epsilon:.4g}:")
        found.tell()
        fooled = {name: looked_at(work, name, found.answers[name]) for name in found.answers}
        exact = right(*in_float64(work), work.labels)
        print(f"{'in float64':14} robust accuracy {exact:.1%}, from a start of its own")
        quantities |= {
            f"{kind}:{TORCHATTACKS}": found.ratios[TORCHATTACKS],
            f"{kind}:{FOOLBOX}": found.ratios[FOOLBOX],
            f"{kind}:memory": found.memory[OURS] / found.memory[TORCHATTACKS],
            f"{kind}:points": 100 * abs(fooled[OURS][0] - exact),
            f"{kind}:outside": fooled[OURS][1],
            f"{kind}:changed": fooled[OURS][2],
        }
    told(**quantities)


def work_of(kind: str, asked: argparse.Namespace) -> Work:
    digits = asked.dataset == "digits"
    name = (DIGITS if digits else PHOTOGRAPHS)[KINDS.index(kind)]
    network = checkpoints.load(ROOT / "archive" / name / "model.pt").network.eval()
    _, test = data.load(asked.dataset)
    test = test.sample(min(asked.images, len(test)))
    ((images, labels),) = test.batches(len(test))
    return Work(network, images.contiguous(), labels, 0.3 if digits else 8 / 255)


def tools(work: Work, torchattacks: ModuleType, foolbox: ModuleType) -> dict:
    """The same attack by each; what a user has to do once is within the time."""

    def ours() -> Tensor:
        view, threat, generator = view_of(work.network), Threat(work.epsilon), generator_for(0)
        how = {"steps": STEPS, "step_size": work.step_size, "generator": generator}

        def attack(images: Tensor, labels: Tensor) -> Tensor:
            images = images.contiguous(memory_format=torch.channels_last)
            return pgd(view, images, labels, threat, **how).images

        with without_tf32():
            return work.each(attack)

    def by_torchattacks() -> Tensor:
        torch.manual_seed(0)
        attack = torchattacks.PGD(
            work.network, eps=work.epsilon, alpha=work.step_size, steps=STEPS, random_start=True
        )
        return work.each(attack)

    def by_foolbox() -> Tensor:
        torch.manual_seed(0)
        model = foolbox.PyTorchModel(work.network, bounds=(0, 1), device="cpu")
        attack = foolbox.attacks.LinfPGD(abs_stepsize=work.step_size, steps=STEPS)
        return work.each(lambda x, y: attack(model, x, y, epsilons=work.epsilon)[1])

    return {OURS: ours, TORCHATTACKS: by_torchattacks, FOOLBOX: by_foolbox}


def looked_at(work: Work, name: str, adversarial: Tensor) -> tuple[float, float, int]:
    """Print what became of the images; returns the robust accuracy, how far pixels are out of the
    ball or out of [0, 1] in float64, and how many images a float64 copy sees otherwise."""
    exact, x = copy.deepcopy(work.network).double(), adversarial.double()
    away = (x - work.images.double()).abs().max() - work.epsilon
    outside = max(0.0, float(away), float(-x.min()), float(x.max() - 1))
    single = answers(work.network, adversarial) == work.labels
    double = answers(exact, x) == work.labels
    accuracy, changed = float(double.double().mean()), int((single != double).sum())
    print(
        f"{name:14} robust accuracy {accuracy:.1%} by a float64 copy, which sees {changed} images "
        f"otherwise than float32; out of the ball by {outside:.0e} at most"
    )
    return accuracy, outside, changed


def answers(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(some).argmax(dim=1) for some in images.split(BATCH)])


def in_float64(work: Work) -> tuple[nn.Module, Tensor]:
    """A float64 copy, and the images of PGD in its arithmetic, the last iterate of each."""
    network, images = copy.deepcopy(work.network).double(), work.images.double()
    generator = torch.Generator().manual_seed(1)
    start = 2 * torch.rand(images.shape, generator=generator, dtype=images.dtype) - 1
    x = (images + work.epsilon * start).clamp(0, 1)
    for _ in range(STEPS):
        x = torch.cat(
            [
                stepped(network, *each, work)
                for each in zip(
                    x.split(BATCH), images.split(BATCH), work.labels.split(BATCH), strict=True
                )
            ]
        )
    return network, x


def stepped(network: nn.Module, x: Tensor, images: Tensor, labels: Tensor, work: Work) -> Tensor:
    x = x.requires_grad_()
    loss = nn.functional.cross_entropy(network(x), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    moved = x.detach() + work.step_size * gradient.sign()
    low, high = (images - work.epsilon).clamp(min=0), (images + work.epsilon).clamp(max=1)
    return torch.minimum(torch.maximum(moved, low), high)


def right(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((answers(network, images) == labels).double().mean())


if __name__ == "__main__":
    main()
