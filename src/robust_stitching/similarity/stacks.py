"""The Gram matrices of all representations, kept to be looked at in other orders of the images."""

import math

import torch
from torch import Tensor

from robust_stitching.similarity.gram import LEAST_IMAGES, GramSums, MinibatchSums

TILE = 32
"""Rows of matrices that are looked at together, so that they stay near the processor."""


class Stacks:
    """Gram matrices of side 1 and of side 2, float32, those of a pair of images together in memory,
    each divided by a power of two that brings its products into the range of float32.

    Parameters
    ----------
    matrices : of shape (representations, n, n), those of side 1 before those of side 2.
    first : how many are of side 1.
    """

    def __init__(self, matrices: Tensor, first: int):
        self.count, self.n, _ = matrices.shape
        self.first = first
        self._scales = torch.tensor(list(map(_power_of_two, matrices)), dtype=torch.float64)
        scales = self._scales = self._scales.to(matrices.device)
        self.sides = [
            (matrices[side].permute(1, 2, 0) / scales[side].to(matrices.dtype)).float().contiguous()
            for side in (slice(first), slice(first, None))
        ]
        self.images = torch.arange(self.n, device=matrices.device)
        self._rows = torch.cat([side.sum(dim=1, dtype=torch.float64) for side in self.sides], 1)
        self._own = self._sums(self.images, self._rows)

    def permuted(self, order: Tensor) -> GramSums:
        """The sums with the images of side 2 in another order: within a side nothing changes."""
        order, own, first = order.to(self.images.device), self._own, self.first
        sums = GramSums(self.n, self.count, self.images.device)
        for values, ours in ((sums.rows, own.rows), (sums.diagonals, own.diagonals)):
            values[:first], values[first:] = ours[:first], ours[first:, order]
        sums.products.copy_(own.products)
        across = torch.zeros_like(own.products[:first, first:])
        for start in range(0, self.n, TILE):
            ours = self.sides[0][start : start + TILE, start:]
            theirs = _part(self.sides[1], order[start : start + TILE], order[start:])
            across += _doubled(ours, theirs)
        sums.products[:first, first:], sums.products[first:, :first] = across, across.T
        return self._as_they_are(sums)

    def only(self, images: Tensor) -> GramSums:
        """The sums over some images, the same of both sides."""
        images = images.to(self.images.device)
        left_out = self.images[~torch.isin(self.images, images)]
        rows = self._rows[images] - self._of(images, left_out).sum(dim=1)
        return self._as_they_are(self._sums(images, rows))

    def in_batches(self, first: Tensor, second: Tensor, size: int) -> MinibatchSums:
        """The sums over batches of images as they stand, of each side its own."""
        sums = MinibatchSums(self.count)
        orders = [order.to(self.images.device) for order in (first, second)]
        for batch in torch.arange(len(first), device=self.images.device).split(size):
            if len(batch) >= LEAST_IMAGES:
                grams = [
                    _part(side, order[batch], order[batch])
                    for side, order in zip(self.sides, orders, strict=True)
                ]
                sums.add_sums(_sums_of(torch.cat(grams, dim=2)))
        sums.products *= torch.outer(self._scales, self._scales)
        return sums

    def _as_they_are(self, sums: GramSums) -> GramSums:
        """Sums over the matrices themselves, from those over what is kept of them."""
        sums.products *= torch.outer(self._scales, self._scales)
        for values in (sums.rows, sums.diagonals):
            values *= self._scales[:, None]
        return sums

    def _sums(self, images: Tensor, rows: Tensor) -> GramSums:
        """The sums over some images, from their sums of rows, (images, representations)."""
        sums = GramSums(len(images), self.count, images.device)
        sums.rows.copy_(rows.T)
        sums.diagonals.copy_(torch.cat([side[images, images] for side in self.sides], dim=1).T)
        for start in range(0, len(images), TILE):
            grams = self._of(images[start : start + TILE], images[start:])
            sums.products += _doubled(grams, grams)
        return sums

    def _of(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The matrices of both sides, (rows, columns, representations)."""
        return torch.cat([_part(side, rows, columns) for side in self.sides], dim=2)


def doubly_centred(matrix: Tensor) -> Tensor:
    """A symmetric matrix without the means of its rows and columns: a Gram matrix as it is of
    centred features, so that no sum of HSIC changes, and less cancels."""
    means = matrix.mean(dim=1, dtype=torch.float64)
    return matrix - (means[:, None] + means - means.mean()).to(matrix.dtype)


def _power_of_two(matrix: Tensor) -> float:
    """Near the largest entry; 1 where there is none that is finite and not 0."""
    largest = float(matrix.abs().max())
    return math.ldexp(1.0, math.frexp(largest)[1] - 1) if 0 < largest < math.inf else 1.0


def _part(side: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return side.index_select(0, rows).index_select(1, columns)


def _sums_of(grams: Tensor) -> GramSums:
    """The sums over whole Gram matrices (m, m, representations)."""
    sums = GramSums(len(grams), grams.shape[2], grams.device)
    sums.products.copy_(_product(grams, grams))
    sums.rows.copy_(grams.double().sum(dim=1).T)
    sums.diagonals.copy_(grams.diagonal(dim1=0, dim2=1))
    return sums


def _doubled(one: Tensor, other: Tensor) -> Tensor:
    """Σ K∘L of some rows of the upper half of matrices, (rows, columns, representations), from
    their diagonal on: it stands for the lower half, too."""
    square = slice(0, len(one))
    return 2 * _product(one, other) - _product(one[:, square], other[:, square])


def _product(one: Tensor, other: Tensor) -> Tensor:
    return (one.flatten(0, 1).T @ other.flatten(0, 1)).double()
