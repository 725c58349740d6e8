"""IMD, the intrinsic multi-scale distance: are two clouds of points of the same shape?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.forms import CHANNELS, POOLED, Channels, Form, Settings
from robust_stitching.similarity.measure import PAIRING, ROTATIONS, SCALE, SHIFT, Measure, at_least
from robust_stitching.similarity.measures.neighbours import EuclideanNeighbours

NEIGHBOURS = 5
TIMES = torch.logspace(-1, 1, 256, dtype=torch.float64)
"""Where the largest difference of heat traces is looked for; beyond, the weights are below 1e-8."""


@dataclass(frozen=True)
class HeatTrace(Form):
    """Σ e^(−tλ) over the eigenvalues λ of the normalised Laplacian of the graph in which rows are
    joined to their 5 nearest neighbours by euclidean distance.

    Attributes
    ----------
    channels : the rows.
    trace : at each of `TIMES`; NaN where all rows are the same.
    """

    of: ClassVar[str] = CHANNELS
    preparing: ClassVar[str] = "taking eigenvalues of graphs"

    channels: Channels
    trace: Tensor

    @classmethod
    def prepared(cls, seen: Channels, settings: Settings) -> "HeatTrace":
        return cls(seen, _heat_trace(seen))

    def __len__(self) -> int:
        return len(self.channels)

    def only(self, images: Tensor) -> "HeatTrace":
        channels = self.channels.only(images)
        return HeatTrace(channels, _heat_trace(channels))


def _heat_trace(channels: Channels) -> Tensor:
    found = EuclideanNeighbours.among(channels, NEIGHBOURS)
    if not found.defined:
        return torch.full_like(TIMES, torch.nan)
    joined = found.shares.maximum(found.shares.T).toarray()
    scale = 1 / np.sqrt(joined.sum(axis=1))
    laplacian = np.eye(len(joined)) - scale[:, None] * joined * scale
    eigenvalues = torch.linalg.eigvalsh(torch.from_numpy(laplacian).to(channels.rows.device)).cpu()
    return (-TIMES[:, None] * eigenvalues).exp().sum(dim=1)


def _imd(x: HeatTrace, y: HeatTrace) -> float:
    weights = (-2 * (TIMES + 1 / TIMES)).exp()
    return float((weights * (x.trace - y.trace).abs()).max())


MEASURES = (
    Measure(
        name="imd",
        title="IMD",
        estimator="IMD (largest weighted difference of the heat traces of the graphs of 5 nearest "
        "neighbours, euclidean; 0 is alike)",
        low=0,
        high=float("inf"),
        same=0,
        cost="eigenvalues of a matrix of rows × rows for each layer: seconds for 2,000 rows, "
        "minutes for 10,000",
        form=HeatTrace,
        value=_imd,
        limits=at_least(NEIGHBOURS + 2),
        ignores=ROTATIONS | {SCALE, SHIFT, PAIRING},
    ),
)
(IMD,) = MEASURES


def imd(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """Intrinsic multi-scale distance of two representations, from 0 on.

    max over t of e^(−2(t + 1/t)) |Σ e^(−tλ) − Σ e^(−tμ)|, with λ and μ the eigenvalues of the
    normalised Laplacians of the graphs in which an image is joined to its 5 nearest neighbours, and
    to those whose neighbour it is (Tsitsulin et al., 2020, section 4). 256 values of t from 0.1 to
    10 are looked at; eigenvalues are exact, where the paper estimates the traces. Tied neighbours
    are joined by the weight with which they are some. It grows with the number of images, and which
    image is which plays no role.

    The eigenvalues of n rows take n³ steps: about 2 s for 2,000, minutes for 10,000.

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), seven images or more.
    positions : of maps, "pooled" takes the mean over positions as the row of an image, "all" has a
        row for each position, see `rows.Rows`.

    Returns
    -------
    NaN where a side does not vary.

    Raises
    ------
    ValueError : for fewer images, other shapes, other numbers of images, and values that are not
        finite.
    """
    return between(IMD, x, y, positions=positions)
