"""A front that knows the classes and nothing else: noise around their means.

Stitching can succeed on noise (Smith et al., ICML 2025), so its accuracy alone says little about
what a front represents. An activation is here m_c + σ · d · z: m_c is the mean of the front's own
activations at the cut over the training images of class c, d the deviation of each unit within
classes (of all classes together), and z standard normal, one draw for each image, by its number.
At σ = 1 every unit has the mean and the variance within classes that it has in the front, and
nothing else of it is left. A map is trained from that to the end with the recipe of the stitch (its
map, first values, whitening, optimiser, schedule, epochs), for the labels, and tested on such
activations of test images.

With shuffled labels, the training images' activations are those of classes drawn by a permutation
of the labels; images and labels stay together, and at test each image has the activation of its own
class. The activations then say nothing about the labels, and a map reaches chance, unless the end
knows the image from elsewhere: where a skip connection lets it pass by the cut.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching.basics.modes import evaluating
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.basics.seeds import generator_for
from robust_stitching.data import AnySplit
from robust_stitching.evaluation import evaluate
from robust_stitching.evaluation.intervals import interval_of
from robust_stitching.graphs import graph
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import Objective, Stitching
from robust_stitching.similarity import Moments
from robust_stitching.stitching import matching
from robust_stitching.stitching.comoments import Side
from robust_stitching.stitching.fit import Cut, begun, form_of, trainer_of, wants_moments
from robust_stitching.stitching.keeping import Keeping, State
from robust_stitching.training import Diverged

NAME = "noise_front"
NOTHING = Keeping()
IMAGES = 5000
"""So many training images, always the same ones, give class means and train each map; all of
fewer. That bounds what the controls cost."""

MOST_BYTES = 2**30
"""Of the sums of activations, a class each."""

BATCH_SIZE = 250
ESTIMATOR = (
    f"maps from class means plus sigma · deviation within classes · noise, of up to {IMAGES:,} "
    "training images, trained for the labels as the stitch was; shuffled: the class of a training "
    "activation is another image's; tested with the class of each test image"
)


@dataclass(frozen=True)
class NoiseScore:
    """How often a map from noise around class means is right on `n_images` test images.

    `chance` is the share of the largest of their `n_classes` classes, of which whoever knows
    nothing is right.
    """

    sigma: float
    shuffled_labels: bool
    accuracy: float
    n_images: int
    n_classes: int
    chance: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values under the keys of the JSON report."""
        return {
            "sigma": self.sigma,
            "accuracy": self.accuracy,
            "accuracy_interval": interval_of(self.accuracy, self.n_images),
            "shuffled_labels": self.shuffled_labels,
            "chance": self.chance,
            "n_classes": self.n_classes,
        }


@dataclass(frozen=True)
class Clusters:
    """Where a front has the classes at a layer.

    Attributes
    ----------
    means : (classes, *shape); of a class without images the mean of all.
    deviation : of each unit within classes, of `shape`.
    """

    means: Tensor
    deviation: Tensor


def seen_of(train: AnySplit) -> AnySplit:
    """The images that a noise front has its classes from, and that maps are trained on."""
    return train.sample(IMAGES)


def clusters_at(front: Cut, train: AnySplit, progress: Progress = silent) -> Clusters | str:
    """Means and deviation of the front's activations on the images of `seen_of`, as they are, in
    evaluation mode, summed in float64; or why there is no noise front, as the end of a sentence."""
    layout, classes = graph.layout_of(*front), len(train.classes)
    if train.attributes:
        return "images have attributes in place of classes"
    size = 8 * classes * layout.units
    if size > MOST_BYTES:
        return f"the means of {classes:,} classes take {size / 2**30:.1f} GiB"
    network, layer = front
    split, shape, piece = seen_of(train), layout.shape, graph.features(network, [layer])
    sums = torch.zeros(classes, *shape, dtype=torch.float64, device=split.device)
    squares = torch.zeros(shape, dtype=torch.float64, device=split.device)
    with evaluating(piece), progress(len(split), "class means") as bar:
        for images, labels in split.batches(BATCH_SIZE):
            values = piece(images)[0].double()
            sums.index_add_(0, labels, values)
            squares += values.square().sum(dim=0)
            bar.update(len(labels))
    counts = torch.bincount(split.labels, minlength=classes).double()
    counts = counts.view(-1, *[1] * len(shape))
    means = torch.where(counts > 0, sums / counts.clamp(min=1), sums.sum(dim=0) / len(split))
    within = squares - (counts * means.square()).sum(dim=0)
    return Clusters(means.float(), (within.clamp(min=0) / len(split)).sqrt().float())


class Noisy:
    """Images of a split, each with an activation behind its pixels: (n, C·H·W + units).

    What a `Trainer` and `evaluate` ask of a split.

    Parameters
    ----------
    told : the class of each image's activation, (N,).
    seeds : of the noise.
    """

    def __init__(
        self, split: AnySplit, clusters: Clusters, told: Tensor, sigma: float, seeds: tuple
    ):
        numbers = torch.arange(len(split), device=split.device)
        self.numbered = replace(split, labels=numbers)
        self.labels, self.device = split.labels, split.device
        self.clusters, self.told, self.sigma, self.seeds = clusters, told, sigma, seeds

    def __len__(self) -> int:
        return len(self.numbered)

    def batches_per_epoch(self, batch_size: int) -> int:
        """See `AnySplit`."""
        return self.numbered.batches_per_epoch(batch_size)

    def epoch(self, batch_size: int, **which: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """See `AnySplit`."""
        return self._with_noise(self.numbered.epoch(batch_size, **which))

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `AnySplit`."""
        return self._with_noise(self.numbered.batches(batch_size))

    def apart(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and their activations, (n, C, H, W) and (n, *shape)."""
        return (
            (images, self.activations(numbers))
            for images, numbers in self.numbered.batches(batch_size)
        )

    def activations(self, numbers: Tensor) -> Tensor:
        """Those of the images of these numbers (n,): the same in whatever batch."""
        means = self.clusters.means[self.told[numbers]]
        if not self.sigma:
            return means
        shape = self.clusters.deviation.shape
        drawn = torch.stack(
            [torch.randn(shape, generator=generator_for(*self.seeds, n)) for n in numbers.tolist()]
        )
        return means + self.sigma * self.clusters.deviation * drawn.to(means.device)

    def _with_noise(
        self, batches: Iterator[tuple[Tensor, Tensor]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for images, numbers in batches:
            behind = self.activations(numbers).flatten(1)
            yield torch.cat([images.flatten(1), behind], dim=1), self.labels[numbers]


class Fed(nn.Module):
    """A stitched network that is given images with the activations that its front would make."""

    def __init__(self, stitched: StitchedNetwork):
        super().__init__()
        self.stitched, self.tail = stitched, graph.behind(stitched, "transform")

    @property
    def transform(self) -> nn.Module:
        """The map."""
        return self.stitched.transform

    def forward(self, fed: Tensor) -> Tensor:
        units = self.transform.source.units
        images, given = fed[:, :-units], fed[:, -units:]
        return self.tail(
            images.unflatten(1, (-1, *self.stitched.input_shape[1:])),
            given.unflatten(1, self.transform.source.shape),
        )

    def train(self, mode: bool = True) -> "Fed":
        self.training = mode
        self.stitched.train(mode)
        return self


def noise_scores(
    clusters: Clusters | str,
    front: Cut,
    end: Cut,
    train: AnySplit,
    tests: Sequence[AnySplit | None],
    plan: Stitching,
    progress: Progress = silent,
    keeping: Keeping = NOTHING,
    name: str = NAME,
) -> tuple[list[list[NoiseScore]], list[str]]:
    """Train maps from noise around class means, for each sigma of the plan with true and with
    shuffled labels, and test them.

    Parameters
    ----------
    clusters : see `clusters_at`.
    tests : splits of test images; None for none.
    keeping, name : where the states of the trainings are kept, and what they are called.

    Returns
    -------
    the scores on each test split; and why some are left out, in sentences.
    """
    found: list[list[NoiseScore]] = [[] for _ in tests]
    if isinstance(clusters, str):
        return found, [f"There is no noise front: {clusters}."]
    some, notes = seen_of(train), []
    order = torch.randperm(len(some), generator=generator_for(plan.seed, "shuffled"))
    labels = {"true": some.labels, "shuffled": some.labels[order.to(some.device)]}
    which = itertools.product(enumerate(plan.measured.noise_sigmas), labels)
    for (number, sigma), told in which:
        data = Noisy(some, clusters, labels[told], sigma, (plan.seed, "train"))
        state = keeping.of(f"{name}-{number}-{told}")
        try:
            network = _trained(front, end, data, plan, progress, state)
        except Diverged as error:
            what = f"noise front, sigma {sigma:g}, {told} labels"
            notes.append(f"A control ({what}) was left out: {error}")
            continue
        for split, scores in zip(tests, found, strict=True):
            if split is not None:
                seen = Noisy(split, clusters, split.labels, sigma, (plan.seed, "test"))
                accuracy = evaluate(network, seen, progress=progress).accuracy
                chance = split.labels.bincount().max().item() / len(split)
                about = accuracy, len(split), len(train.classes), chance
                scores.append(NoiseScore(sigma, told == "shuffled", *about))
    return found, notes


def _trained(
    front: Cut, end: Cut, data: Noisy, plan: Stitching, progress: Progress, state: State
) -> Fed:
    """The end behind a map that is trained on noise."""
    plan = replace(plan, objective=Objective(l1=plan.objective.l1))
    moments = None
    if wants_moments(front, end, plan, main=False):
        moments = _moments(front, end, data, plan)
    stitched, _, optimizer = begun(front, end, plan, data.device, moments, main=False)
    network = Fed(stitched)
    trainer = trainer_of(network, end, data, plan, optimizer=optimizer)
    state.take_up(trainer)
    with state.watching():
        trainer.run(
            lambda trainer: state.after_step(trainer, []),
            lambda trainer: state.after_epoch(trainer, []),
            progress,
        )
    trainer.check_weights()
    return network.eval()


def _moments(front: Cut, end: Cut, data: Noisy, plan: Stitching) -> Moments:
    """Of the noise and of what the end makes of the same images."""
    (network, source), (target, goal) = front, end
    layouts = graph.layout_of(network, source), graph.layout_of(target, goal)
    form = form_of(plan.transform)
    outputs, inputs = form.shape(*layouts)
    moments = Moments(inputs, outputs, data.device)
    piece = graph.features(target, [goal])
    with evaluating(piece):
        for images, activations in data.apart(matching.batch_size_of(*layouts, form)):
            sides = (
                Side({source: activations}, {source: layouts[0]}),
                Side({goal: piece(images)[0]}, {goal: layouts[1]}),
            )
            matching.take_in_batch({(source, goal): moments}, *sides, form.flatten)
    return moments
