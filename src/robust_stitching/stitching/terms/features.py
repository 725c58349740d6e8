"""The squared distance of the features that the classifier sees (after arXiv 2603.12433)."""

from collections.abc import Sequence

from torch import Tensor

from robust_stitching.stitching.terms.distances import squared_distance
from robust_stitching.stitching.terms.term import Places, Seen, Term


def _last(places: Places) -> Sequence[str]:
    """The last stage; the cut itself where no stage is behind it."""
    return (places.stages or [places.cut])[-1:]


def _at_the_last(seen: Seen) -> Tensor:
    (last,) = seen.layers
    return squared_distance(seen.activations[last], seen.own[last])


TERM = Term("features", _at_the_last, _last, unattacked=True)
