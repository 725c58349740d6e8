"""Gram matrices of feature maps, made while batches stream past.

Feature maps of many images lie beside each other as rows of numbers, moved by a mean, so that
nothing large cancels: HSIC is the same wherever the origin is. Products are as exact as the
activations, float32 at least. `benchmarks/cka.py` measures the distance to float64 throughout.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from robust_stitching.basics.memory import available
from robust_stitching.similarity.gram import GramMatrices, GramSums, MinibatchSums

BLOCK_BYTES = 2**30
SHARE = 4
"""Of what is free, the part that a block may take is one of so many."""

ROUNDING = 4
"""Steps of the precision: what varies by no more of its mean is constant."""

MOST_MEAN = 0.5
"""Of the squared length of rows, on average: where their mean has more, it is taken away."""


class Room:
    """Where the activations of some images lie, of every representation, in memory that is used
    again and again, without the mean of those that came first.

    Parameters
    ----------
    size : how many images have a place.
    same : for each representation the number of the first that is the same, which alone is laid
        down.
    """

    def __init__(self, size: int, same: Sequence[int]):
        self.size = size
        self._differing = sorted(set(same))
        self._which = [self._differing.index(number) for number in same]
        self._shift: list[Tensor] = []
        self._faint: list[bool] = []
        self._maps: list[Tensor] = []

    def put(self, place: int, activations: Sequence[Tensor]) -> None:
        """Lay activations (m, …) of every representation down from `place` on."""
        for slot, number in enumerate(self._differing):
            values = floating(activations[number])
            if slot == len(self._shift):
                mean = values.mean(dim=0, keepdim=True, dtype=torch.float64)
                self._shift.append(_empty_like(values, 1).copy_(mean))
            if slot == len(self._maps):
                self._maps.append(_empty_like(values, self.size))
            own = self._maps[slot][place : place + len(values)]
            torch.sub(values, self._shift[slot], out=own)
            if slot == len(self._faint):
                largest = _rounding(self._shift[slot]).norm() * len(own) ** 0.5
                self._faint.append(bool(own.norm() <= largest))
            if self._faint[slot]:
                own.masked_fill_(own.abs() <= _rounding(self._shift[slot]), 0)

    def rows(self, first: int, last: int) -> list[Tensor]:
        """What lies at the places from `first` to before `last`, (last − first, features) of each
        that differs. Its features stand in the order in which they lie in memory, which no product
        of rows depends on."""
        return [_flat(maps[first:last]) for maps in self._maps]

    def stacked(self, matrices: Sequence[Tensor]) -> Tensor:
        """What was made of each that differs, stacked, of every representation."""
        return torch.stack([matrices[number] for number in self._which])

    def state(self) -> dict[str, Any]:
        """What has been decided by the first images."""
        return {"shift": self._shift, "faint": self._faint}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` said."""
        self._shift, self._faint = state["shift"], state["faint"]


class Batches:
    """Gram matrices of each batch by itself, for minibatch CKA.

    Parameters
    ----------
    same : see `Room`.

    Attributes
    ----------
    sums : over those of the batches that are whole.
    """

    def __init__(self, n: int, batch_size: int, same: Sequence[int]):
        self.n, self.batch_size = n, batch_size
        self.sums = MinibatchSums(len(same))
        self._room = Room(min(batch_size, n), same)

    def add(self, at: int, activations: Sequence[Tensor]) -> None:
        """Take in the activations (m, …) of every representation for the images from `at` on, all
        of one batch."""
        place, end = at % self.batch_size, at + len(activations[0])
        self._room.put(place, activations)
        if end % self.batch_size and end < self.n:
            return
        rows = self._room.rows(0, end - at + place)
        found = self._room.stacked(grams(rows))
        squares = found.diagonal(dim1=1, dim2=2).sum(dim=1)
        if bool((found.sum(dim=(1, 2)) > MOST_MEAN * len(rows[0]) * squares).any()):
            for own in rows:
                own.sub_(own.mean(dim=0))
            found = self._room.stacked(grams(rows))
        self.sums.add(found)

    def state(self) -> dict[str, Any]:
        """What has been taken in of whole batches."""
        return {"room": self._room.state(), "products": self.sums.products}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` said."""
        self._room.load(state["room"])
        self.sums.products = state["products"]


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
    same : see `Room`; all differ if left out.

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
        same: Sequence[int] | None = None,
    ):
        grams = 16 * count * batch_size  # float32 twice and float64, for one image of a block
        self.size = (
            max(1, (block_bytes or BLOCK_BYTES) // ((image_bytes + grams) * batch_size))
            * batch_size
        )
        self.n, self.batch_size, self.takers = n, batch_size, takers
        self.starts = range(0, max(n, 1), self.size)
        self.taken: dict[Callable, GramSums | GramMatrices] = {}
        beyond = batch_size if self.size < n else 0
        self._room = Room(min(self.size, n) + beyond, same or range(count))

    def add(self, start: int, at: int, activations: Sequence[Tensor]) -> None:
        """Take in the activations (m, …) of every representation for the images from `at` on, all
        of one batch, in the pass that began at `start`."""
        self.fill(start, at, activations)
        end = at + len(activations[0])
        if end % self.batch_size and end < self.n:
            return
        at -= at % self.batch_size
        before, inside = min(at, self._end(start)) - start, at < self._end(start)
        place = self._place(start, at)
        block, batch = self._room.rows(0, before), self._room.rows(place, place + end - at)
        across = [own.mm(rows.T) for own, rows in zip(block, batch, strict=True)]
        pieces = [(slice(start, start + before), self._room.stacked(across))]
        del across  # before they are taken in
        columns = slice(at, end)
        if inside:
            pieces.append((columns, self._room.stacked(grams(batch))))
        for taker in self.takers:
            if taker not in self.taken:
                self.taken[taker] = taker(self.n, len(activations), batch[0].device)
            for own, matrices in pieces:
                self.taken[taker].add(own, columns, matrices)

    def fill(self, start: int, at: int, activations: Sequence[Tensor]) -> None:
        """Put the activations of images where they belong, without a product."""
        self._room.put(self._place(start, at), activations)

    def _place(self, start: int, at: int) -> int:
        """Of an image: those beyond the block share the places behind it."""
        inside = at < self._end(start)
        return at - start if inside else self.size + at % self.batch_size

    def _end(self, start: int) -> int:
        return min(start + self.size, self.n)

    def state(self) -> dict[str, Any]:
        """What has been taken in; the block itself has to be filled again."""
        taken = [*map(vars, self.taken.values())]
        names = [taker.__name__ for taker in self.taken]
        return {"room": self._room.state(), "takers": names, "taken": taken}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` said."""
        self._room.load(state["room"])
        known = {taker.__name__: taker for taker in self.takers}
        for name, values in zip(state["takers"], state["taken"], strict=True):
            self.taken[known[name]] = object.__new__(known[name])
            vars(self.taken[known[name]]).update(values)


def largest_block(device: torch.device | str) -> int:
    """How many bytes a block may take: `BLOCK_BYTES`, and more where a device has memory to spare,
    a quarter of that, so that fewer passes are needed. Values do not depend on it but for
    rounding."""
    return max(BLOCK_BYTES, available(device) // SHARE)


def grams(rows: Sequence[Tensor]) -> list[Tensor]:
    """rows @ rows.T, (m, m), of rows (m, features) of each representation.

    On a CPU by the symmetric product of BLAS, which is half the work and which torch has not, of as
    many representations at a time as torch has threads.
    """
    if rows[0].device.type != "cpu":
        return [own @ own.T for own in rows]
    threads = torch.get_num_threads()
    with (
        _alone,
        _blas().limit(limits=1, user_api="blas"),
        ThreadPoolExecutor(threads) as pool,
    ):
        return [torch.from_numpy(found) for found in pool.map(_gram, rows)]


def _gram(rows: Tensor) -> np.ndarray:
    array = rows.numpy()
    return array @ array.T


_alone = Lock()  # the limit is that of the process


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def floating(values: Tensor) -> Tensor:
    """Values in the precision in which they are worked with: their own, but float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def centred(activations: Tensor) -> Tensor:
    """Activations (n, …) as rows (n, features) without their mean, constant features 0."""
    rows = floating(activations).flatten(1)
    mean = rows.mean(dim=0, dtype=torch.float64).to(rows.dtype)
    rows = rows - mean
    return rows.masked_fill_(rows.abs() <= _rounding(mean), 0)


def _rounding(mean: Tensor) -> Tensor:
    """By how much features of that mean may vary and be constant."""
    return ROUNDING * torch.finfo(mean.dtype).eps * mean.abs()


def _empty_like(values: Tensor, size: int) -> Tensor:
    """Room for the activations of so many images, laid as those of these are."""
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        order = torch.channels_last
    else:
        order = torch.contiguous_format
    shape, how = (size, *values.shape[1:]), {"dtype": values.dtype, "device": values.device}
    return torch.empty(shape, memory_format=order, **how)


def _flat(maps: Tensor) -> Tensor:
    """Maps (n, …) as rows (n, features) without a copy."""
    return maps.flatten(1) if maps.is_contiguous() else maps.movedim(1, -1).flatten(1)
