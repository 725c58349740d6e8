"""The values of many measures for all pairs of two sides' representations, in as few passes over
the images as they need."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints.state import StateFile
from robust_stitching.graphs.layout import Layout
from robust_stitching.similarity.forms import CHANNELS, MAPS, OUTPUTS, Form, Settings
from robust_stitching.similarity.gram import Blocks, GramMatrices, GramSums, MinibatchSums, floating
from robust_stitching.similarity.measure import Measure
from robust_stitching.similarity.rows import Rows
from robust_stitching.similarity.stream import Batch, Kept, Stream


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
    short : measures that found no more rows than channels somewhere.
    """

    first: int
    layerwise: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, float] = field(default_factory=dict)
    constant: set[int] = field(default_factory=set)
    undefined: dict[type[Form], list[int]] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)

    def check(self, sizes: Tensor, varies: Tensor) -> None:
        """Note which representations do not vary, and refuse those of no finite size."""
        for number, size in enumerate(sizes.tolist()):
            if not math.isfinite(size):
                raise NotFinite(representation=number)
        self.constant |= set((~varies).nonzero()[:, 0].tolist())


def values_of(
    measures: Sequence[Measure],
    stream: Stream,
    layouts: tuple[Sequence[Layout], Sequence[Layout]],
    settings: Settings,
    order: Sequence[int] | None = None,
    progress: Progress = silent,
    state: StateFile | None = None,
) -> Values:
    """The values of `measures` for every representation of side 1 with every one of side 2.

    At the same time in memory are a batch at all layers, what measures of channels and of answers
    keep of every image, and the block of `Blocks` where Gram matrices of all images are needed.

    Parameters
    ----------
    stream : of which a batch holds the representations of side 1, then those of side 2, and the
        answers of both sides.
    layouts : what each representation of an image holds.
    order : for each answer of side 1 the number of the same one of side 2; as they stand if left
        out.
    state : where what was gathered is kept, from which a later call goes on.

    Raises
    ------
    NotFinite : for values that are NaN or infinite, where they are looked at.
    """
    of_outputs, of_maps, of_channels = (
        [measure for measure in measures if measure.of == kind]
        for kind in (OUTPUTS, MAPS, CHANNELS)
    )
    values, count = Values(len(layouts[0])), sum(map(len, layouts))
    parts: list[_Outputs | _Maps | _Channels] = []
    blocks = None
    if of_outputs:
        parts.append(_Outputs(of_outputs, settings, order))
    if of_maps:
        parts.append(_Maps(of_maps, stream, count, settings))
        blocks = parts[-1].blocks
    if of_channels:
        rows = Rows(layouts, stream.n, settings.positions, settings.seed)
        parts.append(_Channels(of_channels, rows, settings))
    kept = Kept(state or StateFile(), parts)
    stream.gather([part.take for part in parts], blocks, progress, kept=kept)
    for part in parts:
        part.finish(values, progress)
    return values


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


class _Outputs(Answers):
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
        for measure in self.measures:
            forms = [measure.form.prepared(side, self.settings) for side in logits]
            values.outputs[measure.name] = measure.value(*forms)


class _Maps:
    """Measures of whole feature maps: sums over Gram matrices, and the matrices where sums are not
    enough.

    Attributes
    ----------
    blocks : what makes the Gram matrices of all images; None where no measure needs them.
    """

    def __init__(self, measures: Sequence[Measure], stream: Stream, count: int, settings: Settings):
        self.measures, self.settings = measures, settings
        needed = {measure.form.Sums if measure.pairs else GramMatrices for measure in measures}
        self.minibatch = MinibatchSums(count) if MinibatchSums in needed else None
        self.blocks = None
        if needed - {MinibatchSums}:
            takers = {GramSums, *needed} - {MinibatchSums}
            self.blocks = Blocks(stream.n, stream.batch_size, count, stream.image_bytes, takers)

    def take(self, batch: Batch) -> None:
        if self.minibatch:
            self.minibatch.add(batch.activations)

    def state(self) -> dict[str, Any]:
        """The sums over batches so far; those over all images are in `blocks`."""
        return {"products": self.minibatch and self.minibatch.products}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` said."""
        if self.minibatch:
            self.minibatch.products = state["products"]

    def finish(self, values: Values, progress: Progress) -> None:
        taken = {MinibatchSums: self.minibatch, **(self.blocks.taken if self.blocks else {})}
        for measure in self.measures:
            if measure.pairs:
                sums = taken[measure.form.Sums]
                pairs = measure.pairs(sums)
                values.check(sums.products.diagonal(), ~pairs.diagonal().isnan())
                values.layerwise[measure.name] = pairs[: values.first, values.first :].cpu()
                continue
            sums = taken[GramSums]
            values.check(sums.products.diagonal(), sums.biased().diagonal() > 0)
            forms = [
                measure.form.around(matrix, self.settings)
                for matrix in taken[GramMatrices].matrices
            ]
            ones, others = forms[: values.first], forms[values.first :]
            table = [[measure.value(x, y) for y in others] for x in ones]
            values.layerwise[measure.name] = torch.tensor(table, dtype=torch.float64)


class _Channels:
    """Measures of channels, from the rows of all images."""

    def __init__(self, measures: Sequence[Measure], rows: Rows, settings: Settings):
        self.measures, self.rows, self.settings = measures, rows, settings

    def take(self, batch: Batch) -> None:
        self.rows.add(batch.activations)

    def state(self) -> dict[str, Any]:
        """The rows so far."""
        return self.rows.state()

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` said."""
        self.rows.load(state)

    def finish(self, values: Values, progress: Progress) -> None:
        rows, pairs = self.rows, self.rows.pairs()
        rows.finish()
        norms = torch.stack([side.norm for side in rows.any_of()])
        values.check(norms, norms > 0)
        forms = self._prepared(values, progress)
        shape = (values.first, len(rows.layouts) - values.first)
        for measure in self.measures:
            values.layerwise[measure.name] = torch.full(shape, torch.nan, dtype=torch.float64)
        with progress(len(pairs), "comparing channels", " pairs") as bar:
            for i, j in pairs:
                pair = rows.pair(i, j)
                for measure in self.measures:
                    if all(pair[number - 1].enough for number in measure.more_rows_than):
                        own = (forms[measure.form, id(side)] for side in pair)
                        values.layerwise[measure.name][i, j] = measure.value(*own)
                    else:
                        values.short.add(measure.name)
                bar.update()

    def _prepared(self, values: Values, progress: Progress) -> dict[tuple[type[Form], int], Form]:
        """The forms that are needed of the rows, by the identity of these."""
        every, forms = self.rows.all_of(), {}
        for kind in dict.fromkeys(measure.form for measure in self.measures):
            values.undefined[kind] = []
            with progress(len(every), kind.preparing, " layers") as bar:
                for number, side in every:
                    form = forms[kind, id(side)] = kind.prepared(side, self.settings)
                    if not form.defined:
                        values.undefined[kind].append(number)
                    bar.update()
        return forms
