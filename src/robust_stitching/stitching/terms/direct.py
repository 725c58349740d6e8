"""The relative distance of the mapped activation from the end network's own: direct matching
(Csiszárik et al., 2021, section 3.2) as something to train."""

from torch import Tensor

from robust_stitching.stitching.terms.distances import relative_distance
from robust_stitching.stitching.terms.term import Seen, Term


def _at_the_cut(seen: Seen) -> Tensor:
    """‖Â − A‖_F / ‖A‖_F over the whole batch."""
    return relative_distance(seen.activations[seen.cut], seen.own[seen.cut])


TERM = Term("direct", _at_the_cut, lambda places: [places.cut], unattacked=True)
