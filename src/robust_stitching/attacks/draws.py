"""Random numbers that belong to an image, whatever batch it is attacked in.

The images of a split stand in blocks of `BLOCK` by their place in it. Each block has a stream of
its own, from which numbers are drawn for the whole block and then selected: what an image gets
depends neither on the size of the batches, nor on which others are attacked with it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from robust_stitching.basics.seeds import generator_for

BLOCK = 250


class Draws:
    """The numbers of N images, a next one with every call.

    Parameters
    ----------
    places : where the images stand, int64 of shape (N,), on the CPU.
    streams : the generator of each block that has one of them.
    block : how many places a block has.
    """

    def __init__(self, places: Tensor, streams: dict[int, torch.Generator], block: int = BLOCK):
        self.places, self.streams, self.block = places, streams, block

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) of shape (N, *shape)."""
        return self._draw(torch.rand, shape)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers of shape (N, *shape)."""
        return self._draw(torch.randn, shape)

    def among(self, rows: Tensor) -> "Draws":
        """Those of some of the images, by a mask or by numbers, best on the CPU; the streams are
        the same ones."""
        return Draws(self.places[rows.cpu()], self.streams, self.block)

    def _draw(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        drawn = torch.empty(len(self.places), *shape)
        blocks = self.places // self.block
        for number in blocks.unique().tolist():
            mine = blocks == number
            whole = draw((self.block, *shape), generator=self.streams[number])
            drawn[mine] = whole[self.places[mine] % self.block]
        return drawn


def draws_at(places: Tensor, *seeds: int | str) -> Draws:
    """The numbers that `seeds` give to the images at `places` (N,)."""
    blocks = (places.cpu() // BLOCK).unique().tolist()
    return Draws(places.cpu(), {number: generator_for(*seeds, number) for number in blocks})


def draws_from(source: "torch.Generator | Draws", n: int) -> Draws:
    """`source`, or what a generator draws for a batch of `n` images as a whole."""
    if isinstance(source, Draws):
        return source
    return Draws(torch.arange(n), {0: source}, block=n)
