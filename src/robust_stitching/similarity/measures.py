"""The measures by which two networks can be compared: their names, estimators, ranges and costs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from robust_stitching.errors import unknown
from robust_stitching.similarity import subspaces
from robust_stitching.similarity.gram import LEAST_IMAGES
from robust_stitching.similarity.subspaces import Channels

MAPS = "whole feature maps"
MEANS = "channels, averaged over positions"


@dataclass(frozen=True)
class Measure:
    """One way to say how alike two networks are.

    Attributes
    ----------
    name : as users write it.
    title : as it stands over a table and beside a colour bar.
    estimator : exactly what is computed; {batch_size} and {k} stand for those settings.
    low, high : the range of its values.
    same : its value for two copies of one thing.
    cost : what it takes, in words.
    of_channels : the function, where it takes the channels of a pair of layers.
    more_images_than : of which models the layers need more images than they have channels.
    of_outputs : whether it compares the answers of the networks rather than pairs of layers.
    """

    name: str
    title: str
    estimator: str
    low: float
    high: float
    same: float
    cost: str
    of_channels: Callable[[Channels, Channels], float] | None = None
    more_images_than: tuple[int, ...] = ()
    of_outputs: bool = False


_ONE_PASS = "one pass"
_ALL = (
    Measure(
        "minibatch-cka",
        "minibatch CKA",
        f"minibatch linear CKA (unbiased HSIC averaged over random batches of {{batch_size}}, "
        f"divided once), {MAPS}",
        *(0, 1, 1),
        "one pass; needs all layers of a batch in memory",
    ),
    Measure(
        "debiased-cka",
        "debiased CKA",
        f"debiased linear CKA (unbiased HSIC over all images), {MAPS}",
        *(0, 1, 1),
        "several passes, images² × features products; 8 × 8 layers of resnet_w1 with 10,000 images "
        "take minibatch-cka about a minute of one core, this one eight",
    ),
    Measure(
        "cka",
        "linear CKA",
        f"exact linear CKA (biased HSIC over all images), {MAPS}",
        *(0, 1, 1),
        "as debiased-cka, and together with it no more than one of them",
    ),
    Measure(
        "procrustes",
        "Procrustes distance",
        "orthogonal Procrustes distance (squared; both sides centred, Frobenius norm 1; 0 is "
        f"alike), {MEANS}",
        *(0, 2, 0),
        _ONE_PASS,
        subspaces.procrustes,
    ),
    Measure(
        "cca",
        "mean CCA",
        f"CCA (mean canonical correlation), {MEANS}",
        *(0, 1, 1),
        _ONE_PASS,
        subspaces.cca,
        (1, 2),
    ),
    Measure(
        "squared-cca",
        "mean squared CCA",
        f"CCA (mean squared canonical correlation), {MEANS}",
        *(0, 1, 1),
        _ONE_PASS,
        subspaces.squared_cca,
        (1, 2),
    ),
    Measure(
        "svcca",
        "SVCCA",
        "SVCCA (mean canonical correlation of the principal directions with 99% of the variance), "
        f"{MEANS}",
        *(0, 1, 1),
        _ONE_PASS,
        subspaces.svcca,
        (1, 2),
    ),
    Measure(
        "regression",
        "linear regression R²",
        "R² of linear regression of model 2's channels on model 1's, averaged over positions",
        *(0, 1, 1),
        _ONE_PASS,
        subspaces.regression,
        (1,),
    ),
    Measure(
        "mutual-knn",
        "mutual kNN",
        f"mutual k-nearest neighbours (k = {{k}}, cosine similarity), {MEANS}",
        *(0, 1, 1),
        "one pass, images² × channels products",
    ),
    Measure(
        "disagreement",
        "disagreement",
        "share of images with different predictions",
        *(0, 1, 0),
        _ONE_PASS,
        of_outputs=True,
    ),
    Measure(
        "agreement",
        "agreement",
        "share of images with the same prediction",
        *(0, 1, 1),
        _ONE_PASS,
        of_outputs=True,
    ),
    Measure(
        "jensen-shannon",
        "Jensen–Shannon divergence",
        "Jensen–Shannon divergence of the softmax outputs, mean over images, in nats (0 to ln 2)",
        *(0, math.log(2), 0),
        _ONE_PASS,
        of_outputs=True,
    ),
)
MULTI_LABEL = {
    "disagreement": "share of answers (images × attributes) that differ",
    "agreement": "share of answers (images × attributes) that are the same",
    "jensen-shannon": "Jensen–Shannon divergence of the sigmoid outputs, mean over images and "
    "attributes, in nats (0 to ln 2)",
}
"""The estimators of those measures where labels are attributes, of which an image has several."""

MEASURES = {measure.name: measure for measure in _ALL}
DEFAULT = (
    *("minibatch-cka", "procrustes", "svcca", "mutual-knn"),
    *("disagreement", "jensen-shannon"),
)


def chosen(names: Sequence[str]) -> tuple[Measure, ...]:
    """The measures of these names, each once, in the order of `MEASURES`; "all" means every one.

    Raises
    ------
    UserError : for an unknown name, with the closest.
    """
    for name in names:
        if name != "all" and name not in MEASURES:
            raise unknown("measure", name, MEASURES)
    return tuple(measure for measure in _ALL if measure.name in names or "all" in names)


def too_few(measure: Measure, n: int, batch_size: int, k: int) -> str | None:
    """Why `n` images, or batches of `batch_size`, are too few for a measure, if they are."""
    if measure.name in ("minibatch-cka", "debiased-cka") and n < LEAST_IMAGES:
        return f"{measure.name} needs at least {LEAST_IMAGES} images, not {n}"
    if measure.name == "minibatch-cka" and batch_size < LEAST_IMAGES:
        return f"{measure.name} needs batches of at least {LEAST_IMAGES} images, not {batch_size}"
    if measure.name == "mutual-knn" and n < k + 2:
        return (
            f"{measure.name} needs at least {k + 2} images for {k} neighbours, not {n}, or every "
            "image is a neighbour of every other"
        )
    return None
