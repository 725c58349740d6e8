"""The area under the ROC curve of two scores of the same images, and how sure it is."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robust_stitching.evaluation.intervals import QUANTILE, wilson

METHOD = "95%, DeLong’s placement values with images as clusters, on the logit scale"


class Auroc(NamedTuple):
    """The share of pairs of images of which the first has the larger score, ties counting half, and
    its 95% interval."""

    value: float
    interval: tuple[float, float]


def auroc_of(scores: Tensor, reference: Tensor) -> Auroc:
    """How well the scores of images (n,) are told from other scores of the same images (n,): 0.5
    where both are alike, 1 where every one is larger than every one of the reference.

    The variance is that of DeLong, DeLong and Clarke-Pearson (1988), with an image as a cluster of
    its two scores (Obuchowski, 1997): they may depend on each other, and of equal ones the area is
    0.5 for certain. The interval is symmetric in log A / (1 − A) (Pepe, 2003, section 5.2.5), which
    keeps it within 0 and 1. Where the two are wholly apart, there is no variance, and it is
    Wilson's, of as many comparisons as there are images; of one image it is everything.

    Parameters
    ----------
    scores, reference : infinite ones are larger than all others.
    """
    n = len(scores)
    above, below = _placements(scores, reference), 1 - _placements(reference, scores)
    area = above.mean().item()
    if n < 2:
        return Auroc(area, (0.0, 1.0))
    if area in (0, 1):
        return Auroc(area, wilson(area, n))
    error = math.sqrt((above + below).var().item() / n)
    middle, half = math.log(area / (1 - area)), QUANTILE * error / (area * (1 - area))
    return Auroc(area, (_logistic(middle - half), _logistic(middle + half)))


def _placements(values: Tensor, others: Tensor) -> Tensor:
    """The share of others that each value is above, equal ones counting half, float64."""
    ordered = others.sort().values
    below = torch.searchsorted(ordered, values)
    upto = torch.searchsorted(ordered, values, right=True)
    return (below + upto).double() / (2 * len(others))


def _logistic(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2
