"""HSIC of many representations at once, from sums over their Gram matrices.

With K = XXᵀ and L = YYᵀ for representations of the same n images, H = I − 11ᵀ/n, and K̃, L̃ the
same with zeros on the diagonal, the two estimates are

    biased    tr(KHLH) = Σ K∘L − 2/n (K1)ᵀ(L1) + (1ᵀK1)(1ᵀL1)/n²                  times 1/(n−1)²
    unbiased  Σ K̃∘L̃ + (1ᵀK̃1)(1ᵀL̃1)/((n−1)(n−2)) − 2/(n−2) (K̃1)ᵀ(L̃1)          times 1/(n(n−3))

(Gretton et al., 2005, definition 2; Song et al., 2012, equation 5). Entry by entry nothing is
needed but products, row sums and diagonals, so the matrices come block by block, only the upper
half of them, and need not be kept.

Every sum is float64; `blocks` makes the matrices. Where features are few, `Moments.cka` needs none.
"""

import torch
from torch import Tensor

LEAST_IMAGES = 4
"""Below this the unbiased estimate does not exist."""

NEGLIGIBLE = 1e-10
"""What centring leaves of a Gram matrix that does not vary, as a share of its squared norm."""


class GramSums:
    """The sums over the Gram matrices of `count` representations of `n` images, in float64.

    Attributes
    ----------
    products : Σ K∘L of every pair, of shape (count, count).
    rows, diagonals : K1 and diag K of each, of shape (count, n).
    """

    def __init__(self, n: int, count: int, device: torch.device | str = "cpu"):
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.n = n
        self.products = zeros(count, count)
        self.rows, self.diagonals = zeros(count, n), zeros(count, n)

    def add(self, rows: slice, columns: slice, grams: Tensor) -> None:
        """Take in a block of every Gram matrix, of shape (count, rows, columns); off the diagonal
        it stands for its mirror, too."""
        mirrored = rows != columns
        grams = grams.double()
        self.rows[:, rows] += grams.sum(dim=2)
        if mirrored:
            self.rows[:, columns] += grams.sum(dim=1)
        else:
            self.diagonals[:, rows] = grams.diagonal(dim1=1, dim2=2)
        flat = grams.flatten(1)
        self.products += (1 + mirrored) * (flat @ flat.T)

    def biased(self) -> Tensor:
        """tr(KHLH) of every pair: the biased estimate of HSIC, times (n − 1)²."""
        total = self.rows.sum(dim=1)
        rest = torch.outer(total, total) / self.n**2 - 2 / self.n * self.rows @ self.rows.T
        return self._without_noise(self.products + rest)

    def unbiased(self) -> Tensor:
        """The unbiased estimate of HSIC of every pair.

        Raises
        ------
        ValueError : for fewer than four images.
        """
        n = self.n
        if n < LEAST_IMAGES:
            raise ValueError(f"the unbiased HSIC needs {LEAST_IMAGES} images or more, not {n}")
        rows = self.rows - self.diagonals
        total = rows.sum(dim=1)
        hsic = self.products - self.diagonals @ self.diagonals.T
        hsic += torch.outer(total, total) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T
        return self._without_noise(hsic) / (n * (n - 3))

    def varies(self) -> Tensor:
        """Which representations vary over the images, (count,)."""
        return self.biased().diagonal() > 0

    def _without_noise(self, hsic: Tensor) -> Tensor:
        """`hsic` with zeros for representations of which centring leaves nothing but rounding."""
        varies = hsic.diagonal() > NEGLIGIBLE * self.products.diagonal()
        return hsic * varies[:, None] * varies


class MinibatchSums:
    """The unbiased HSIC of every pair of `count` representations, summed over batches
    (Nguyen, Raghu and Kornblith, 2021, equation 3).

    Batches should be drawn at random. A smaller last one counts by its number of images; one of
    fewer than four has no unbiased HSIC and is left out.

    Attributes
    ----------
    products : n times HSIC of every pair, float64 of shape (count, count).
    """

    def __init__(self, count: int):
        self.products = torch.zeros(count, count, dtype=torch.float64)

    def add(self, grams: Tensor) -> None:
        """Take in the Gram matrices of a batch, (count, m, m). Of too few images none counts, but
        one that is not finite is told."""
        count, m, _ = grams.shape
        if m < LEAST_IMAGES:
            self.products = self.products.to(grams.device) + 0 * grams.sum(dim=(1, 2)).diag()
            return
        sums = GramSums(m, count, grams.device)
        sums.add(slice(0, m), slice(0, m), grams)
        self.add_sums(sums)

    def varies(self) -> Tensor:
        """Which representations vary within batches, (count,)."""
        return self.products.diagonal() != 0

    def add_sums(self, sums: GramSums) -> None:
        """Take in the sums over the Gram matrices of a batch, of four images or more."""
        self.products = self.products.to(sums.products.device) + sums.n * sums.unbiased()


class GramMatrices:
    """The Gram matrices themselves, for what needs more than their sums: n² numbers each.

    Attributes
    ----------
    matrices : of shape (count, n, n), once the first block is in.
    """

    def __init__(self, n: int, count: int, device: torch.device | str = "cpu"):
        self.matrices = torch.empty(count, n, n, device=device)

    def add(self, rows: slice, columns: slice, grams: Tensor) -> None:
        """Take in a block of every Gram matrix, see `GramSums.add`."""
        self.matrices = self.matrices.to(grams.dtype)
        self.matrices[:, rows, columns] = grams
        self.matrices[:, columns, rows] = grams.mT


def normalised(hsic: Tensor) -> Tensor:
    """CKA of every pair, HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)), of shape (count, count).

    NaN where a representation does not vary. Both estimates of HSIC are inner products, so CKA is
    never beyond ±1.
    """
    own = hsic.diagonal()
    scale = torch.outer(own, own).sqrt()
    return torch.where(scale > 0, hsic / scale, torch.nan).clamp(-1, 1)
