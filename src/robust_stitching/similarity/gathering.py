"""What measures need of a stream of batches, gathered for each kind of them, and the values that
follow from it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from robust_stitching.basics.progress import Progress
from robust_stitching.similarity.blocks import Batches, Blocks, floating
from robust_stitching.similarity.forms import Form, Settings
from robust_stitching.similarity.gram import GramMatrices, GramSums, MinibatchSums
from robust_stitching.similarity.measure import PAIRING, Measure
from robust_stitching.similarity.null import Null
from robust_stitching.similarity.rows import Rows
from robust_stitching.similarity.stacks import Stacks, doubly_centred
from robust_stitching.similarity.stream import Batch, Stream

MOST_STACKED = 2**31
"""Bytes of the matrices of all layers of one kind, up to which they are kept for permutations."""

Change = Callable[[Form], Form]


class NotFinite(Exception):
    """A representation, by its number, or the answers of a side (0, 1) are NaN or infinite."""

    def __init__(self, representation: int | None = None, answers: int | None = None):
        super().__init__("values that are no finite numbers")
        self.representation, self.answers = representation, answers


@dataclass
class Values:
    """What measures say of the representations of side 1 and those of side 2, which are numbered
    through.

    Attributes
    ----------
    first : how many representations side 1 has.
    layerwise : name of a measure to its values, float64 of shape (side 1, side 2), NaN where it is
        not defined.
    outputs : name of a measure of answers to its value.
    constant : representations that do not vary.
    undefined : a form to the representations that have none, see `Form.undefined`.
    unestimated : name of a measure to representations that vary, but of which the estimate with
        themselves, by which it divides, is not above 0.
    short : measures that found no more rows than channels somewhere.
    nulls : name of a measure to what its values would be by chance; none where the images' order
        changes nothing.
    best : name of a measure of layers to (side 1, side 2) of its most similar value, and what that
        would be by chance.
    intervals : name of a measure to both ends of the interval of each value; NaN where too few
        images are left without a block.
    """

    first: int
    layerwise: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, float] = field(default_factory=dict)
    constant: set[int] = field(default_factory=set)
    undefined: dict[type[Form], list[int]] = field(default_factory=dict)
    unestimated: dict[str, list[int]] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)
    nulls: dict[str, Null] = field(default_factory=dict)
    best: dict[str, tuple[tuple[int, int], Null]] = field(default_factory=dict)
    intervals: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def of(self, name: str) -> Tensor:
        """The values of a measure, of answers without a dimension."""
        if name in self.layerwise:
            return self.layerwise[name]
        return torch.tensor(self.outputs[name], dtype=torch.float64)

    def check(self, sizes: Tensor, varies: Tensor) -> None:
        """Note which representations do not vary, and refuse those of no finite size."""
        for number, size in enumerate(sizes.tolist()):
            if not math.isfinite(size):
                raise NotFinite(representation=number)
        self.constant |= set((~varies).nonzero()[:, 0].tolist())


class Gathered(Protocol):
    """What was gathered for some measures; see `stream.Part` for how it is kept."""

    def take(self, batch: Batch) -> None:
        """Take in a batch."""

    def finish(self, values: Values, progress: Progress) -> None:
        """Work out the values, once all batches are in."""

    def permuted(self, order: Tensor) -> dict[str, Tensor]:
        """The values with the images of side 2 in another order, of measures that see it."""

    def without(self, block: Tensor) -> dict[str, Tensor]:
        """The values without some images, of measures that are left enough."""


class Answers:
    """The answers of all networks, gathered batch by batch."""

    def __init__(self):
        self._kept: list[list[Tensor]] = []

    def take(self, batch: Batch) -> None:
        self._kept.append([floating(output) for output in batch.outputs])

    def state(self) -> dict[str, Any]:
        """The answers so far."""
        return {"kept": self._kept}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` said."""
        self._kept = state["kept"]

    def logits(self) -> list[Tensor]:
        """Of each network, (n, answers)."""
        return [torch.cat(own) for own in zip(*self._kept, strict=True)]


class Outputs(Answers):
    """Measures of answers."""

    def __init__(
        self, measures: Sequence[Measure], settings: Settings, order: Sequence[int] | None
    ):
        super().__init__()
        self.measures, self.settings, self.order = measures, settings, order

    def take(self, batch: Batch) -> None:
        for side, output in enumerate(batch.outputs):
            if not bool(output.isfinite().all()):
                raise NotFinite(answers=side)
        super().take(batch)

    def finish(self, values: Values, progress: Progress) -> None:
        logits = self.logits()
        if self.order is not None:
            logits[1] = logits[1][:, list(self.order)]
        self.forms = [
            [measure.form.prepared(side, self.settings) for side in logits]
            for measure in self.measures
        ]
        for measure, forms in zip(self.measures, self.forms, strict=True):
            values.outputs[measure.name] = measure.value(*forms)

    def permuted(self, order: Tensor) -> dict[str, Tensor]:
        return self._again(lambda form: form, lambda form: form.permuted(order))

    def without(self, block: Tensor) -> dict[str, Tensor]:
        return self._again(lambda form: form.without(block), lambda form: form.without(block))

    def _again(self, *changes: Change) -> dict[str, Tensor]:
        found = {}
        for measure, forms in zip(self.measures, self.forms, strict=True):
            again = [change(form) for change, form in zip(changes, forms, strict=True)]
            found[measure.name] = torch.tensor(measure.value(*again), dtype=torch.float64)
        return found


class Maps:
    """Measures of whole feature maps: sums over Gram matrices, and the matrices where sums are not
    enough.

    Attributes
    ----------
    batches, blocks : what makes the Gram matrices of each batch, and of all images; None where no
        measure needs them.
    """

    def __init__(
        self,
        measures: Sequence[Measure],
        stream: Stream,
        count: int,
        settings: Settings,
        keeps: bool = False,
    ):
        self.measures, self.settings, self.keeps = measures, settings, keeps
        self.forms: dict[str, list[Form]] = {}
        needed = {measure.form.Sums if measure.pairs else GramMatrices for measure in measures}
        if keeps:
            needed |= {GramSums, GramMatrices}
        self.batches = self.blocks = None
        same = stream.same or range(count)
        if MinibatchSums in needed:
            self.batches = Batches(stream.n, stream.batch_size, same)
        if needed - {MinibatchSums}:
            takers = {GramSums, *needed} - {MinibatchSums}
            size = stream.n, stream.batch_size, count, stream.image_bytes
            self.blocks = Blocks(*size, takers, same=same)

    def take(self, batch: Batch) -> None:
        if self.batches:
            self.batches.add(batch.at, batch.activations)

    def state(self) -> dict[str, Any]:
        """The sums over batches so far; those over all images are in `blocks`."""
        return self.batches.state() if self.batches else {}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` said."""
        if self.batches:
            self.batches.load(state)

    def finish(self, values: Values, progress: Progress) -> None:
        taken = dict(self.blocks.taken) if self.blocks else {}
        if self.batches:
            taken[MinibatchSums] = self.batches.sums
        for measure in self.measures:
            if measure.pairs:
                sums = taken[measure.form.Sums]
                pairs = measure.pairs(sums)
                values.check(sums.products.diagonal(), sums.varies())
                lacking = pairs.diagonal().isnan() & sums.varies()
                if bool(lacking.any()):
                    values.unestimated[measure.name] = lacking.nonzero()[:, 0].tolist()
                values.layerwise[measure.name] = pairs[: values.first, values.first :].cpu()
                continue
            sums = taken[GramSums]
            values.check(sums.products.diagonal(), sums.varies())
            forms = self.forms[measure.name] = [
                measure.form.around(matrix, self.settings)
                for matrix in taken[GramMatrices].matrices
            ]
            values.layerwise[measure.name] = _table(measure, forms, values.first)
        if self.keeps:
            matrices = self.blocks.taken.pop(GramMatrices).matrices
            self.stacks = Stacks(torch.stack(list(map(doubly_centred, matrices))), values.first)

    def permuted(self, order: Tensor) -> dict[str, Tensor]:
        stacks, images = self.stacks, self.stacks.images
        sums = {
            GramSums: lambda: stacks.permuted(order),
            MinibatchSums: lambda: stacks.in_batches(images, order, self.settings.batch_size),
        }
        return self._again(sums, lambda form: form, lambda form: form.permuted(order))

    def without(self, block: Tensor) -> dict[str, Tensor]:
        stacks, images = self.stacks, self.stacks.images
        left = images[~torch.isin(images, block.to(images.device))]
        sums = {
            GramSums: lambda: stacks.only(left),
            MinibatchSums: lambda: stacks.in_batches(left, left, self.settings.batch_size),
        }
        return self._again(sums, lambda form: form.without(block), lambda form: form.without(block))

    def _again(
        self, sums: Mapping[type, Callable[[], Any]], change1: Change, change2: Change
    ) -> dict[str, Tensor]:
        """The values from sums that are taken once each, and from forms of either side that are
        changed."""
        first, found = self.stacks.first, {}
        needed = {measure.form.Sums for measure in self.measures if measure.pairs}
        taken = {kind: sums[kind]() for kind in needed}
        for measure in self.measures:
            if measure.pairs:
                pairs = measure.pairs(taken[measure.form.Sums])
                found[measure.name] = pairs[:first, first:].cpu()
            else:
                forms = self.forms[measure.name]
                changed = [*map(change1, forms[:first]), *map(change2, forms[first:])]
                found[measure.name] = _table(measure, changed, first)
        return found


class ChannelRows:
    """Measures of channels, from the rows of all images."""

    def __init__(self, measures: Sequence[Measure], rows: Rows, settings: Settings):
        self.measures, self.rows, self.settings = measures, rows, settings
        self.forms: dict[tuple[type[Form], int], Form] = {}
        self._stacks: dict[tuple[type[Form], Callable[[Form], Tensor]], Stacks] = {}

    def take(self, batch: Batch) -> None:
        self.rows.add(batch.activations)

    def state(self) -> dict[str, Any]:
        """The rows so far."""
        return self.rows.state()

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` said."""
        self.rows.load(state)

    def finish(self, values: Values, progress: Progress) -> None:
        rows = self.rows
        rows.finish()
        norms = torch.stack([side.norm for side in rows.any_of()])
        values.check(norms, norms > 0)
        self._prepare(values, progress)
        with progress(len(rows.pairs()), "comparing channels", " pairs") as bar:
            found, values.short = self._compared(self.measures, self.forms, rows.n, bar.update)
        values.layerwise |= found

    def permuted(self, order: Tensor) -> dict[str, Tensor]:
        asked = [m for m in self.measures if PAIRING not in m.ignores]
        stacked = [m for m in asked if m.stacked and self._can_be_stacked()]
        measures = [m for m in asked if m not in stacked]
        second = {id(side) for number, side in self.rows.all_of() if number >= self.rows.first}
        asked = {measure.form for measure in measures}
        forms = {
            (kind, side): form.permuted(order) if side in second else form.lasting()
            for (kind, side), form in self.forms.items()
            if kind in asked
        }
        sums = cache(lambda stacks: stacks.permuted(order))
        first = self.rows.first
        return self._compared(measures, forms, len(order))[0] | {
            m.name: m.stacked.values(sums(self._stacks_of(m)))[:first, first:].cpu()
            for m in stacked
        }

    def _can_be_stacked(self) -> bool:
        """Whether a layer has the same rows beside every other, and all matrices have room."""
        rows = self.rows
        return rows.pooled and 4 * len(rows.layouts) * rows.n**2 <= MOST_STACKED

    def _stacks_of(self, measure: Measure) -> Stacks:
        """The matrices of all layers that a measure asks for, made once."""
        kind = measure.form, measure.stacked.matrix
        if kind not in self._stacks:
            forms = [self.forms[measure.form, id(side)] for _, side in self.rows.all_of()]
            matrices = torch.stack([measure.stacked.matrix(form) for form in forms])
            self._stacks[kind] = Stacks(matrices, self.rows.first)
        return self._stacks[kind]

    def without(self, block: Tensor) -> dict[str, Tensor]:
        left = self.rows.n - len(block)
        measures = [m for m in self.measures if not m.too_few(left, self.settings)]
        asked = {measure.form for measure in measures}
        forms = {key: form.without(block) for key, form in self.forms.items() if key[0] in asked}
        return self._compared(measures, forms, left)[0]

    def _compared(
        self,
        measures: Sequence[Measure],
        forms: Mapping[tuple[type[Form], int], Form],
        n: int,
        after_pair: Callable[[], Any] = lambda: None,
    ) -> tuple[dict[str, Tensor], set[str]]:
        """The values of all pairs by their forms of n images, and the measures that found too few
        rows somewhere."""
        rows, short = self.rows, set()
        shape = rows.first, len(rows.layouts) - rows.first
        found = {m.name: torch.full(shape, torch.nan, dtype=torch.float64) for m in measures}
        for i, j in rows.pairs():
            pair = rows.pair(i, j)
            for measure in measures:
                if all(pair[number - 1].enough_of(n) for number in measure.more_rows_than):
                    own = (forms[measure.form, id(side)] for side in pair)
                    found[measure.name][i, j] = measure.value(*own)
                else:
                    short.add(measure.name)
            after_pair()
        return found, short

    def _prepare(self, values: Values, progress: Progress) -> None:
        """Make the forms that are needed of the rows, by the identity of these."""
        every, forms = self.rows.all_of(), self.forms
        for kind in dict.fromkeys(measure.form for measure in self.measures):
            values.undefined[kind] = []
            with progress(len(every), kind.preparing, " layers") as bar:
                for number, side in every:
                    form = forms[kind, id(side)] = kind.prepared(side, self.settings)
                    if not form.defined:
                        values.undefined[kind].append(number)
                    bar.update()


def _table(measure: Measure, forms: Sequence[Form], first: int) -> Tensor:
    """The values of every form of side 1, the first so many, with every other."""
    table = [[measure.value(x, y) for y in forms[first:]] for x in forms[:first]]
    return torch.tensor(table, dtype=torch.float64)
