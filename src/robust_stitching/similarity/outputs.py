"""How alike the answers of two networks are, from their logits for the same images."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from robust_stitching.basics.labels import answers_of, are_attributes
from robust_stitching.similarity.forms import Logits
from robust_stitching.similarity.measures.outputs import share_that_agrees


@dataclass(frozen=True)
class OutputComparison:
    """What a network's answers have to do with those of a reference.

    Attributes
    ----------
    agreement : share of images for which both predict the same class.
    cross_entropy : mean of −Σ p log q, p the softmax of the reference, q that of the network.
    overlap : shares of images that the network (first letter) and the reference (second letter) get
        right (r) or wrong (w): rr, rw, wr, ww; they add up to 1.

    Where labels are attributes, each attribute of each image counts as one answer, and p and q are
    the probabilities of having it and of not having it.
    """

    agreement: float
    cross_entropy: float
    overlap: dict[str, float]


def compare_outputs(logits: Tensor, reference: Tensor, labels: Tensor) -> OutputComparison:
    """Compare logits (N, classes) with a reference of the same shape; labels (N,), or all three
    of shape (N, A)."""
    logits, reference = logits.double(), reference.double()
    answers, expected = answers_of(logits, labels), answers_of(reference, labels)
    attributes = are_attributes(labels)
    if attributes:
        cross_entropy = F.binary_cross_entropy_with_logits(logits, reference.sigmoid())
    else:
        cross_entropy = F.cross_entropy(logits, reference.softmax(dim=1))
    mine = {"r": answers == labels, "w": answers != labels}
    other = {"r": expected == labels, "w": expected != labels}
    return OutputComparison(
        agreement=share_that_agrees(Logits(logits, attributes), Logits(reference, attributes)),
        cross_entropy=cross_entropy.item(),
        overlap={a + b: _share(mine[a] & other[b]) for a in "rw" for b in "rw"},
    )


def _share(mask: Tensor) -> float:
    return mask.double().mean().item()
