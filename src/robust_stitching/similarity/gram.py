"""HSIC of many representations at once, from sums over their Gram matrices.

With K = XXᵀ and L = YYᵀ for representations of the same n images, H = I − 11ᵀ/n, and K̃, L̃ the
same with zeros on the diagonal, the two estimates are

    biased    tr(KHLH) = Σ K∘L − 2/n (K1)ᵀ(L1) + (1ᵀK1)(1ᵀL1)/n²                  times 1/(n−1)²
    unbiased  Σ K̃∘L̃ + (1ᵀK̃1)(1ᵀL̃1)/((n−1)(n−2)) − 2/(n−2) (K̃1)ᵀ(L̃1)          times 1/(n(n−3))

(Gretton et al., 2005, definition 2; Song et al., 2012, equation 5). Entry by entry nothing is
needed but products, row sums and diagonals, so the matrices come block by block, only the upper
half of them, and need not be kept.

Products within a block are as exact as the activations, float32 at least (of features centred
beforehand, so nothing cancels); every sum is float64. `benchmarks/cka.py` measures the distance to
float64 throughout. Where features are few, `Moments.cka` needs no Gram matrix at all.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from robust_stitching.basics.modes import without_tf32

LEAST_IMAGES = 4
"""Below this the unbiased estimate does not exist."""

NEGLIGIBLE = 1e-10
"""What centring leaves of a Gram matrix that does not vary, as a share of its squared norm."""

BLOCK_BYTES = 2**30
ROUNDING = 4
"""Steps of the precision: what varies by no more of its mean is constant."""


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

    def add(self, activations: Iterable[Tensor]) -> None:
        """Take in one batch: activations (m, …) of every representation."""
        with without_tf32():
            self.add_grams(torch.stack([rows @ rows.T for rows in map(centred, activations)]))

    def add_grams(self, grams: Tensor) -> None:
        """The same from the Gram matrices of a batch, of shape (count, m, m)."""
        count, m, _ = grams.shape
        if m < LEAST_IMAGES:
            return
        sums = GramSums(m, count, grams.device)
        sums.add(slice(0, m), slice(0, m), grams)
        self.add_sums(sums)

    def varies(self) -> Tensor:
        """Which representations vary within batches, (count,)."""
        return self.products.diagonal() != 0

    def add_sums(self, sums: GramSums) -> None:
        """The same from the sums over the Gram matrices of a batch, of four images or more."""
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


class Blocks:
    """Gram matrices of more activations than memory holds, handed out block by block.

    A block of images is kept, as many batches as `block_bytes` allow for their activations and the
    Gram matrices of the block with a batch, and all later images stream past it; then follows the
    next block. Activations are computed again for each block: (blocks + 1)/2 passes over the data.

    Parameters
    ----------
    image_bytes : what the activations of one image take, in all `count` representations.
    takers : what the blocks are handed to, `GramSums` or `GramMatrices`.
    block_bytes : see above; `BLOCK_BYTES` if left out.

    Attributes
    ----------
    starts : the images at which the passes begin that are needed, multiples of `batch_size`.
    taken : each of `takers` to the object that has taken in the blocks.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        count: int,
        image_bytes: int,
        takers: Sequence[Callable[[int, int, torch.device], GramSums | GramMatrices]],
        block_bytes: int | None = None,
    ):
        grams = 16 * count * batch_size  # float32 twice and float64, for one image of a block
        self.size = (
            max(1, (block_bytes or BLOCK_BYTES) // ((image_bytes + grams) * batch_size))
            * batch_size
        )
        self.n, self.takers = n, takers
        self.starts = range(0, max(n, 1), self.size)
        self.taken: dict[Callable, GramSums | GramMatrices] = {}
        self._shift: list[Tensor] = []
        self._block: list[Tensor] = []

    def add(self, start: int, at: int, activations: Iterable[Tensor]) -> None:
        """Take in the activations (m, …) of every representation for the images from `at` on, in
        the pass that began at `start`."""
        before, inside = min(at, self._end(start)) - start, at < self._end(start)
        across, within = [], []
        for i, rows in self.fill(start, at, activations):
            across.append(self._block[i][:before] @ rows.T)
            if inside:
                within.append(rows @ rows.T)
        pieces = [(slice(start, start + before), torch.stack(across))]
        del across  # before they are taken in
        columns = slice(at, at + len(rows))
        if inside:
            pieces.append((columns, torch.stack(within)))
        for taker in self.takers:
            if taker not in self.taken:
                self.taken[taker] = taker(self.n, len(self._block), rows.device)
            for own, grams in pieces:
                self.taken[taker].add(own, columns, grams)

    def fill(
        self, start: int, at: int, activations: Iterable[Tensor]
    ) -> Iterator[tuple[int, Tensor]]:
        """Put the activations of images into the block, where they belong there; yields the number
        of each representation and its rows."""
        end = self._end(start)
        if at == start:
            self._block = []
        for i, values in enumerate(activations):
            rows = floating(values).flatten(1)
            if i == len(self._shift):
                self._shift.append(_mean(rows))
            if i == len(self._block):
                self._block.append(rows.new_empty(end - start, rows.shape[1]))
            rows = _shifted(rows, self._shift[i])
            if at < end:
                self._block[i][at - start : at - start + len(rows)] = rows
            yield i, rows

    def _end(self, start: int) -> int:
        return min(start + self.size, self.n)

    def state(self) -> dict[str, Any]:
        """What has been taken in; the block itself has to be filled again."""
        taken = [*map(vars, self.taken.values())]
        return {"shift": self._shift, "takers": [t.__name__ for t in self.taken], "taken": taken}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` said."""
        self._shift = state["shift"]
        known = {taker.__name__: taker for taker in self.takers}
        for name, values in zip(state["takers"], state["taken"], strict=True):
            self.taken[known[name]] = object.__new__(known[name])
            vars(self.taken[known[name]]).update(values)


def floating(values: Tensor) -> Tensor:
    """Values in the precision in which they are worked with: their own, but float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def centred(activations: Tensor) -> Tensor:
    """Activations (n, …) as rows (n, features) without their mean, constant features 0."""
    rows = floating(activations).flatten(1)
    return _shifted(rows, _mean(rows))


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(dim=0, dtype=torch.float64).to(rows.dtype)


def _shifted(rows: Tensor, shift: Tensor) -> Tensor:
    """rows − shift, exactly zero where only rounding is left: a constant feature has no share."""
    rows = rows - shift
    rounding = ROUNDING * torch.finfo(rows.dtype).eps
    return rows.masked_fill_(rows.abs() <= rounding * shift.abs(), 0)


def normalised(hsic: Tensor) -> Tensor:
    """CKA of every pair, HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)), of shape (count, count).

    NaN where a representation does not vary. Both estimates of HSIC are inner products, so CKA is
    never beyond ±1.
    """
    own = hsic.diagonal()
    scale = torch.outer(own, own).sqrt()
    return torch.where(scale > 0, hsic / scale, torch.nan).clamp(-1, 1)
