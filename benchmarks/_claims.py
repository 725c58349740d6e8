"""What README and docs claim of speed and precision: each once, with the command that measures it.

`all.py` runs them, `_page.py` writes what came out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

PHOTOGRAPHS = "PHOTOGRAPHS"
"""Stands in a command for a folder of CIFAR-10's images as JPEG files, with train/ and test/."""

QUICK_MINUTES = 2
"""Claims that take no more are quick."""

MOST, LEAST = "at most", "at least"

CKA, TORCHATTACKS, FOOLBOX = "pytorch-cka", "torchattacks", "foolbox"
AUTOATTACK, REPSIM, RSATOOLBOX = "pyautoattack", "repsim", "rsatoolbox"


@dataclass(frozen=True)
class Quantity:
    """One number that a script tells (see `_common.told`), and what is promised of it.

    Attributes
    ----------
    name : by which the script tells it.
    bound : the promise, in the unit that is told; None where there is none and the number is only
        shown.
    side : whether the number is promised to be `MOST` or `LEAST` that.
    margin : how far beyond the bound noise may bring it, in the same unit.
    form : how it is written, as "{:.2f} s".
    label : what stands before it where it was measured.
    """

    name: str
    bound: float | None
    side: str = MOST
    margin: float = 0
    form: str = "{:.2f}"
    label: str = ""

    def met(self, value: float) -> bool:
        """Whether `value` keeps the promise but for noise; a number that is none, or a ratio of
        nothing, does not."""
        if self.bound is None:
            return True
        if not math.isfinite(value) or (self.name == "ratio" and value <= 0):
            return False
        if self.side == LEAST:
            return value >= self.bound - self.margin
        return value <= self.bound + self.margin

    def strictly(self, value: float) -> bool:
        """Whether it keeps it without help of the margin."""
        return replace(self, margin=0).met(value)

    def told(self, value: float) -> str:
        """As in "theirs 1e-4"."""
        return f"{self.label} {self.form.format(value)}".strip()

    @property
    def promise(self) -> str:
        """As in "at most 1.10"; nothing where there is none."""
        return "" if self.bound is None else f"{self.side} {self.form.format(self.bound)}"


@dataclass(frozen=True)
class Claim:
    """One row of docs/speed.md.

    Attributes
    ----------
    name : by which `all.py --only` takes it.
    words : what is measured, where "over" is a ratio of times.
    command : as one types it in the root of the repository; it may hold `PHOTOGRAPHS`.
    quantities : what of its numbers is promised.
    minutes : about how long it takes.
    peers : distributions that it needs besides the project's own.
    in_readme : whether the README has the row, too.
    """

    name: str
    words: str
    command: str
    quantities: tuple[Quantity, ...]
    minutes: float
    peers: tuple[str, ...] = ()
    in_readme: bool = False

    @property
    def quick(self) -> bool:
        return self.minutes <= QUICK_MINUTES

    def broken(self, values: Mapping[str, float]) -> tuple[Quantity, ...]:
        """The promises that `values` do not keep."""
        return tuple(q for q in self.quantities if not q.met(values[q.name]))

    def missing(self, values: Mapping[str, float]) -> list[str]:
        """The quantities that `values` lack."""
        return [q.name for q in self.quantities if q.name not in values]


def ratio(bound: float, margin: float, side: str = MOST, form: str = "{:.2f}") -> Quantity:
    return Quantity("ratio", bound, side, margin, form)


def times(computing: float, margin: float) -> tuple[Quantity, Quantity]:
    """Of a process: what its threads compute together is promised, since a clock also tells how
    many cores there were and what else they did. Work beside it slows computing, too, by a third
    or so where memory is shared."""
    return (
        Quantity("computing", computing, margin=margin, form="{:.0f} s of computing"),
        Quantity("seconds", None, form="{:.0f} s on the clock"),
    )


def points(cut: str) -> Quantity:
    return Quantity(cut, -0.3, LEAST, form="{:+.1f}")


CKA_BESIDE = (
    ratio(0.75, 0.1),
    Quantity("difference", 1e-6, form="{:.0e}", label="off by"),
    Quantity("theirs", None, form="{:.0e}", label="theirs"),
    Quantity("memory", None, label="memory over theirs"),
)


def pgd(standard: float, robust: float) -> tuple[Quantity, ...]:
    """Of a standard and a robust network: the ratios, and the accuracy beside that of float64."""
    return tuple(
        quantity
        for kind, words, bound in (("standard", "standard", standard), ("madry", "robust", robust))
        for quantity in (
            Quantity(f"{kind}:{TORCHATTACKS}", bound, margin=0.1, label=f"{words}: {TORCHATTACKS}"),
            Quantity(f"{kind}:{FOOLBOX}", bound, margin=0.1, label=FOOLBOX),
            Quantity(f"{kind}:points", 2, form="{:.1f} points"),
            Quantity(f"{kind}:memory", None, label="memory over torchattacks'"),
        )
    )


OWN = (
    Claim(
        "training-epoch",
        "an epoch of training over the bare step (forward, backward, update on one batch)",
        "python benchmarks/training_epoch.py",
        (ratio(1.1, 0.16),),
        minutes=1.5,
        in_readme=True,
    ),
    Claim(
        "stitch-step",
        "a step of training a stitch over one that runs both networks whole",
        "python benchmarks/stitch_step.py",
        (ratio(0.6, 0.05),),
        minutes=0.5,
        in_readme=True,
    ),
    Claim(
        "attack-step",
        "the same under PGD-10",
        "python benchmarks/attack_step.py",
        (ratio(0.6, 0.05),),
        minutes=0.5,
    ),
    Claim(
        "small-stitch",
        "a small stitch, start and report included, over its steps in a process of their own",
        "python benchmarks/small_stitch.py",
        (ratio(2, 0.3, form="{:.1f}"),),
        minutes=1.5,
    ),
    Claim(
        "recipe",
        "accuracy of `--recipe fast` less that of the default at `relu1`, `relu2`, `relu3`, "
        "digits, points (all cuts of three pairs: [maps.md](maps.md))",
        "python benchmarks/recipe.py",
        (points("relu1"), points("relu2"), points("relu3")),
        minutes=1,
    ),
    Claim(
        "grid",
        "training the 8 × 8 maps of two tiny10 on 5,000 images in one pass over single trainings "
        "(8 of them, scaled)",
        "python benchmarks/grid.py --cells 8",
        (ratio(0.6, 0.05),),
        minutes=3,
    ),
    Claim(
        "grid-resnet",
        "the 10 × 10 maps of two resnet_w1 on 1,000 images likewise",
        "python benchmarks/grid.py resnet_w1 --cells 8 --images 1000",
        (ratio(0.7, 0.05),),
        minutes=5,
    ),
    Claim(
        "grid-whole",
        "the 8 × 8 maps of two tiny10 on 5,000 images with direct matching, CKA on all of 1,000 "
        "test images and attacks, whole commands (5 single ones, scaled; fresh weights, which "
        "attacks are quick with)",
        "python benchmarks/grid.py --whole --cells 5",
        (ratio(0.35, 0.03),),
        minutes=6,
        in_readme=True,
    ),
    Claim(
        "grid-resnet-whole",
        "the 10 × 10 maps of two resnet_w1 on 1,000 training images, likewise (3 single ones, "
        "scaled)",
        "python benchmarks/grid.py resnet_w1 --whole --cells 3 --images 1000",
        (ratio(0.4, 0.03),),
        minutes=15,
    ),
    Claim(
        "map",
        "the 64 maps between the stages of two tiny10 on digits, the README's command",
        "python benchmarks/map.py",
        times(140, 40),
        minutes=2,
    ),
    Claim(
        "map-photographs",
        "the same on all 50,000 images of a JPEG copy of CIFAR-10, with direct matching, measures "
        "and attacks",
        "python benchmarks/map.py archive/tiny10/cifar10-jpeg/in0-gn0/model.pt "
        f"archive/tiny10/cifar10-jpeg/in1-gn1/model.pt {PHOTOGRAPHS}",
        (
            *times(1350, 200),
            Quantity("GB", 1.5, form="{:.2f} GB"),
        ),
        minutes=15,
    ),
    Claim(
        "sweep",
        "a sweep of four maps by two jobs of one thread each: times as fast as by one, on 2 cores",
        "python benchmarks/sweep.py",
        (ratio(1.6, 0.2, LEAST),),
        minutes=4,
    ),
    Claim(
        "null",
        "200 permutations beside exact and debiased CKA of 8 × 8 layers of resnet_w1, 2,000 "
        "images, over the comparison alone",
        "python benchmarks/null.py",
        (ratio(3, 0.2),),
        minutes=3,
    ),
    Claim(
        "null-measures",
        "the same of CKA, neighbours, Procrustes and SVCCA",
        "python benchmarks/null.py cka mutual-knn procrustes svcca",
        (ratio(3, 0.2),),
        minutes=3,
    ),
    Claim(
        "graph",
        "the graph of a new resnet18, its proof included, seconds of computing",
        "python benchmarks/graph_of.py",
        (Quantity("new", 0.2, margin=0.08, form="{:.2f} s"),),
        minutes=0.3,
    ),
    Claim(
        "early-dropping",
        "attacking every image to the end over letting fooled ones leave",
        "python benchmarks/early_dropping.py archive/tiny10/cifar10-jpeg/in0-gn0/model.pt "
        + PHOTOGRAPHS,
        (
            ratio(4, 0.5, LEAST, "{:.1f}"),
            Quantity("same", 1, LEAST, form="{:.0%} the same images fooled"),
        ),
        minutes=1.5,
        in_readme=True,
    ),
    Claim(
        "evaluation",
        "evaluating tiny10 on 10,000 images over a plain loop; the same answers",
        "python benchmarks/evaluation.py",
        (ratio(0.9, 0.1), Quantity("same", 0.999, LEAST, form="{:.1%} the same answers")),
        minutes=1,
    ),
    Claim(
        "attack-suite",
        "the default attack suite on a robust tiny10, over as many bare passes through the folded "
        "network",
        "python benchmarks/attack_suite.py "
        f"archive/tiny10/cifar10-jpeg/in0-gn0-madry-eps0.03137/model.pt {PHOTOGRAPHS}",
        (ratio(1.2, 0.1),),
        minutes=2,
    ),
    Claim(
        "cka",
        "exact CKA and direct matching, 10,000 images of 5,408 features; memory of the whole "
        "process, distance to float64",
        "python benchmarks/cka.py",
        (
            *times(24, 8),
            Quantity("GiB", 1.5, form="{:.1f} GiB"),
            Quantity("difference", 1e-6, form="{:.0e}"),
        ),
        minutes=2,
        in_readme=True,
    ),
    Claim(
        "compare",
        "8 × 8 layers of resnet_w1, 10,000 images, exact CKA, computing by one core",
        "python benchmarks/compare_memory.py",
        (
            Quantity("minutes", 8, margin=2, form="{:.1f} min"),
            Quantity("GB", 4, form="{:.1f} GB"),
        ),
        minutes=10,
        in_readme=True,
    ),
    Claim(
        "compare-one-pass",
        "the same, measures that take one pass",
        "python benchmarks/compare_memory.py minibatch-cka procrustes svcca mutual-knn",
        (
            Quantity("minutes", 1, margin=0.5, form="{:.1f} min"),
            Quantity("GB", 4, form="{:.1f} GB"),
        ),
        minutes=2,
    ),
)
"""The project beside itself, or beside a bound."""

PEERS = (
    Claim(
        "peers-cka",
        "minibatch CKA of 8 × 8 layers of two tiny10, 4,000 images, over pytorch-cka; largest "
        "distance to float64",
        "python benchmarks/peers/cka.py",
        CKA_BESIDE,
        minutes=1,
        peers=(CKA,),
        in_readme=True,
    ),
    Claim(
        "peers-cka-resnet",
        "the same of two resnet_w1, 1,000 images",
        "python benchmarks/peers/cka.py --arch resnet_w1 --images 1000",
        CKA_BESIDE,
        minutes=2,
        peers=(CKA,),
    ),
    Claim(
        "peers-pgd-photographs",
        "PGD-20 on 1,000 images of CIFAR-10, tiny10, radius 8/255, over torchattacks and foolbox, "
        "on a standard network and on a robust one; points between the accuracy that is left and "
        "that of PGD in float64",
        f"python benchmarks/peers/pgd.py --dataset {PHOTOGRAPHS}",
        pgd(standard=0.3, robust=0.7),
        minutes=12,
        peers=(TORCHATTACKS, FOOLBOX),
        in_readme=True,
    ),
    Claim(
        "peers-pgd",
        "the same on 360 digits, LeNets, radius 0.3",
        "python benchmarks/peers/pgd.py",
        pgd(standard=0.3, robust=0.7),
        minutes=1.5,
        peers=(TORCHATTACKS, FOOLBOX),
    ),
    Claim(
        "peers-autoattack",
        "APGD-CE, targeted APGD and Square with AutoAttack's steps and queries on 250 digits, a "
        "robust LeNet, over pyautoattack; points of accuracy that ours leaves beyond it",
        "python benchmarks/peers/autoattack.py",
        (ratio(1, 0.2), Quantity("points", 1, form="{:+.1f} points")),
        minutes=5,
        peers=(AUTOATTACK,),
    ),
    Claim(
        "peers-apgd",
        "the same without Square",
        "python benchmarks/peers/autoattack.py --attacks apgd-ce apgd-t",
        (ratio(0.8, 0.1), Quantity("points", 1, form="{:+.1f} points")),
        minutes=1.5,
        peers=(AUTOATTACK,),
    ),
    Claim(
        "peers-loading",
        "an epoch of 5,000 images, mirrored and cropped, over a DataLoader with torchvision's "
        "transforms, then with those of v2; largest distance of a pixel to float64",
        "python benchmarks/peers/loading.py",
        (
            ratio(0.25, 0.1),
            Quantity("tensors", 0.25, margin=0.1),
            Quantity("difference", 1e-7, form="{:.0e}"),
        ),
        minutes=1.5,
    ),
    Claim(
        "peers-measures",
        "eight measures of two arrays of 1,000 images over repsim and rsatoolbox, the slowest of "
        "those that are the same measure, then the fastest; largest distance to float64",
        "python benchmarks/peers/measures.py",
        (
            ratio(2, 0.3),
            Quantity("least", 0.2, form="{:.3f}"),
            Quantity("difference", 1e-8, form="{:.0e}"),
            Quantity("others", None, form="{:.0f}", label="other measures under the same name"),
        ),
        minutes=3,
        peers=(REPSIM, RSATOOLBOX),
    ),
)
"""The project beside what people would install, in one run on the same weights and images."""

CLAIMS = OWN + PEERS
