"""CKA with a radial basis function in the place of the inner product (Kornblith et al., 2019,
section 3, "Kernel Selection"), on whole feature maps.

With d_ij the euclidean distance of two activations, σ the median of all d_ij, i < j, and
k(x_i, x_j) = exp(−d_ij² / (2σ²)), it is tr(KHLH) / √(tr(KHKH) tr(LHLH)): near images count, far
ones hardly do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.forms import Gram
from robust_stitching.similarity.measure import ROTATIONS, SCALE, SHIFT, Measure


@dataclass(frozen=True)
class Kernel(Gram):
    """The Gram matrix, and the centred kernel matrix that follows from it."""

    def permuted(self, order: Sequence[int] | Tensor) -> "Kernel":
        """The kernel is the same one between other numbers."""
        other = super().permuted(order)
        places = torch.as_tensor(order, device=self.kernel.device)
        vars(other)["kernel"] = self.kernel[places][:, places]
        return other

    @cached_property
    def kernel(self) -> Tensor:
        """HKH (n, n), float64, of Frobenius norm 1; NaN where the median distance is 0."""
        every = slice(0, len(self))
        gram = self.part(every, every).double()
        own = gram.diagonal()
        squares = (own[:, None] + own - 2 * gram).clamp(min=0)
        first, second = torch.triu_indices(len(gram), len(gram), 1, device=gram.device)
        kernel = (squares / (-2 * _median(squares[first, second].sqrt()) ** 2)).exp()
        kernel -= kernel.mean(dim=0)
        kernel -= kernel.mean(dim=1, keepdim=True)
        return kernel / kernel.norm()


def _median(values: Tensor) -> Tensor:
    """Of an even number of values the mean of the two in the middle, which torch's is not."""
    ranked = values.sort().values
    return (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2


def _rbf(x: Kernel, y: Kernel) -> float:
    return float((x.kernel * y.kernel).sum().clamp(0, 1))


MEASURES = (
    Measure(
        name="rbf-cka",
        title="RBF CKA",
        estimator="CKA with the kernel exp(−d²/2σ²), σ the median distance (biased HSIC over all "
        "images)",
        low=0,
        high=1,
        same=1,
        cost="as cka, and the Gram matrix of every layer in memory, n² numbers each",
        form=Kernel,
        value=_rbf,
        ignores=ROTATIONS | {SCALE, SHIFT},
    ),
)


def rbf_cka(x: Array, y: Array) -> float:
    """CKA with a radial basis function of two representations of the same images, in [0, 1].

    Its width is the median distance between two images (Kornblith et al., 2019, section 3). The
    biased HSIC is taken: few images look alike whatever they are, the less so the fewer features.

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), two images or more. Maps enter whole, as C·H·W features.

    Returns
    -------
    NaN where a side does not vary over the images, or more than half of their distances are 0.

    Raises
    ------
    ValueError : for other shapes, other numbers of images, and values that are not finite.
    """
    return between(MEASURES[0], x, y)
