"""Two networks compared, all layers with all layers, by many measures in one pass over the data."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.basics.modes import evaluating
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.graphs.wrong_network import telling_whose_layer
from robust_stitching.similarity import neighbours
from robust_stitching.similarity.cka import MinibatchSums, blockwise_sums
from robust_stitching.similarity.divergence import disagreement, jensen_shannon
from robust_stitching.similarity.gram import LEAST_IMAGES, normalised
from robust_stitching.similarity.measures import (
    CHANNELS,
    DEFAULT,
    MEASURES,
    MULTI_LABEL,
    Measure,
    chosen,
    too_few,
)
from robust_stitching.similarity.rows import POOLED, POSITIONS, Rows
from robust_stitching.similarity.stream import Side, Stream, side_of

BATCH_SIZE = 250
WHOLE = ("cka", "debiased-cka")
"""Measures that need the Gram matrices of all images."""


@dataclass(frozen=True)
class Comparison:
    """How alike two networks are.

    Attributes
    ----------
    layers1, layers2 : names of the layers that were compared.
    measures : those that have a value here, in the order in which they are shown.
    layerwise : name of a measure to its values, float64 of shape (layers1, layers2); NaN where it
        is not defined.
    outputs : name of a measure of the networks' answers to its value.
    estimators : name of a measure to exactly what was computed.
    n_images : name of a measure to how many images it was taken over.
    positions : what measures of channels took for rows, see `rows.Rows`.
    data : the dataset's name.
    notes : what a reader has to know, in sentences.
    """

    layers1: tuple[str, ...]
    layers2: tuple[str, ...]
    measures: tuple[Measure, ...]
    layerwise: Mapping[str, Tensor]
    outputs: Mapping[str, float]
    estimators: Mapping[str, str]
    n_images: Mapping[str, int]
    positions: str
    data: str
    notes: tuple[str, ...]
    seconds: float


def compare(
    network1: nn.Module,
    network2: nn.Module,
    split: AnySplit,
    layers1: Sequence[str] | None = None,
    layers2: Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    k: int = neighbours.K,
    positions: str = POOLED,
    seed: int = 0,
    order: Sequence[int] | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare layers of two networks, and their answers, on the images of `split`.

    One pass gives all measures but those of `WHOLE`, which take more, see `cka.blockwise_sums`. At
    the same time in memory are the activations of a batch at all layers of both networks, and for
    each image the channels of every layer, averaged over positions. The networks stay as they are.

    Parameters
    ----------
    layers1, layers2 : by default the clean cuts, see `graph.Layer`.
    measures : names from `measures.MEASURES`, or "all"; by default those of `measures.DEFAULT` that
        are defined here.
    batch_size : also that of minibatch CKA.
    k : how many neighbours "mutual-knn" looks at.
    positions : what measures of channels take for rows, see `rows.Rows`.
    seed : of the order in which images are put into batches, and of the choice of positions.
    order : for each answer of network 1 the number of the same one of network 2; as they stand if
        left out.

    Raises
    ------
    UserError : for unknown layers or measures, too few images for a measure that was asked for, and
        where nothing can be compared.
    """
    started = time.perf_counter()
    n = len(split)
    sides, wanted, notes = prepared(
        network1,
        network2,
        split,
        layers1,
        layers2,
        measures,
        batch_size=batch_size,
        k=k,
        positions=positions,
    )
    stream = Stream(sides, split, batch_size, seed)
    with evaluating(*stream.pieces):
        rows = Rows(tuple([*side.layers.values()] for side in sides), n, positions, seed)
        found, outputs, n_minibatch = _one_pass(stream, wanted, rows, k, order, progress, notes)
        if any(measure.name in WHOLE for measure in wanted):
            found |= _all_images(stream, progress)
    notes += _undefined(wanted, stream, rows)
    estimators = MULTI_LABEL if stream.multi_label else {}
    return Comparison(
        layers1=tuple(sides[0].layers),
        layers2=tuple(sides[1].layers),
        measures=wanted,
        layerwise={m.name: found[m.name].cpu() for m in wanted if not m.of_outputs},
        outputs={m.name: outputs[m.name] for m in wanted if m.of_outputs},
        estimators={
            m.name: estimators.get(m.name, m.estimator_for(batch_size, k, rows.told()))
            for m in wanted
        },
        n_images={m.name: n_minibatch if m.name == "minibatch-cka" else n for m in wanted},
        positions=positions,
        data=split.name,
        notes=tuple(notes),
        seconds=time.perf_counter() - started,
    )


def prepared(
    network1: nn.Module,
    network2: nn.Module,
    split: AnySplit,
    layers1: Sequence[str] | None = None,
    layers2: Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    k: int = neighbours.K,
    positions: str = POOLED,
) -> tuple[tuple[Side, Side], tuple[Measure, ...], list[str]]:
    """What `compare` looks at: both sides with their layers, the measures, and why others are left
    out. It raises what that raises, before any image is looked at."""
    n, notes = len(split), list(split.notes)
    if n < 2:
        raise UserError(f"{n} image is too few to compare anything; take at least 2.")
    if positions not in POSITIONS:
        raise unknown("choice of positions", positions, POSITIONS)
    with telling_whose_layer(("model 1", network1, layers1), ("model 2", network2, layers2)):
        sides = (side_of(1, network1, layers1), side_of(2, network2, layers2))
    named = chosen(DEFAULT if measures is None else measures)
    biased = [side for side in sides if any(lay.units > n for lay in side.layers.values())]
    if MEASURES["cka"] in named and biased and n >= LEAST_IMAGES:
        named = chosen([measure.name for measure in named] + ["debiased-cka"])
    wanted = tuple(m for m in named if _is_defined(m, sides, notes))
    for measure in wanted:
        lacking = too_few(measure, n, batch_size, k)
        if positions == POOLED:
            lacking = lacking or _too_wide(measure, sides, n)
        if lacking and measures is not None:
            raise UserError(f"{lacking}.")
        if lacking:
            notes.append(f"{lacking}: it is left out.")
            wanted = tuple(m for m in wanted if m != measure)
    if not wanted:
        raise UserError(f"nothing can be compared. {' '.join(notes)}")
    return sides, wanted, notes


def _is_defined(measure: Measure, sides: tuple[Side, Side], notes: list[str]) -> bool:
    """Whether these networks can be compared by `measure`; `notes` gains why not."""
    first, second = sides
    if not measure.of_outputs or first.answers == second.answers:
        return True
    notes.append(
        f"Model 1 has {first.answers} outputs and model 2 {second.answers}: "
        f"{measure.name} is left out."
    )
    return False


def _too_wide(measure: Measure, sides: tuple[Side, Side], n: int) -> str | None:
    """Why no pair of layers has a value, if it has not."""
    for side in sides:
        needs = side.number in measure.more_rows_than
        if needs and len(side.too_wide(n)) == len(side.layers):
            fewest = min(layout.channels for layout in side.layers.values())
            return (
                f"{measure.name} needs more images than channels, but there are {n} images, and "
                f"{fewest} channels or more at every layer of model {side.number}"
            )
    return None


def _one_pass(
    stream: Stream,
    wanted: Sequence[Measure],
    rows: Rows,
    k: int,
    order: Sequence[int] | None,
    progress: Progress,
    notes: list[str],
) -> tuple[dict[str, Tensor], dict[str, float], int]:
    """The measures that need no Gram matrix of all images: layerwise values, those of the outputs,
    and how many images went into minibatch CKA. `notes` gains what has no value."""
    names = {measure.name for measure in wanted}
    by_channels = [m for m in wanted if m.of == CHANNELS]
    with_outputs = any(measure.of_outputs for measure in wanted)
    sums = MinibatchSums(len(stream.names))
    answers: tuple[list[Tensor], list[Tensor]] = ([], [])
    if names <= set(WHOLE):
        return {}, {}, 0
    with progress(len(stream), "comparing") as bar:
        for activations, outputs, labels in stream.batches():
            if "minibatch-cka" in names:
                sums.add(activations)
            if by_channels:
                rows.add(activations)
            if with_outputs:
                for kept, output in zip(answers, outputs, strict=True):
                    kept.append(output.float())
                stream.check_outputs(outputs)
            bar.update(len(labels))
            del activations  # before the next ones are computed
    found = {}
    if "minibatch-cka" in names:
        stream.check(sums.own)
        found["minibatch-cka"] = stream.between(sums.cka())
    if by_channels:
        rows.finish()
        stream.check(torch.stack([side.norm for side in rows.any_of()]))
        found |= _channelwise(rows, by_channels, stream, k, progress, notes)
    if not with_outputs:
        return found, {}, sums.n
    first, second = map(torch.cat, answers)
    second = second if order is None else second[:, list(order)]
    return found, _outputs(first, second, stream.multi_label), sums.n


def _outputs(first: Tensor, second: Tensor, multi_label: bool) -> dict[str, float]:
    differ = disagreement(first, second, multi_label)
    return {
        "disagreement": differ,
        "agreement": 1 - differ,
        "jensen-shannon": jensen_shannon(first, second, multi_label),
    }


def _channelwise(
    rows: Rows,
    wanted: Sequence[Measure],
    stream: Stream,
    k: int,
    progress: Progress,
    notes: list[str],
) -> dict[str, Tensor]:
    """Measures of channels for every pair of layers; `notes` gains which have no neighbours."""
    pairs = rows.pairs()
    shape = tuple(len(side.layers) for side in stream.sides)
    found = {measure.name: torch.full(shape, torch.nan, dtype=torch.float64) for measure in wanted}
    nearest: dict[int, neighbours.Neighbours] = {}  # by the identity of rows
    if "mutual-knn" in found:
        everything, nowhere = rows.all_of(), []
        with progress(len(everything), "finding neighbours", " layers") as bar:
            for i, side in everything:
                if neighbours.on_a_line(side.rows):
                    nowhere.append(stream.names[i])
                else:
                    nearest[id(side)] = neighbours.nearest(side.rows, k)
                bar.update()
        flat = [name for name in dict.fromkeys(nowhere) if name not in stream.constant]
        if flat:
            listed = ", ".join(f"{name} of model {number}" for number, name in flat)
            notes.append(
                "mutual-knn: no value where all cosines are ±1 or 0, so that nothing tells near "
                f"images from far ones, as with a single channel: {listed}."
            )
    short: set[str] = set()
    with progress(len(pairs), "comparing channels", " pairs") as bar:
        for i, j in pairs:
            pair = rows.pair(i, j)
            for measure in wanted:
                enough = all(pair[number - 1].enough for number in measure.more_rows_than)
                if measure.of_channels and enough:
                    found[measure.name][i, j] = measure.of_channels(*pair)
                short |= set() if enough else {measure.name}
            if all(id(side) in nearest for side in pair):
                shared = neighbours.mutual_neighbours(*(nearest[id(side)] for side in pair))
                found["mutual-knn"][i, j] = shared
            bar.update()
    if short and not rows.pooled:
        notes.append(
            f"{', '.join(sorted(short))}: no value for layers with no fewer channels than rows."
        )
    return found


def _all_images(stream: Stream, progress: Progress) -> dict[str, Tensor]:
    """Exact and debiased CKA, from the Gram matrices of all images."""
    sums = blockwise_sums(
        len(stream),
        stream.batch_size,
        [layout.units for layout in stream.layouts],
        lambda skip: (activations for activations, _, _ in stream.batches(skip)),
        progress,
    )
    estimates = {"cka": sums.biased()}
    if len(stream) >= LEAST_IMAGES:
        estimates["debiased-cka"] = sums.unbiased()
    for estimate in estimates.values():
        stream.check(estimate.diagonal())
    return {name: stream.between(normalised(hsic)) for name, hsic in estimates.items()}


def _undefined(wanted: Sequence[Measure], stream: Stream, rows: Rows) -> list[str]:
    """Why some values are missing, in sentences."""
    notes, n = [], len(stream)
    for side in stream.sides:
        wide = side.too_wide(n)
        measures = [m.name for m in wanted if side.number in m.more_rows_than]
        if wide and measures and rows.pooled:
            notes.append(
                f"{', '.join(measures)}: no value for layers of model {side.number} with no fewer "
                f"channels than there are images ({n:,}): {', '.join(wide)}."
            )
    if stream.constant:
        listed = ", ".join(f"{name} of model {number}" for number, name in sorted(stream.constant))
        notes.append(f"No value where an activation does not vary over the images: {listed}.")
    return notes
