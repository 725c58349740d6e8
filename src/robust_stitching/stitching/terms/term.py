"""What a term of an objective is: a function of what a pass of the stitched network shows."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from robust_stitching.graphs.transform import StitchingLayer


class Places(NamedTuple):
    """Where a term can look, by the names of the end network.

    Attributes
    ----------
    cut : the layer whose activation the map makes.
    behind : all layers behind it.
    stages : those of them that are the last of a stage, see `graphs.stages`: behind a ReLU, in
        front of the next weights, the logits left out.
    """

    cut: str
    behind: Sequence[str]
    stages: Sequence[str]


class Seen(NamedTuple):
    """What the last pass of a batch shows; under attack it is a pass of attacked images.

    Attributes
    ----------
    images, labels, logits : of that pass: (n, C, H, W), (n,) or (n, attributes), (n, classes).
    cut : the layer of the end network whose activation the map makes.
    layers : those that the term wants; `graph.LOGITS` for the logits.
    activations : what the stitched network has at these layers, by their names in the end network;
        at the cut, what the map makes. With gradients.
    own : what the end network itself has there, without gradients: for the same images, or for
        them as they were before any attack, as the term wants it.
    transform : the map.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    cut: str
    layers: Sequence[str]
    activations: Mapping[str, Tensor]
    own: Mapping[str, Tensor]
    transform: StitchingLayer


def nowhere(places: Places) -> Sequence[str]:
    """The layers that a term wants which looks at no activation."""
    return ()


class Term(NamedTuple):
    """A term that is added to the loss, times its weight.

    Attributes
    ----------
    name : as plans and commands call it.
    value : ``value(seen)``, a number with a gradient.
    layers : ``layers(places)`` names the layers of the end network that it wants to see.
    least_images : of a batch; where a pass has fewer, as a last batch may, the term is left out.
    unattacked : whether the end network is shown images as they were before any attack.
    """

    name: str
    value: Callable[[Seen], Tensor]
    layers: Callable[[Places], Sequence[str]] = nowhere
    least_images: int = 1
    unattacked: bool = False
