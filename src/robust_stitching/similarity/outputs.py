"""How alike the answers of two networks are, from their logits for the same images."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robust_stitching.basics.labels import answers_of, are_attributes, choices_of
from robust_stitching.evaluation.intervals import mean_interval
from robust_stitching.similarity.forms import Logits
from robust_stitching.similarity.measures.outputs import share_that_agrees


@dataclass(frozen=True)
class OutputComparison:
    """What a network's answers have to do with those of a reference.

    Attributes
    ----------
    agreement : share of images for which both predict the same class.
    agreement_probability : mean of p·q / max(p·p, q·q), p and q the softmax of both: 1 where they
        are the same distribution, 0 where they share no class (arXiv 2505.20142, v2).
    agreement_probability_interval : its 95% interval over the images, of the normal approximation.
    kappa : Cohen's, of being right: (c − e) / (1 − e), c the share of images on which both are
        right or both wrong, e what it would be of independent networks of these accuracies. None
        where e is 1.
    cross_entropy : mean of −Σ p log q, p the softmax of the reference, q that of the network.
    overlap : shares of images that the network (first letter) and the reference (second letter) get
        right (r) or wrong (w): rr, rw, wr, ww; they add up to 1.

    Where labels are attributes, each attribute of each image counts as one answer, and p and q are
    the probabilities of having it and of not having it.
    """

    agreement: float
    agreement_probability: float
    agreement_probability_interval: tuple[float, float]
    kappa: float | None
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
    overlap = _overlap(answers == labels, expected == labels)
    probability = _agreement(*(choices_of(z, labels).softmax(dim=-1) for z in (logits, reference)))
    return OutputComparison(
        agreement=share_that_agrees(Logits(logits, attributes), Logits(reference, attributes)),
        agreement_probability=probability.mean().item(),
        agreement_probability_interval=mean_interval(probability),
        kappa=kappa_of(overlap),
        cross_entropy=cross_entropy.item(),
        overlap=overlap,
    )


def _agreement(p: Tensor, q: Tensor) -> Tensor:
    """p·q / max(p·p, q·q) of distributions (N, …, classes); of attributes the mean over them."""
    most = torch.maximum((p * p).sum(dim=-1), (q * q).sum(dim=-1))
    return ((p * q).sum(dim=-1) / most).view(len(p), -1).mean(dim=1)


def kappa_of(overlap: Mapping[str, float]) -> float | None:
    """Cohen's kappa of being right, of shares rr, rw, wr, ww."""
    a, b = overlap["rr"] + overlap["rw"], overlap["rr"] + overlap["wr"]
    alike, expected = overlap["rr"] + overlap["ww"], a * b + (1 - a) * (1 - b)
    return None if expected >= 1 else (alike - expected) / (1 - expected)


def _overlap(mine: Tensor, other: Tensor) -> dict[str, float]:
    """Shares of answers that are right (r) or wrong (w) in both."""
    ours, theirs = ({"r": right, "w": ~right} for right in (mine, other))
    return {a + b: _share(ours[a] & theirs[b]) for a in "rw" for b in "rw"}


def _share(mask: Tensor) -> float:
    return mask.double().mean().item()
