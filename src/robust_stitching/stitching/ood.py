"""In or out of distribution: is a mapped activation one that the end network could have made?

After arXiv 2412.11299, which trains a detector. Here an activation is as far out as the Mahalanobis
distance of its channel means and channel second moments from those that the end network itself has
on training images (Lee et al., 2018, of a whole layer in place of a class), under a covariance that
is shrunk as Ledoit and Wolf (2004) do. The area under the ROC curve then says how well these
distances tell a stitched network's activations from the end's own, on the same test images.

How values are arranged over positions, and how channels go together beyond their covariance, is not
seen: in distribution means that these statistics show no difference.
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching.basics.modes import evaluating
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.auroc import METHOD, Auroc, auroc_of
from robust_stitching.graphs import graph
from robust_stitching.graphs.layout import Layout, grid_of
from robust_stitching.similarity.moments import ROUNDING
from robust_stitching.similarity.stream import Batch

IMAGES = 5000
"""So many training images of the end, always the same ones, tell what it makes; all of fewer."""

LEAST_IMAGES = 10
BATCH_SIZE = 250
MOST_STATISTICS = 6000
"""Their covariance is a quarter of a gigabyte, and is factored within seconds."""

LEAST_SHRINKAGE = 1e-6
"""A covariance is shrunk by this share at least, so that it always has an inverse."""

ESTIMATOR = (
    "AUROC, against the end's own on the same test images, of the Mahalanobis distance of channel "
    "means and channel second moments under a Ledoit–Wolf covariance of the end's own on up to "
    f"{IMAGES:,} training images, not augmented; {METHOD}"
)


@dataclass(frozen=True)
class OutOfDistribution:
    """How far out a network's mapped activations are.

    Attributes
    ----------
    auroc : 0.5 where they are as far out as the end's own, 1 where all of them are further out, 0
        where all are nearer to the middle; None where that is not defined.
    reason : why it is not.
    """

    auroc: Auroc | None
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values under the keys of the JSON report."""
        if self.auroc is None:
            return {"auroc": None, "auroc_interval": None, "reason": self.reason}
        return {"auroc": self.auroc.value, "auroc_interval": list(self.auroc.interval)}


def statistics_of(activations: Tensor, layout: Layout) -> Tensor:
    """The means of the channels over positions, and the means of their squares: float64 of shape
    (N, 2 C). Tokens that are at no position have both for themselves: (N, 4 C).

    Parameters
    ----------
    activations : (N, *layout.shape).
    """
    groups = [grid_of(activations, layout).flatten(2)]
    if layout.prefix:
        groups.append(activations[:, : layout.prefix].transpose(1, 2))
    found = [
        values.mean(dim=2, dtype=torch.float64)
        for group in groups
        for values in (group, group.square())
    ]
    return torch.cat(found, dim=1)


def ledoit_wolf(rows: Tensor) -> tuple[Tensor, float]:
    """The covariance of centred rows (n, p) and the share by which it is to be shrunk towards the
    identity times its mean variance (Ledoit and Wolf, 2004, "A well-conditioned estimator for
    large-dimensional covariance matrices", lemma 3.2 to 3.4)."""
    n, p = rows.shape
    covariance = rows.T @ rows / n
    mean = covariance.trace() / p
    spread = covariance.square().sum()
    distance = spread - p * mean**2
    error = (rows.square().sum(dim=1).square().mean() - spread) / n
    share = (error / distance).clamp(0, 1).item() if distance > 0 else 1.0
    return covariance, share


@dataclass(frozen=True)
class Typical:
    """What the end network itself makes at a layer.

    Attributes
    ----------
    mean : of its statistics, (p,).
    scale : what each is measured in, (p,).
    factor : of their covariance in these scales, shrunk: the lower triangle L (p, p) of L Lᵀ.
    """

    mean: Tensor
    scale: Tensor
    factor: Tensor

    def distances(self, statistics: Tensor) -> Tensor:
        """The squared Mahalanobis distances (N,) of statistics (N, p) from the mean; infinite for
        what is no number."""
        rows = (statistics - self.mean) / self.scale
        solved = torch.linalg.solve_triangular(self.factor, rows.T, upper=False)
        return solved.square().sum(dim=0).nan_to_num(nan=torch.inf, posinf=torch.inf)


def typical_of(statistics: Tensor, channels: int) -> Typical | str:
    """What statistics of training images (n, p) say, or why they say nothing.

    A statistic is measured in its own deviation; one that does not vary over these images, as of a
    dead channel, in the deviation of a usual one of its kind (the root of their mean variance), and
    its variance is what shrinking gives it: what the end never makes is far out.

    Parameters
    ----------
    channels : of which p is a multiple, a kind of statistic each.
    """
    n, p = statistics.shape
    if n < LEAST_IMAGES:
        return f"{n} training images are too few to tell what the end makes"
    mean = statistics.mean(dim=0)
    centred = statistics - mean
    own = centred.square().mean(dim=0).sqrt()
    varies = own > ROUNDING * mean.abs()
    own = torch.where(varies, own, 0.0)
    usual = own.unflatten(0, (-1, channels)).square().mean(dim=1).sqrt()
    if not bool(((usual > 0) & usual.isfinite()).all()):
        return "the end's own activations do not vary, or are no finite numbers"
    scale = torch.where(varies, own, usual.repeat_interleave(channels))
    covariance, share = ledoit_wolf(torch.where(varies, centred, 0.0) / scale)
    share = max(share, LEAST_SHRINKAGE)
    shrunk = (1 - share) * covariance
    shrunk.diagonal().add_(share * covariance.trace() / p)
    return Typical(mean, scale, torch.linalg.cholesky(shrunk))


def typical_at(
    end: nn.Module, layer: str, split: AnySplit, progress: Progress = silent
) -> Typical | str:
    """What the end network makes of up to `IMAGES` images of `split`, always the same ones, as they
    are, in evaluation mode; or why that cannot be told."""
    layout = graph.layout_of(end, layer)
    if size_of(layout) > MOST_STATISTICS:
        return f"{size_of(layout):,} statistics are too many (the limit is {MOST_STATISTICS:,})"
    seen, some, piece = [], split.sample(IMAGES), graph.features(end, [layer])
    with evaluating(piece), progress(len(some), "typical activations") as bar:
        for images, labels in some.batches(BATCH_SIZE):
            seen.append(statistics_of(piece(images)[0], layout))
            bar.update(len(labels))
    return typical_of(torch.cat(seen), layout.channels)


def size_of(layout: Layout) -> int:
    """How many statistics an activation has."""
    return 2 * layout.channels * (2 if layout.prefix else 1)


def memory_of(layout: Layout) -> int:
    """About how many bytes `typical_at` takes: rows as they are, centred, scaled, and squared."""
    size = size_of(layout)
    return 8 * 4 * IMAGES * size if size <= MOST_STATISTICS else 0


class Distances:
    """The distances of activations from what the end network makes, gathered batch by batch.

    Parameters
    ----------
    typical : see `typical_at`.
    layout : of the activations that are looked at.
    names : of all activations of a batch, in their order.
    end : the name of the end's own.
    asked : the names of those that are looked at beside it.
    """

    def __init__(
        self,
        typical: Typical | str,
        layout: Layout,
        names: Sequence[Hashable],
        end: Hashable,
        asked: Collection[Hashable],
    ):
        self.typical, self.layout, self.names, self.end = typical, layout, names, end
        self._seen: dict[Hashable, list[Tensor]] = {name: [] for name in (end, *asked)}

    def take(self, batch: Batch) -> None:
        """Take in a batch."""
        if isinstance(self.typical, str):
            return
        for name, values in zip(self.names, batch.activations, strict=True):
            if name in self._seen:
                statistics = statistics_of(values, self.layout)
                self._seen[name].append(self.typical.distances(statistics))

    def found(self) -> dict[Hashable, OutOfDistribution]:
        """By name, how far out each is beside the end's own."""
        others = [name for name in self._seen if name != self.end]
        if isinstance(self.typical, str):
            return dict.fromkeys(others, OutOfDistribution(None, self.typical))
        distances = {name: torch.cat(parts) for name, parts in self._seen.items()}
        own = distances[self.end]
        return {name: OutOfDistribution(auroc_of(distances[name], own)) for name in others}
