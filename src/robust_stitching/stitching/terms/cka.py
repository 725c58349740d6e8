"""CKA between the mapped activation and what the end network itself has at the cut."""

import torch
from torch import Tensor

from robust_stitching.similarity.gram import LEAST_IMAGES, GramSums
from robust_stitching.stitching.terms.term import Seen, Term


def batch_cka(x: Tensor, y: Tensor) -> Tensor:
    """Debiased linear CKA of the activations x (n, …) and y (n, …) of one batch of at least four
    images, differentiable. Of few images with many features, the biased one is near 1 whatever
    they are."""
    n = len(x)
    with torch.autocast(x.device.type, enabled=False):
        x, y = (value.flatten(1).float() for value in (x, y))
        x, y = x - x.mean(dim=0), y - y.mean(dim=0)
        sums = GramSums(n, 2, x.device)
        sums.add(slice(0, n), slice(0, n), torch.stack([x @ x.T, y @ y.T]))
        hsic = sums.unbiased()
        # Where the map is still constant, CKA has no value: 0, without a gradient, does no harm.
        return hsic[0, 1] / (hsic[0, 0] * hsic[1, 1]).clamp(min=torch.finfo(hsic.dtype).tiny).sqrt()


def _at_the_cut(seen: Seen) -> Tensor:
    return batch_cka(seen.activations[seen.cut], seen.own[seen.cut])


TERM = Term("cka_reg", _at_the_cut, lambda places: [places.cut], LEAST_IMAGES)
