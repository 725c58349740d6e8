"""The activations of two networks at many layers, batch by batch."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from robust_stitching.basics.errors import UserError
from robust_stitching.data import AnySplit
from robust_stitching.graphs import graph
from robust_stitching.graphs.layout import Layout


@dataclass(frozen=True)
class Side:
    """One of the two networks: layers are name to layout, `answers` counts its outputs."""

    number: int
    network: nn.Module
    layers: Mapping[str, Layout]
    answers: int

    def too_wide(self, n: int) -> list[str]:
        """Layers with no fewer channels than there are images."""
        return [name for name, layout in self.layers.items() if n <= layout.channels]


def clean_cuts(traced: graph.Graph) -> list[str]:
    """The clean cuts of a network, each activation under the first of its names."""
    names = {}
    for name, layer in traced.layers.items():
        if layer.clean:
            names.setdefault(traced.node(name), name)
    return list(names.values())


def side_of(number: int, network: nn.Module, layers: Sequence[str] | None) -> Side:
    """Network 1 or 2 with the layers that are to be looked at, its clean cuts for None.

    Raises
    ------
    UserError : for an unknown layer, with the closest ones.
    """
    traced = graph.graph_of(network)
    names = clean_cuts(traced) if layers is None else dict.fromkeys(layers)
    for name in names:
        traced.node(name, f"layer of model {number}")
    (answers,) = traced.answer_shape
    return Side(number, network, {name: traced.layers[name].layout for name in names}, answers)


class Stream:
    """Batches of the activations of both networks, in one random order each time.

    Attributes
    ----------
    names : of all layers, of network 1 and then of network 2: (1 or 2, name).
    layouts : what the activation of one image holds at each of these layers.
    constant : those of `names` that were found not to vary.
    """

    def __init__(self, sides: tuple[Side, Side], split: AnySplit, batch_size: int, seed: int):
        self.sides, self.batch_size, self.seed = sides, batch_size, seed
        self.split = replace(split, augmentation=None)
        self.pieces = [graph.features(s.network, [*s.layers, "output"]) for s in sides]
        self.names = [(s.number, name) for s in sides for name in s.layers]
        self.layouts = [layout for side in sides for layout in side.layers.values()]
        self.constant: set[tuple[int, str]] = set()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.split)

    @property
    def multi_label(self) -> bool:
        """Whether labels are attributes, of which an image has several, rather than classes."""
        return self.split.labels.ndim == 2

    def batches(self, skip: int = 0) -> Iterator[tuple[list[Tensor], list[Tensor], Tensor]]:
        """(activations at the layers of network 1, then 2; their two outputs; labels), behind the
        first `skip` batches."""
        order = {"seed": self.seed, "epoch": 0, "skip": skip, "fold": False}
        for images, labels in self.split.epoch(self.batch_size, **order):
            yield *self._seen(images), labels

    def _seen(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Activations and outputs, held by the caller alone."""
        found = [list(piece(images)) for piece in self.pieces]
        outputs = [activations.pop() for activations in found]
        return list(itertools.chain(*found)), outputs

    def check(self, spread: Tensor) -> None:
        """Note as constant the layers whose `spread`, one number for each, is 0.

        Raises
        ------
        UserError : where it is no finite number.
        """
        for (number, name), value in zip(self.names, spread.tolist(), strict=True):
            if not math.isfinite(value):
                raise UserError(
                    f"layer '{name}' of model {number} has values that are no finite numbers; the "
                    "network is broken or has diverged."
                )
            if value <= 0:
                self.constant.add((number, name))

    @staticmethod
    def check_outputs(outputs: Sequence[Tensor]) -> None:
        """Raise UserError unless all outputs of both networks are finite numbers."""
        for number, output in enumerate(outputs, 1):
            if not bool(output.isfinite().all()):
                raise UserError(
                    f"model {number} answers with values that are no finite numbers; the network "
                    "is broken or has diverged."
                )

    def between(self, values: Tensor) -> Tensor:
        """Of values (all layers, all layers), those with one layer of each network."""
        first = len(self.sides[0].layers)
        return values[:first, first:]
