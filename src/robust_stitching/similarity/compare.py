"""Two networks compared, all layers with all layers, by many measures in one pass over the data."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.labels import are_attributes
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints.state import StateFile
from robust_stitching.data import AnySplit
from robust_stitching.similarity.deciding import LookedAt, Side, prepared, prepared_saved
from robust_stitching.similarity.doubts import Doubts
from robust_stitching.similarity.forms import POOLED, Settings
from robust_stitching.similarity.gathering import NotFinite, Values
from robust_stitching.similarity.jackknife import LEAST_IMAGES
from robust_stitching.similarity.measure import PAIRING, Measure
from robust_stitching.similarity.null import Null
from robust_stitching.similarity.rows import told
from robust_stitching.similarity.saved import Saved, SavedStream
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
        NetworkStream(networks, split, batch_size, seed, fold=True),
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
    looked_at: LookedAt,
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
    for name, numbers in values.unestimated.items():
        notes.append(
            f"{name}: no value where the unbiased estimate for a layer with itself is not above 0, "
            f"as of few images that are all but alike: {listed(numbers)}."
        )
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
