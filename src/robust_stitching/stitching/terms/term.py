"""What a term of an objective is: a function of what a pass of the stitched network shows."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from robust_stitching.graphs.transform import LinearMap


class Seen(NamedTuple):
    """What the last pass of a batch shows; under attack it is a pass of attacked images.

    Attributes
    ----------
    images, labels, logits : of that pass: (n, C, H, W), (n,) or (n, attributes), (n, classes).
    cut : the layer of the end network whose activation the map makes.
    activations : what the stitched network has at the layers that the term wants, by their names in
        the end network; at the cut, what the map makes. With gradients.
    own : what the end network itself has there for the same images, without gradients.
    transform : the map.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    cut: str
    activations: Mapping[str, Tensor]
    own: Mapping[str, Tensor]
    transform: LinearMap


def nowhere(cut: str, behind: Sequence[str]) -> Sequence[str]:
    """The layers that a term wants which looks at no activation."""
    return ()


class Term(NamedTuple):
    """A term that is added to the loss, times its weight.

    Attributes
    ----------
    name : as plans and commands call it.
    value : ``value(seen)``, a number with a gradient.
    layers : ``layers(cut, behind)`` names the layers of the end network that it wants to see, given
        the one at the cut and all behind it.
    least_images : of a batch; where a pass has fewer, as a last batch may, the term is left out.
    """

    name: str
    value: Callable[[Seen], Tensor]
    layers: Callable[[str, Sequence[str]], Sequence[str]] = nowhere
    least_images: int = 1
