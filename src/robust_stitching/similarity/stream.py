"""Activations and answers, batch by batch, and what gathers them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from robust_stitching.basics.modes import evaluating, without_tf32
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints.state import DAMAGE, StateFile
from robust_stitching.data import AnySplit
from robust_stitching.graphs import graph
from robust_stitching.graphs.folding import alike, folded, samples
from robust_stitching.graphs.layout import Layout
from robust_stitching.similarity.blocks import Blocks

AT_ONCE = 64
"""Images that go through networks together on a CPU: their activations stay near it."""


ROUNDING = 1e-4  # of the norm of what is compared; few images beside another differ by more


class Batch(NamedTuple):
    """What is seen of a batch of images, or of a part of one: `at` is the number of the first, in
    the order of the pass; `activations` are those of every layer of every network, `outputs` the
    answers of the networks that are asked for them."""

    at: int
    activations: list[Tensor]
    outputs: list[Tensor]

    @property
    def end(self) -> int:
        """The number of the image behind the last."""
        return self.at + len([*self.activations, *self.outputs][0])


class Stream(ABC):
    """Batches of the activations of the same images at many layers.

    Attributes
    ----------
    n : number of images.
    batch_size : of how many images batches are, the last of what is left.
    image_bytes : what the activations of one image take.
    same : for each representation the number of the first that is the same, whatever the images;
        None where all differ.
    """

    n: int
    batch_size: int
    image_bytes: int
    same: Sequence[int] | None = None

    @abstractmethod
    def batches(self, start: int = 0) -> Iterator[Batch]:
        """The images from number `start` on, a multiple of the batch size: the same each time.
        What lies in one part belongs to one batch."""

    @abstractmethod
    def looking(self) -> AbstractContextManager[None]:
        """What `batches` has to run in."""

    def gather(
        self,
        takers: Sequence[Callable[[Batch], None]],
        blocks: Blocks | None = None,
        progress: Progress = silent,
        what: str = "comparing",
        kept: "Kept | None" = None,
    ) -> None:
        """Hand every batch once to each of `takers`, and to `blocks` as often as it needs: as many
        passes over the images as that is, one without it.

        Parameters
        ----------
        kept : where the state is kept from which a later call goes on, bit for bit.
        """
        kept = kept or Kept()
        starts = blocks.starts if blocks else range(1)
        pass_begun, at = kept.take_up(blocks)
        total = sum(self.n - start for start in starts)
        with kept.file.watching(), self.looking(), progress(total, what) as bar:
            for start in starts:
                begin = max(start, at if start == pass_begun else 0)
                if start < pass_begun or begin >= self.n:
                    bar.update(self.n - start)
                    continue
                bar.update(begin - start)
                if blocks:
                    self._fill_again(blocks, start, begin)
                for batch in self.batches(begin):
                    if blocks:
                        blocks.add(start, batch.at, batch.activations)
                    if start == 0:
                        for taker in takers:
                            taker(batch)
                    at, end = batch.at, batch.end
                    del batch  # before the next one is computed
                    bar.update(end - at)
                    if end % self.batch_size == 0 or end == self.n:
                        kept.after_batch(blocks, start, end)

    def _fill_again(self, blocks: Blocks, start: int, begin: int) -> None:
        """Give `blocks` the activations of its block again, which no state keeps."""
        for batch in self.batches(start) if start < begin else ():
            if batch.at >= min(begin, start + blocks.size):
                break
            blocks.fill(start, batch.at, batch.activations)


class Part(Protocol):
    """What gathers batches and can say what it has gathered, in tensors and plain values."""

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on."""

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` said."""


@dataclass(frozen=True)
class Kept:
    """The state of a gathering.

    Attributes
    ----------
    file : where it lies.
    parts : what gathers.
    """

    file: StateFile = field(default_factory=StateFile)
    parts: Sequence[Part] = ()

    def take_up(self, blocks: Blocks | None) -> tuple[int, int]:
        """Load what was kept; returns at which image the pass under way began, and where it was."""
        kept = self.file.read()
        if kept is None:
            return 0, 0
        try:
            for part, state in zip(self.parts, kept["parts"], strict=True):
                part.load(state)
            if blocks:
                blocks.load(kept["blocks"])
            return kept["start"], kept["at"]
        except DAMAGE as error:
            raise self.file.damaged(error) from error

    def after_batch(self, blocks: Blocks | None, start: int, at: int) -> None:
        """Keep the state where it is time, and where there was an interruption."""

        def state() -> dict[str, Any]:
            return {
                "start": start,
                "at": at,
                "parts": [part.state() for part in self.parts],
                "blocks": blocks and blocks.state(),
            }

        self.file.keep(state)
        self.file.after_step(state)


class NetworkStream(Stream):
    """What networks make of the images of a split.

    Parameters
    ----------
    looked_at : networks, each with its layers: name to layout. One that comes again is run once,
        and what is seen of it are the same tensors.
    seed : of the order of the images; None leaves them as they are.
    answering : the numbers of those whose answers are wanted; None takes all.
    fold : whether batch norms are folded where nobody looks at the convolution before them; what
        is seen is then the same but for rounding.
    """

    def __init__(
        self,
        looked_at: Sequence[tuple[nn.Module, Mapping[str, Layout]]],
        split: AnySplit,
        batch_size: int,
        seed: int | None = None,
        answering: Collection[int] | None = None,
        fold: bool = False,
    ):
        self.n, self.batch_size, self.seed = len(split), batch_size, seed
        self.split = replace(split, augmentation=None)
        self.answering = range(len(looked_at)) if answering is None else answering
        self._asked = [
            (id(network), [*layers, *[graph.LOGITS] * (number in self.answering)])
            for number, (network, layers) in enumerate(looked_at)
        ]
        self._names = {id(network): [] for network, _ in looked_at}
        for key, names in self._asked:
            self._names[key] = list(dict.fromkeys([*self._names[key], *names]))
        seen = [(id(network), layer) for network, layers in looked_at for layer in layers]
        self.same = [seen.index(representation) for representation in seen]
        networks = {id(network): network for network, _ in looked_at}
        pieces = [graph.features(networks[key], names) for key, names in self._names.items()]
        self.pieces = [folded(piece) for piece in pieces] if fold else pieces
        self._at_once = at_once(self.pieces, [*networks.values()], batch_size)
        self.image_bytes = 4 * sum(
            layout.units for _, layers in looked_at for layout in layers.values()
        )

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for images, _ in self._images(start):
            for part in images.split(self._at_once):
                yield self._seen(start, part)
                start += len(part)

    def looking(self) -> AbstractContextManager[None]:
        return evaluating(*self.pieces)

    def _images(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        if self.seed is None:
            return self.split.between(start, self.n).batches(self.batch_size)
        skip = start // self.batch_size
        return self.split.epoch(self.batch_size, seed=self.seed, epoch=0, skip=skip, fold=False)

    def _seen(self, at: int, images: Tensor) -> Batch:
        """Held by the caller alone."""
        seen = {
            key: dict(zip(names, piece(images), strict=True))
            for (key, names), piece in zip(self._names.items(), self.pieces, strict=True)
        }
        features = [[seen[key][name] for name in names] for key, names in self._asked]
        outputs = [features[number].pop() for number in self.answering]
        return Batch(at, [values for activations in features for values in activations], outputs)


def at_once(pieces: Sequence[nn.Module], networks: Sequence[nn.Module], batch_size: int) -> int:
    """How many images of a batch go together through pieces of networks, one of each."""
    in_parts = all(map(_may_come_in_parts, pieces, networks))
    return AT_ONCE if in_parts else batch_size


def _may_come_in_parts(piece: nn.Module, network: nn.Module) -> bool:
    """Whether it is on a CPU, and what a piece of it makes of an image does not depend on those
    beside it, as it does behind batch norms without statistics of their own."""
    images = samples(network, 4)
    if images.device.type != "cpu":
        return False
    try:
        with evaluating(piece), torch.random.fork_rng(devices=[]):
            together = piece(images.clone())
            halves = [piece(half.clone()) for half in images.split(2)]
    except Exception:  # a network of somebody else's may raise anything
        return False
    seen = zip(together, *halves, strict=True)
    return all(alike(torch.cat(parts), own, ROUNDING) for own, *parts in seen)


class ArrayStream(Stream):
    """Arrays as they are, each of the same n images: (n, …)."""

    def __init__(self, arrays: Sequence[Tensor], batch_size: int):
        self.arrays, self.n, self.batch_size = arrays, len(arrays[0]), batch_size
        self.image_bytes = sum(array[0].numel() * array.element_size() for array in arrays)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for at in range(start, self.n, self.batch_size):
            seen = [array[at : at + self.batch_size] for array in self.arrays]
            yield Batch(at, seen, seen)

    def looking(self) -> AbstractContextManager[None]:
        return without_tf32()
