"""Linear CKA (Kornblith et al., 2019, equation 5) on whole feature maps, exact, in bounded memory.

For representations X (n, p) and Y (n, q) with Gram matrices K = XXᵀ, L = YYᵀ and H = I − 11ᵀ/n,

    CKA(X, Y) = HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)),   HSIC(K, L) = tr(KHLH).

With tr(KHLH) = Σ K∘L − 2/n Σᵢ (K1)ᵢ(L1)ᵢ + (1ᵀK1)(1ᵀL1)/n², sums over n × n entries are all that is
needed. The Gram matrices are made block by block, only the upper half of them, and never kept.
Products within a block are float32 (of features centred beforehand, so nothing cancels), every sum
is float64; `benchmarks/cka.py` measures the distance to float64 throughout. Where features are few,
`Moments.cka` needs no Gram matrix at all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from robust_stitching.progress import Progress, silent

BLOCK = 1000
REMEMBERED_BYTES = 2**30
ROUNDING = 4 * torch.finfo(torch.float32).eps


class Activations:
    """Several representations of the same `n` images, block by block.

    Blocks are remembered up to `REMEMBERED_BYTES` and computed again beyond that.

    Parameters
    ----------
    n : number of images.
    compute : ``compute(slice)`` returns name to activations (len(slice), …) of those images.
    """

    def __init__(self, n: int, compute: Callable[[slice], Mapping[str, Tensor]]):
        self.n, self._compute = n, compute
        self._remembered: dict[int, dict[str, Tensor]] = {}
        self._bytes = 0
        self._shift: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Number of blocks."""
        return -(-self.n // BLOCK)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Block `i`: name to float32 rows (images, features), shifted by the first block's mean."""
        if i in self._remembered:
            return self._remembered[i]
        found = self._compute(slice(i * BLOCK, min((i + 1) * BLOCK, self.n)))
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


def _shifted(rows: Tensor, shift: Tensor) -> Tensor:
    """rows − shift, exactly zero where only rounding is left: a constant feature has no share."""
    rows = rows - shift
    return rows.masked_fill_(rows.abs() <= ROUNDING * shift.abs(), 0)


class GramSums:
    """The sums over Gram matrices from which HSIC follows, for given pairs of representations."""

    def __init__(self, pairs: Sequence[tuple[str, str]]):
        names = dict.fromkeys(name for pair in pairs for name in pair)
        self.pairs = list(dict.fromkeys([(name, name) for name in names] + list(pairs)))
        self.names = list(names)
        self.products = dict.fromkeys(self.pairs, 0.0)
        self.rows: dict[str, Tensor] = {}

    def add(self, n: int, rows: slice, columns: slice, grams: Mapping[str, Tensor]) -> None:
        """Take in a block of every Gram matrix; off the diagonal it stands for its mirror, too."""
        mirrored = rows != columns
        grams = {name: gram.double() for name, gram in grams.items()}
        for name, gram in grams.items():
            sums = self.rows.setdefault(name, gram.new_zeros(n))
            sums[rows] += gram.sum(dim=1)
            if mirrored:
                sums[columns] += gram.sum(dim=0)
        for a, b in self.pairs:
            product = torch.vdot(grams[a].flatten(), grams[b].flatten())
            self.products[a, b] = self.products[a, b] + (1 + mirrored) * product

    def hsic(self, a: str, b: str) -> float:
        """tr(KHLH): the biased estimate of HSIC, times (n − 1)²."""
        k, other = self.rows[a], self.rows[b]
        n = len(k)
        centred = self.products[a, b] - 2 / n * (k @ other) + k.sum() * other.sum() / n**2
        return float(centred)

    def cka(self, a: str, b: str) -> float:
        """Linear CKA in [0, 1]; NaN where a representation is the same for every image."""
        scale = (max(self.hsic(a, a), 0.0) * max(self.hsic(b, b), 0.0)) ** 0.5
        return min(self.hsic(a, b) / scale, 1.0) if scale > 0 else float("nan")


def linear_ckas(
    activations: Activations, pairs: Sequence[tuple[str, str]], progress: Progress = silent
) -> dict[tuple[str, str], float]:
    """Exact linear CKA of every pair of names, over all images of `activations`."""
    sums = GramSums(pairs)
    blocks = len(activations)
    with _without_tf32(), progress(blocks * (blocks + 1) // 2, "CKA", " blocks") as bar:
        for i in range(blocks):
            left = activations[i]
            for j in range(i, blocks):
                right = left if i == j else activations[j]
                grams = {name: left[name] @ right[name].T for name in sums.names}
                rows, columns = (
                    slice(k * BLOCK, min((k + 1) * BLOCK, activations.n)) for k in (i, j)
                )
                sums.add(activations.n, rows, columns, grams)
                bar.update()
    return {pair: sums.cka(*pair) for pair in pairs}


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Exact linear CKA of activations x (n, …) and y (n, …) of the same n images."""
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} images and y {len(y)}; CKA needs the same ones")
    both = Activations(len(x), lambda rows: {"x": x[rows], "y": y[rows]})
    return linear_ckas(both, [("x", "y")])["x", "y"]


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Full float32 products on GPUs that would round them to ten bits."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
