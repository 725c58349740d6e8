"""Two networks compared, all layers with all layers, by many measures in one pass over the data."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.basics.labels import are_attributes
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints.state import StateFile
from robust_stitching.data import AnySplit
from robust_stitching.graphs import graph
from robust_stitching.graphs.layout import Layout
from robust_stitching.graphs.wrong_network import telling_whose_layer
from robust_stitching.plans.parts import POSITIONS
from robust_stitching.similarity.doubts import Doubts
from robust_stitching.similarity.forms import POOLED, Settings
from robust_stitching.similarity.gathering import NotFinite, Values
from robust_stitching.similarity.jackknife import LEAST_IMAGES
from robust_stitching.similarity.measure import PAIRING, Measure
from robust_stitching.similarity.measures import MEASURES, chosen
from robust_stitching.similarity.null import FEWEST, Null
from robust_stitching.similarity.rows import told
from robust_stitching.similarity.saved import Saved, SavedStream, drawn, layouts_of, rows_alike
from robust_stitching.similarity.stream import NetworkStream, Stream
from robust_stitching.similarity.values import values_of


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
    nulls, best, intervals : see `gathering.Values`; empty where nobody asked.
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
    nulls: Mapping[str, Null] = field(default_factory=dict)
    best: Mapping[str, tuple[tuple[int, int], Null]] = field(default_factory=dict)
    intervals: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One of the two networks: layers are name to layout, `answers` counts its outputs, of which
    files hold none."""

    number: int
    layers: Mapping[str, Layout]
    answers: int | None

    def too_wide(self, n: int) -> list[str]:
        """Layers with no fewer channels than there are images."""
        return [name for name, layout in self.layers.items() if n <= layout.channels]


def compare(
    network1: nn.Module,
    network2: nn.Module,
    split: AnySplit,
    layers1: Sequence[str] | None = None,
    layers2: Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    *,
    batch_size: int = Settings.batch_size,
    k: int = Settings.k,
    positions: str = Settings.positions,
    seed: int = 0,
    null: int = 0,
    interval: bool = False,
    order: Sequence[int] | None = None,
    progress: Progress = silent,
    state: StateFile | None = None,
) -> Comparison:
    """Compare layers of two networks, and their answers, on the images of `split`.

    One pass gives all measures but those that need the Gram matrices of all images, which take
    more where memory does not hold the activations, see `gram.Blocks`. At the same time in memory
    are the activations of a batch at all layers of both networks, and for each image the channels
    of every layer, averaged over positions. The networks stay as they are.

    Parameters
    ----------
    layers1, layers2 : by default the clean cuts, see `graph.Layer`.
    measures : names from `measures.MEASURES`, or "all"; by default those that are shown by default
        and defined here.
    batch_size : also that of minibatch CKA.
    k : how many neighbours "mutual-knn" and its like look at.
    positions : what measures of channels take for rows, see `rows.Rows`.
    seed : of the order in which images are put into batches, of the choice of positions, and of
        permutations and blocks.
    null : how many times the images of network 2 are permuted to see what values would be by
        chance, see `null`; 0 for not at all, else 19 at least.
    interval : whether values are given 95% intervals, see `jackknife`. For both the Gram matrices
        of all layers are kept where measures of feature maps are asked for, n² numbers each.
    order : for each answer of network 1 the number of the same one of network 2; as they stand if
        left out.
    state : where what was gathered is kept, from which a later call goes on, bit for bit.

    Raises
    ------
    UserError : for unknown layers or measures, too few images for a measure that was asked for, and
        where nothing can be compared.
    """
    asked = (network1, network2, split, layers1, layers2, measures)
    how = {"batch_size": batch_size, "k": k, "positions": positions, "null": null}
    looked_at = prepared(*asked, **how)
    (first, second), _, _ = looked_at
    networks = [(network1, first.layers), (network2, second.layers)]
    return _compared(
        looked_at,
        NetworkStream(networks, split, batch_size, seed),
        Settings(batch_size, k, positions, seed, are_attributes(split.labels)),
        Doubts(null, interval),
        data=split.name,
        order=order,
        progress=progress,
        state=state,
    )


def compare_saved(
    saved1: Saved,
    saved2: Saved,
    layers1: Sequence[str] | None = None,
    layers2: Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    *,
    n_images: int | None = None,
    batch_size: int = Settings.batch_size,
    k: int = Settings.k,
    positions: str = Settings.positions,
    seed: int = 0,
    null: int = 0,
    interval: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    state: StateFile | None = None,
) -> Comparison:
    """The same of saved activations: of all layers that the files have, unless some are named.

    Parameters
    ----------
    n_images : compare so many, chosen by the seed; None takes all.

    Raises
    ------
    UserError : as `compare`, and see `saved.rows_alike`.
    """
    looked_at, layers, rows = prepared_saved(
        *(saved1, saved2, layers1, layers2, measures),
        n_images=n_images,
        batch_size=batch_size,
        k=k,
        positions=positions,
        seed=seed,
        null=null,
    )
    sides = [([*own.values()], which) for own, which in zip(layers, rows, strict=True)]
    return _compared(
        looked_at,
        SavedStream(sides, batch_size, device),
        Settings(batch_size, k, positions, seed),
        Doubts(null, interval),
        data="saved activations",
        progress=progress,
        state=state,
    )


def _compared(
    looked_at: "LookedAt",
    stream: Stream,
    settings: Settings,
    doubts: Doubts,
    data: str,
    progress: Progress,
    state: StateFile | None,
    order: Sequence[int] | None = None,
) -> Comparison:
    started = time.perf_counter()
    sides, wanted, notes = looked_at
    n, positions = stream.n, settings.positions
    layouts = tuple([*side.layers.values()] for side in sides)
    try:
        values = values_of(wanted, stream, layouts, settings, order, progress, state, doubts)
    except NotFinite as error:
        raise UserError(_broken(error, sides)) from error
    notes += _undefined(values, wanted, sides, n, positions)
    notes += _undoubted(wanted, n, doubts)
    how = {"batch_size": settings.batch_size, "k": settings.k}
    return Comparison(
        layers1=tuple(sides[0].layers),
        layers2=tuple(sides[1].layers),
        measures=wanted,
        layerwise=values.layerwise,
        outputs=values.outputs,
        estimators={
            m.name: m.estimator_for(told(positions), settings.attributes, **how) for m in wanted
        },
        n_images={m.name: m.counted(n, settings) for m in wanted},
        positions=positions,
        data=data,
        notes=tuple(notes),
        seconds=time.perf_counter() - started,
        nulls=values.nulls,
        best=values.best,
        intervals=values.intervals,
    )


LookedAt = tuple[tuple[Side, Side], tuple[Measure, ...], list[str]]
"""Both sides with their layers, the measures, and why others are left out."""


def prepared(
    network1: nn.Module,
    network2: nn.Module,
    split: AnySplit,
    layers1: Sequence[str] | None = None,
    layers2: Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    *,
    batch_size: int = Settings.batch_size,
    k: int = Settings.k,
    positions: str = Settings.positions,
    null: int = 0,
) -> LookedAt:
    """What `compare` looks at. It raises what that raises, before any image is looked at."""
    with telling_whose_layer(("model 1", network1, layers1), ("model 2", network2, layers2)):
        sides = (_side(1, network1, layers1), _side(2, network2, layers2))
    settings = Settings(batch_size, k, positions)
    return _decided(sides, len(split), measures, settings, null, split.notes)


def prepared_saved(
    saved1: Saved,
    saved2: Saved,
    layers1: Sequence[str] | None = None,
    layers2: Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    *,
    n_images: int | None = None,
    batch_size: int = Settings.batch_size,
    k: int = Settings.k,
    positions: str = Settings.positions,
    seed: int = 0,
    null: int = 0,
) -> tuple[LookedAt, tuple[dict[str, np.ndarray], ...], tuple[np.ndarray, np.ndarray]]:
    """What `compare_saved` looks at, the layers of both files, and the rows of each in the order in
    which they are looked at."""
    layers = saved1.chosen(layers1, 1), saved2.chosen(layers2, 2)
    alike = rows_alike(saved1, saved2)
    rows = drawn(len(saved1), n_images, seed)
    first, second = (Side(i, layouts_of(own), None) for i, own in enumerate(layers, 1))
    settings, notes = Settings(batch_size, k, positions), [*saved1.notes, *saved2.notes]
    looked_at = _decided((first, second), len(rows), measures, settings, null, notes)
    return looked_at, layers, (rows, alike[rows])


def _decided(
    sides: tuple[Side, Side],
    n: int,
    measures: Sequence[str] | None,
    settings: Settings,
    null: int,
    known: Sequence[str],
) -> LookedAt:
    notes, positions = list(known), settings.positions
    if n < 2:
        raise UserError(f"{n} image is too few to compare anything; take at least 2.")
    if positions not in POSITIONS:
        raise unknown("choice of positions", positions, POSITIONS)
    if null and null < FEWEST:
        raise UserError(
            f"{null} permutations are too few to tell a value from chance at 5%; take {FEWEST} at "
            "least, 200 for a report."
        )
    named = chosen(measures)
    if any(layout.units > n for side in sides for layout in side.layers.values()):
        named = _with_unbiased(named, n, settings)
    wanted = _defined(named, sides, notes)
    for measure in wanted:
        lacking = measure.too_few(n, settings)
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


def _side(number: int, network: nn.Module, layers: Sequence[str] | None) -> Side:
    """Network 1 or 2 with the layers that are to be looked at, its clean cuts for None."""
    traced = graph.graph_of(network)
    names = clean_cuts(traced) if layers is None else dict.fromkeys(layers)
    for name in names:
        traced.node(name, f"layer of model {number}")
    (answers,) = traced.answer_shape
    return Side(number, {name: traced.layers[name].layout for name in names}, answers)


def clean_cuts(traced: graph.Graph) -> list[str]:
    """The clean cuts of a network, each activation under the first of its names."""
    names = {}
    for name, layer in traced.layers.items():
        if layer.clean:
            names.setdefault(traced.node(name), name)
    return list(names.values())


def _with_unbiased(measures: Sequence[Measure], n: int, settings: Settings) -> tuple[Measure, ...]:
    """`measures`, and beside those that are biased the ones that are not."""
    beside = [MEASURES[m.unbiased] for m in measures if m.unbiased]
    beside = [m for m in beside if not m.too_few(n, settings)]
    return chosen([measure.name for measure in [*measures, *beside]])


def _defined(
    measures: Sequence[Measure], sides: tuple[Side, Side], notes: list[str]
) -> tuple[Measure, ...]:
    """Those by which these sides can be compared; `notes` gains why others cannot."""
    first, second = sides
    of_outputs = [measure.name for measure in measures if measure.of_outputs]
    if not of_outputs or (first.answers == second.answers and first.answers is not None):
        return tuple(measures)
    if first.answers is None:
        names = ", ".join(of_outputs)
        notes.append(f"Saved activations hold no answers of networks: {names} left out.")
    else:
        notes += [
            f"Model 1 has {first.answers} outputs and model 2 {second.answers}: {name} is left out."
            for name in of_outputs
        ]
    return tuple(measure for measure in measures if not measure.of_outputs)


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


def _undoubted(wanted: Sequence[Measure], n: int, doubts: Doubts) -> Iterable[str]:
    """Why some values have no null or no interval, in sentences."""
    unpaired = [measure.name for measure in wanted if PAIRING in measure.ignores]
    if doubts.permutations and unpaired:
        yield (
            f"{', '.join(unpaired)}: no null, for the value does not depend on which image of one "
            "side goes with which of the other."
        )
    if doubts.interval and n < LEAST_IMAGES:
        yield (
            f"No intervals: {n} images are too few to leave some out; they need {LEAST_IMAGES} or "
            "more."
        )


def _broken(error: NotFinite, sides: tuple[Side, Side]) -> str:
    if error.answers is not None:
        about = f"model {error.answers + 1} answers with"
    else:
        number, name = _names(sides)[error.representation]
        about = f"layer '{name}' of model {number} has"
    return f"{about} values that are no finite numbers; the network is broken or has diverged."


def _names(sides: tuple[Side, Side]) -> list[tuple[int, str]]:
    """Of all representations, in the order in which they are numbered."""
    return [(side.number, name) for side in sides for name in side.layers]


def _undefined(
    values: Values, wanted: Sequence[Measure], sides: tuple[Side, Side], n: int, positions: str
) -> list[str]:
    """Why some values are missing, in sentences."""
    notes, names = [], _names(sides)

    def listed(numbers: Iterable[int]) -> str:
        named = dict.fromkeys(names[number] for number in numbers)
        return ", ".join(f"{name} of model {number}" for number, name in named)

    for form, numbers in values.undefined.items():
        lost = [number for number in numbers if number not in values.constant]
        if lost:
            measures = ", ".join(m.name for m in wanted if m.form is form)
            notes.append(f"{measures}: no value where {form.undefined}: {listed(lost)}.")
    if values.short and positions != POOLED:
        notes.append(
            f"{', '.join(sorted(values.short))}: no value for layers with no fewer channels than "
            "rows."
        )
    for side in sides:
        wide = side.too_wide(n)
        measures = [m.name for m in wanted if side.number in m.more_rows_than]
        if wide and measures and positions == POOLED:
            notes.append(
                f"{', '.join(measures)}: no value for layers of model {side.number} with no fewer "
                f"channels than there are images ({n:,}): {', '.join(wide)}."
            )
    if values.constant:
        constant = sorted(values.constant, key=names.__getitem__)
        notes.append(
            f"No value where an activation does not vary over the images: {listed(constant)}."
        )
    return notes
