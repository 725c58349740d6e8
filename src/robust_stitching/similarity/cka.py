"""Linear CKA (Kornblith et al., 2019, equation 5) on whole feature maps, exact, in bounded memory.

For representations X (n, p) and Y (n, q) with Gram matrices K = XXᵀ, L = YYᵀ and H = I − 11ᵀ/n,

    CKA(X, Y) = HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)),   HSIC(K, L) = tr(KHLH).

Debiased CKA puts the unbiased HSIC (Song et al., 2012, equation 5) in its place. Minibatch CKA
(Nguyen, Raghu and Kornblith, 2021) averages the unbiased HSIC over batches, each of the three terms
for itself, and divides once.

Sums over the entries of Gram matrices are all that is needed, see `gram`. The matrices are made
block by block, only the upper half of them, and never kept.
Products within a block are float32 (of features centred beforehand, so nothing cancels), every sum
is float64; `benchmarks/cka.py` measures the distance to float64 throughout. Where features are few,
`Moments.cka` needs no Gram matrix at all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robust_stitching.basics.modes import without_tf32
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.similarity.gram import LEAST_IMAGES, GramSums, normalised

BLOCK = 1000
REMEMBERED_BYTES = 2**30
BLOCK_BYTES = 2**30
ROUNDING = 4 * torch.finfo(torch.float32).eps


class Activations:
    """Several representations of the same `n` images, block by block.

    Blocks are remembered up to `REMEMBERED_BYTES` and computed again beyond that.

    Parameters
    ----------
    n : number of images.
    compute : ``compute(slice)`` returns name to activations (len(slice), …) of those images.
    features : how many numbers an image has in all of them; blocks are smaller where this is large,
        so that a block's activations stay below `BLOCK_BYTES`.
    """

    def __init__(self, n: int, compute: Callable[[slice], Mapping[str, Tensor]], features: int = 1):
        self.n, self._compute = n, compute
        self.block = max(1, min(BLOCK, BLOCK_BYTES // (4 * features)))
        self._remembered: dict[int, dict[str, Tensor]] = {}
        self._bytes = 0
        self._shift: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Number of blocks."""
        return -(-self.n // self.block)

    def rows(self, i: int) -> slice:
        """The images of block `i`."""
        return slice(i * self.block, min((i + 1) * self.block, self.n))

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Block `i`: name to float32 rows (images, features), shifted by the first block's mean."""
        if i in self._remembered:
            return self._remembered[i]
        found = self._compute(self.rows(i))
        block = {name: value.flatten(1).float() for name, value in found.items()}
        if not self._shift:
            self._shift = {
                name: value.mean(dim=0, dtype=torch.float64).float()
                for name, value in block.items()
            }
        block = {name: _shifted(value, self._shift[name]) for name, value in block.items()}
        size = sum(value.numel() * value.element_size() for value in block.values())
        if self._bytes + size <= REMEMBERED_BYTES:
            self._remembered[i] = block
            self._bytes += size
        return block


def centred(activations: Tensor) -> Tensor:
    """Activations (n, …) as float32 rows (n, features) without their mean, constant features 0."""
    rows = activations.flatten(1).float()
    return _shifted(rows, rows.mean(dim=0, dtype=torch.float64).float())


def _shifted(rows: Tensor, shift: Tensor) -> Tensor:
    """rows − shift, exactly zero where only rounding is left: a constant feature has no share."""
    rows = rows - shift
    return rows.masked_fill_(rows.abs() <= ROUNDING * shift.abs(), 0)


class Estimates(NamedTuple):
    """CKA of one pair, over all images: the exact value (biased HSIC), in [0, 1], and the debiased
    one, in [−1, 1]; NaN where a representation does not vary or images are too few."""

    exact: float
    debiased: float


def linear_ckas(
    activations: Activations, pairs: Sequence[tuple[str, str]], progress: Progress = silent
) -> dict[tuple[str, str], Estimates]:
    """Linear CKA of every pair of names, over all images of `activations`."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    sums = _gram_sums(activations, names, progress)
    exact = normalised(sums.biased())
    debiased = torch.full_like(exact, torch.nan)
    if activations.n >= LEAST_IMAGES:
        debiased = normalised(sums.unbiased())
    places = {(a, b): (names.index(a), names.index(b)) for a, b in pairs}
    return {pair: Estimates(float(exact[at]), float(debiased[at])) for pair, at in places.items()}


def _gram_sums(activations: Activations, names: Sequence[str], progress: Progress) -> GramSums:
    blocks, sums = len(activations), None
    with without_tf32(), progress(blocks * (blocks + 1) // 2, "CKA", " blocks") as bar:
        for i in range(blocks):
            left = activations[i]
            for j in range(i, blocks):
                right = left if i == j else activations[j]
                grams = torch.stack([left[name] @ right[name].T for name in names])
                rows, columns = activations.rows(i), activations.rows(j)
                if sums is None:
                    sums = GramSums(activations.n, len(names), grams.device)
                sums.add(rows, columns, grams)
                bar.update()
    return sums


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Exact linear CKA of activations x (n, …) and y (n, …) of the same n images."""
    return linear_ckas(_both(x, y), [("x", "y")])["x", "y"].exact


def debiased_cka(x: Tensor, y: Tensor) -> float:
    """Debiased linear CKA of activations x (n, …) and y (n, …) of the same n images, four or more.

    In [−1, 1]; 0 on average for independent ones, where the biased estimate is above 0 the more so
    the fewer images there are for the number of features.
    """
    return float(normalised(_gram_sums(_both(x, y), ["x", "y"], silent).unbiased())[0, 1])


def minibatch_cka(x: Tensor, y: Tensor, batch_size: int) -> float:
    """Minibatch linear CKA of activations x (n, …) and y (n, …), of batches in their order."""
    _both(x, y)
    sums = MinibatchSums(2)
    for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True):
        sums.add([a, b])
    return float(sums.cka()[0, 1])


def _both(x: Tensor, y: Tensor) -> Activations:
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} images and y {len(y)}; CKA needs the same ones")
    return Activations(len(x), lambda rows: {"x": x[rows], "y": y[rows]})


def blockwise_sums(
    n: int,
    batch_size: int,
    features: Sequence[int],
    batches: Callable[[int], Iterator[Sequence[Tensor]]],
    progress: Progress = silent,
) -> GramSums:
    """`GramSums` of more activations than memory holds.

    A block of images is kept, as many batches as `BLOCK_BYTES` allow for their activations and the
    Gram matrices of the block with a batch, and all later images stream past it; then follows the
    next block. Activations are computed again for each block, which takes (blocks + 1)/2 passes
    over the data.

    Parameters
    ----------
    features : how many numbers each representation of one image is.
    batches : ``batches(skip)`` yields the activations (m, …) of every representation, batch by
        batch of `batch_size` images, the same each time, behind the first `skip` batches.
    """
    grams = 16 * len(features) * batch_size  # float32 twice and float64, for one image of a block
    per_block = max(1, BLOCK_BYTES // ((4 * sum(features) + grams) * batch_size))
    starts = range(0, n, per_block * batch_size)
    sums, shift = None, []
    with without_tf32(), progress(sum(n - start for start in starts), "CKA") as bar:
        for start in starts:
            end = min(start + per_block * batch_size, n)
            block: list[Tensor] = []
            at = start
            for activations in batches(start // batch_size):
                columns = slice(at, at + len(activations[0]))
                before, inside = min(at, end) - start, at < end
                across, within = [], []
                for i, values in enumerate(activations):
                    rows = values.flatten(1).float()
                    if i == len(shift):
                        shift.append(rows.mean(dim=0, dtype=torch.float64).float())
                    if i == len(block):
                        block.append(rows.new_empty(end - start, rows.shape[1]))
                    rows = _shifted(rows, shift[i])
                    across.append(block[i][:before] @ rows.T)
                    if inside:
                        within.append(rows @ rows.T)
                        block[i][before : before + len(rows)] = rows
                sums = sums or GramSums(n, len(block), block[0].device)
                sums.add(slice(start, start + before), columns, torch.stack(across))
                if inside:
                    sums.add(columns, columns, torch.stack(within))
                at = columns.stop
                bar.update(columns.stop - columns.start)
                del activations, values, rows  # before the next ones are computed
    return sums


class MinibatchSums:
    """Minibatch CKA of many representations (Nguyen, Raghu and Kornblith, 2021, equation 3).

    The unbiased HSIC of every pair is averaged over batches, which should be drawn at random, and
    only the averages are divided. A smaller last batch counts by its number of images; one of fewer
    than four has no unbiased HSIC and is left out.

    Attributes
    ----------
    n : images that went in.
    """

    def __init__(self, count: int):
        self.n = 0
        self._hsic = torch.zeros(count, count, dtype=torch.float64)

    def add(self, activations: Sequence[Tensor]) -> None:
        """Take in one batch: activations (m, …) of every representation."""
        m = len(activations[0])
        if m < LEAST_IMAGES:
            return
        with without_tf32():
            grams = torch.stack([rows @ rows.T for rows in map(centred, activations)])
        sums = GramSums(m, len(grams), grams.device)
        sums.add(slice(0, m), slice(0, m), grams)
        self._hsic = self._hsic.to(grams.device) + m * sums.unbiased()
        self.n += m

    @property
    def own(self) -> Tensor:
        """HSIC of each representation with itself, times n: 0 of one that does not vary."""
        return self._hsic.diagonal()

    def cka(self) -> Tensor:
        """CKA of every pair, of shape (count, count); NaN where there was no batch, and where a
        representation does not vary within batches."""
        return normalised(self._hsic)
