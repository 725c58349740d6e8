"""How far the answers of two networks are from each other, whichever is right."""

import math

import torch
from torch import Tensor

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.forms import Logits
from robust_stitching.similarity.measure import SCALE, Measure

_ONE_PASS = "one pass"


def share_that_differs(x: Logits, y: Logits) -> float:
    """The share of answers that are not the same, in [0, 1]."""
    if x.attributes:
        differ = (x.values > 0) != (y.values > 0)
    else:
        differ = x.values.argmax(dim=1) != y.values.argmax(dim=1)
    return differ.double().mean().item()


def share_that_agrees(x: Logits, y: Logits) -> float:
    """The share of answers that are the same, in [0, 1]."""
    return 1 - share_that_differs(x, y)


def _divergence(x: Logits, y: Logits) -> float:
    p, q = (_log_probabilities(side) for side in (x, y))
    middle = torch.logaddexp(p, q) - torch.tensor(2.0, dtype=torch.float64).log()
    parts = (side.exp() * (side - middle) for side in (p, q))
    return max(sum(part.sum(dim=-1).mean().item() for part in parts) / 2, 0.0)


def _log_probabilities(answers: Logits) -> Tensor:
    values = answers.values.double()
    if answers.attributes:
        values = torch.stack([values, torch.zeros_like(values)], dim=-1)
    return values.log_softmax(dim=-1)


MEASURES = (
    Measure(
        name="disagreement",
        title="disagreement",
        estimator="share of images with different predictions",
        attributes="share of answers (images × attributes) that differ",
        low=0,
        high=1,
        same=0,
        cost=_ONE_PASS,
        form=Logits,
        value=share_that_differs,
        share=True,
        default=True,
        ignores=frozenset({SCALE}),
    ),
    Measure(
        name="agreement",
        title="agreement",
        estimator="share of images with the same prediction",
        attributes="share of answers (images × attributes) that are the same",
        low=0,
        high=1,
        same=1,
        cost=_ONE_PASS,
        form=Logits,
        value=share_that_agrees,
        share=True,
        ignores=frozenset({SCALE}),
    ),
    Measure(
        name="jensen-shannon",
        title="Jensen–Shannon divergence",
        estimator="Jensen–Shannon divergence of the softmax outputs, mean over images, in nats (0 "
        "to ln 2)",
        attributes="Jensen–Shannon divergence of the sigmoid outputs, mean over images and "
        "attributes, in nats (0 to ln 2)",
        low=0,
        high=math.log(2),
        same=0,
        cost=_ONE_PASS,
        form=Logits,
        value=_divergence,
        default=True,
    ),
)
DISAGREEMENT, AGREEMENT, JENSEN_SHANNON = MEASURES


def disagreement(x: Array, y: Array, *, multi_label: bool = False) -> float:
    """The share of images for which two networks predict different classes, in [0, 1].

    Parameters
    ----------
    x, y : logits of shape (n, classes) of the same images, of each of which the largest is what the
        network predicts.
    multi_label : whether each logit is an answer of its own, yes above 0; then it is the share of
        answers that differ.

    Raises
    ------
    ValueError : for other shapes, other numbers of images or answers, and logits that are not
        finite.
    """
    return between(DISAGREEMENT, x, y, attributes=multi_label)


def agreement(x: Array, y: Array, *, multi_label: bool = False) -> float:
    """The share of images for which two networks predict the same class, 1 − `disagreement`.

    Parameters and errors are those of `disagreement`.
    """
    return between(AGREEMENT, x, y, attributes=multi_label)


def jensen_shannon(x: Array, y: Array, *, multi_label: bool = False) -> float:
    """The mean over images of the Jensen–Shannon divergence of two networks' softmax outputs.

    ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = ½(p + q), in nats: 0 to ln 2 (Lin, 1991). It is the square of
    what SciPy calls the Jensen–Shannon distance.

    Parameters
    ----------
    x, y : logits of shape (n, classes) of the same images.
    multi_label : whether each logit is an answer of its own, yes above 0; then it is the mean over
        images and answers of the divergence of yes and no.

    Raises
    ------
    ValueError : for other shapes, other numbers of images or answers, and logits that are not
        finite.
    """
    return between(JENSEN_SHANNON, x, y, attributes=multi_label)
