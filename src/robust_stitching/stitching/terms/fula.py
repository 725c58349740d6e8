"""Functional latent alignment (arXiv 2505.20142, v2): the stitched network has to have what the end
network has at the cut and at every stage behind it."""

import torch
from torch import Tensor

from robust_stitching.stitching.terms.distances import relative_distance
from robust_stitching.stitching.terms.term import Seen, Term


def _from_the_cut_on(seen: Seen) -> Tensor:
    """Mean over layers l from the cut on of ‖Â_l − A_l‖_F / ‖A_l‖_F, each over the whole batch."""
    gaps = [relative_distance(seen.activations[name], seen.own[name]) for name in seen.layers]
    return torch.stack(gaps).mean()


TERM = Term("fula", _from_the_cut_on, lambda p: [p.cut, *p.stages], unattacked=True)
