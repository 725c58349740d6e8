"""The measures by which two networks can be compared: their names, estimators, ranges and costs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from robust_stitching.basics.errors import unknown
from robust_stitching.similarity import subspaces
from robust_stitching.similarity.gram import LEAST_IMAGES
from robust_stitching.similarity.subspaces import Channels

MAPS, CHANNELS, OUTPUTS = "maps", "channels", "outputs"
"""What a measure compares: whole feature maps, channels of layers, or the networks' answers."""


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
    of : `MAPS`, `CHANNELS` or `OUTPUTS`.
    of_channels : the function, where it takes the channels of a pair of layers.
    more_rows_than : of which models the layers need more rows (images, or positions of images) than
        they have channels.
    """

    name: str
    title: str
    estimator: str
    low: float
    high: float
    same: float
    cost: str
    of: str
    of_channels: Callable[[Channels, Channels], float] | None = None
    more_rows_than: tuple[int, ...] = ()

    @property
    def share(self) -> bool:
        """Whether its value is a share of the images, which has an interval."""
        return self.name in ("disagreement", "agreement")

    @property
    def of_outputs(self) -> bool:
        """Whether it compares the answers of the networks rather than pairs of layers."""
        return self.of == OUTPUTS

    def estimator_for(self, batch_size: Any, k: Any, rows: str) -> str:
        """Exactly what is computed, with `rows` for what the channels are taken over."""
        over = {MAPS: ", whole feature maps", CHANNELS: f", {rows}", OUTPUTS: ""}[self.of]
        return self.estimator.format(batch_size=batch_size, k=k) + over


_ONE_PASS = "one pass"
_ALL = (
    Measure(
        "minibatch-cka",
        "minibatch CKA",
        "minibatch linear CKA (unbiased HSIC averaged over random batches of {batch_size}, divided "
        "once)",
        *(0, 1, 1),
        "one pass; needs all layers of a batch in memory",
        MAPS,
    ),
    Measure(
        "debiased-cka",
        "debiased CKA",
        "debiased linear CKA (unbiased HSIC over all images)",
        *(0, 1, 1),
        "several passes, images² × features products; 8 × 8 layers of resnet_w1 with 10,000 images "
        "take minibatch-cka about a minute of one core, this one eight",
        MAPS,
    ),
    Measure(
        "cka",
        "linear CKA",
        "exact linear CKA (biased HSIC over all images)",
        *(0, 1, 1),
        "as debiased-cka, and together with it no more than one of them",
        MAPS,
    ),
    Measure(
        "procrustes",
        "Procrustes distance",
        "orthogonal Procrustes distance (squared; both sides centred, Frobenius norm 1; 0 is "
        "alike)",
        *(0, 2, 0),
        _ONE_PASS,
        CHANNELS,
        subspaces.procrustes,
    ),
    Measure(
        "cca",
        "mean CCA",
        "CCA (mean canonical correlation)",
        *(0, 1, 1),
        _ONE_PASS,
        CHANNELS,
        subspaces.cca,
        (1, 2),
    ),
    Measure(
        "squared-cca",
        "mean squared CCA",
        "CCA (mean squared canonical correlation)",
        *(0, 1, 1),
        _ONE_PASS,
        CHANNELS,
        subspaces.squared_cca,
        (1, 2),
    ),
    Measure(
        "svcca",
        "SVCCA",
        "SVCCA (mean canonical correlation of the principal directions with 99% of the variance)",
        *(0, 1, 1),
        _ONE_PASS,
        CHANNELS,
        subspaces.svcca,
        (1, 2),
    ),
    Measure(
        "regression",
        "linear regression R²",
        "R² of linear regression of model 2's channels on model 1's",
        *(0, 1, 1),
        _ONE_PASS,
        CHANNELS,
        subspaces.regression,
        (1,),
    ),
    Measure(
        "mutual-knn",
        "mutual kNN",
        "mutual k-nearest neighbours (k = {k}, cosine similarity; expected over ties)",
        *(0, 1, 1),
        "one pass, rows² × channels products",
        CHANNELS,
    ),
    Measure(
        "disagreement",
        "disagreement",
        "share of images with different predictions",
        *(0, 1, 0),
        _ONE_PASS,
        OUTPUTS,
    ),
    Measure(
        "agreement",
        "agreement",
        "share of images with the same prediction",
        *(0, 1, 1),
        _ONE_PASS,
        OUTPUTS,
    ),
    Measure(
        "jensen-shannon",
        "Jensen–Shannon divergence",
        "Jensen–Shannon divergence of the softmax outputs, mean over images, in nats (0 to ln 2)",
        *(0, math.log(2), 0),
        _ONE_PASS,
        OUTPUTS,
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
