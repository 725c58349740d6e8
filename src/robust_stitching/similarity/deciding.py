"""What is compared of two sides, and by which measures, decided before any image is looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.data import AnySplit
from robust_stitching.graphs import graph
from robust_stitching.graphs.layout import Layout
from robust_stitching.graphs.wrong_network import telling_whose_layer
from robust_stitching.plans.parts import POSITIONS
from robust_stitching.similarity.forms import POOLED, Settings
from robust_stitching.similarity.measure import Measure
from robust_stitching.similarity.measures import MEASURES, chosen
from robust_stitching.similarity.null import FEWEST
from robust_stitching.similarity.saved import Saved, drawn, layouts_of, rows_alike


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
