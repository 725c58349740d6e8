"""Debiased CKA without some of the images, from one pass over Gram matrices that nobody keeps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from robust_stitching.similarity.gram import GramSums, normalised


class LeftOut:
    """The debiased CKA of one representation with all, without each of some blocks of images.

    What a block b of images adds to Σ K∘L is 2 Σ_{p in b} (row p) − Σ_{p, q in b}; what it adds to
    the sum of a row p is Σ_{q in b} K_pq. So sums of rows, sums within blocks and the sums of each
    row over each block are all that is kept.

    Parameters
    ----------
    blocks : numbers of images, each of the n in one block.
    one : the number of the representation that all are compared with.
    """

    def __init__(
        self, blocks: Sequence[Tensor], one: int, n: int, count: int, device: torch.device | str
    ):
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.one, self._block = one, torch.empty(n, dtype=torch.long, device=device)
        for number, images in enumerate(blocks):
            self._block[images.to(device)] = number
        self._member = torch.eye(len(blocks), device=device)[self._block]
        self._sums = zeros(count, n, len(blocks))
        self._diagonals = zeros(count, n)
        self._rows, self._within = zeros(count, 2, n), zeros(count, 2, len(blocks))

    def add(self, rows: slice, columns: slice, grams: Tensor) -> None:
        """Take in a block of every Gram matrix, see `GramSums.add`."""
        mirrored = rows != columns
        members = [self._member[some].double() for some in (rows, columns)]
        row, column = (self._block[rows][:, None] == self._block[columns]).nonzero(as_tuple=True)
        owner, one = self._block[rows][row], grams[self.one].double()
        for number, own in enumerate(grams):
            own = own.double()
            self._sums[number, rows] += own @ members[1]
            if mirrored:
                self._sums[number, columns] += own.T @ members[0]
            else:
                self._diagonals[number, rows] = own.diagonal()
            for which, other in enumerate((one, own)):
                products, sums = own * other, self._rows[number, which]
                sums[rows] += products.sum(dim=1)
                if mirrored:
                    sums[columns] += products.sum(dim=0)
                shared = (1 + mirrored) * products[row, column]
                self._within[number, which].index_add_(0, owner, shared)

    def values(self) -> Tensor:
        """Without each block, float64 of shape (blocks, representations); NaN for what does not
        vary."""
        sizes = self._block.bincount(minlength=self._member.shape[1]).tolist()
        every = self._rows.sum(dim=2), self._sums.sum(dim=2)
        return torch.stack([self._without(*each, *every) for each in enumerate(sizes)])

    def _without(self, block: int, size: int, products: Tensor, rows: Tensor) -> Tensor:
        count, n = self._diagonals.shape
        gone = self._block == block
        left = (~gone).double()
        products = products - 2 * (self._rows * gone).sum(dim=2) + self._within[:, :, block]
        sums = GramSums(n - size, count, self._block.device)
        sums.rows = (rows - self._sums[:, :, block]) * left  # 0 for images that are gone
        sums.diagonals = self._diagonals * left
        sums.products[self.one] = sums.products[:, self.one] = products[:, 0]
        sums.products.diagonal().copy_(products[:, 1])
        return normalised(sums.unbiased())[:, self.one]  # the rest of it nobody has asked for
