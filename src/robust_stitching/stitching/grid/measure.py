"""What is measured of a grid on one dataset, column by column: all cells of a column are compared
with the end network at the same layer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_stitching.basics.modes import evaluating
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.accuracy import predict_all
from robust_stitching.evaluation.suites import threat_on
from robust_stitching.graphs import graph
from robust_stitching.graphs.behind import Behind, SharedFront
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import GridPlan
from robust_stitching.similarity.stream import Batch, Stream, at_once
from robust_stitching.stitching.attack_scores import AttackScores, measure_attacks
from robust_stitching.stitching.grid.cells import Pair
from robust_stitching.stitching.measure import UNATTACKED, Measured
from robust_stitching.stitching.once import BATCH_SIZE, Known, answers
from robust_stitching.stitching.ood import Distances, typical_at
from robust_stitching.stitching.scores import (
    END,
    FRONT,
    AtCut,
    Scores,
    compared,
    looked_on,
    scored,
)

KEPT_BYTES = 2**28
"""What is kept at once of activations that are compared."""

NOBODY: Mapping[nn.Module, Tensor] = MappingProxyType({})


class Stitch(NamedTuple):
    """A stitched network, and the donor and the layer of its front."""

    network: StitchedNetwork
    donor: nn.Module
    layer: str


@dataclass
class Stitches:
    """The stitches of a grid.

    Attributes
    ----------
    cells : of each cell, name to stitch, as `StitchResult.measured` has them.
    fronts : of each cell, stitches of random fronts.
    """

    cells: dict[Pair, dict[str, Stitch]]
    fronts: dict[Pair, list[Stitch]] = field(default_factory=dict)


class Name(NamedTuple):
    """Of a network in a column: the front layer of its cell, and what it is."""

    row: str
    what: str


def measure_grid(
    split: AnySplit,
    donors: tuple[nn.Module, nn.Module],
    stitches: Stitches,
    *,
    plan: GridPlan,
    seed: int,
    progress: Progress = silent,
    known: Mapping[str, Known],
    train: AnySplit,
    answered: Mapping[nn.Module, Tensor] = NOBODY,
) -> dict[Pair, Measured]:
    """Measure every cell on a split.

    Parameters
    ----------
    donors : front and end.
    known : what is known of these, under "front" and "end": they are measured once.
    train : that shows what the end makes by itself, see `ood.typical_at`.
    answered : the logits, on this split, of those stitched networks that were asked before.
    """
    columns: dict[str, list[str]] = {}
    for row, column in stitches.cells:
        columns.setdefault(column, []).append(row)
    own = answers(dict(zip((FRONT, END), donors, strict=True)), split, known, progress)
    found: dict[Pair, Measured] = {}
    for column, rows in columns.items():
        one = _Column(donors, column, rows, stitches, answered)
        scores = one.scores(split, own, plan, seed, progress, train)
        for row in rows:
            names = (FRONT, END, *stitches.cells[row, column])
            of_cell = {name: scores[row, name] for name in names}
            attacks = None
            if not plan.measured.no_robustness:
                attacks = one.attacked(split, row, of_cell, plan, seed, progress, known)
            found[row, column] = Measured(
                split.name,
                split.source,
                len(split),
                of_cell,
                attacks,
                tuple(scores[name].accuracy for name in one.random if name.row == row),
            )
    return {pair: found[pair] for pair in stitches.cells}


def together(stitches: Mapping[Name, Stitch]) -> dict[Name, Behind]:
    """The stitched networks, those whose fronts are of one network, with the same statistics in
    their batch norms as far as both go, behind one that they share."""
    groups: list[tuple[nn.Module, dict[str, Tensor], list[Name]]] = []
    for name, own in stitches.items():
        buffers = dict(own.network.named_buffers())
        buffers = {name: values for name, values in buffers.items() if name.startswith(graph.FRONT)}
        for donor, known, names in groups:
            common = known.keys() & buffers.keys()
            if donor is own.donor and all(torch.equal(known[b], buffers[b]) for b in common):
                known |= buffers
                names.append(name)
                break
        else:
            groups.append((own.donor, buffers, [name]))
    made = {}
    for donor, buffers, names in groups:
        layers = list(dict.fromkeys(stitches[name].layer for name in names))
        front = SharedFront(donor, layers).to(stitches[names[0]].network.transform.bias.device)
        front.piece.load_state_dict(buffers, strict=False)
        made |= {n: Behind(stitches[n].network, front, stitches[n].layer) for n in names}
    return {name: made[name] for name in stitches}


class _Column:
    """The cells of a column.

    Attributes
    ----------
    same : each stitch of a cell to the first that is the same, as the end stitched to itself is.
    random : of stitches with random fronts.
    """

    def __init__(
        self,
        donors: tuple[nn.Module, nn.Module],
        column: str,
        rows: Sequence[str],
        stitches: Stitches,
        answered: Mapping[nn.Module, Tensor],
    ):
        self.donors, self.column, self.rows, self.answered = donors, column, rows, answered
        cells = {
            Name(row, what): own
            for row in rows
            for what, own in stitches.cells[row, column].items()
        }
        first = {id(own.network): name for name, own in reversed(cells.items())}
        self.same = {name: first[id(own.network)] for name, own in cells.items()}
        self.stitched = {name: own for name, own in cells.items() if self.same[name] == name}
        self.random = {
            Name(row, f"random {number}"): own
            for row in rows
            for number, own in enumerate(stitches.fronts.get((row, column), ()))
        }
        self.behind = together(self.stitched | self.random)

    def scores(
        self,
        split: AnySplit,
        own: Mapping[str, Tensor],
        plan: GridPlan,
        seed: int,
        progress: Progress,
        train: AnySplit,
    ) -> dict[tuple[str, str], Scores]:
        """By front layer and network.

        Parameters
        ----------
        own : the logits of the donors.
        train : see `measure_grid`.
        """
        logits = self._logits(split, progress)
        similarity = not plan.measured.no_pinv
        at_cut: dict[str | Name, AtCut] = {}
        if similarity:
            some = looked_on(split, plan.measured.similarity_images, seed)
            end = self.donors[1], self.column
            typical, layout = typical_at(*end, train, progress), graph.layout_of(*end)
            for part in self._parts(some):
                out = Distances(typical, layout, part.names, END, list(part.behind))
                how = {"block_bytes": KEPT_BYTES, "seed": seed}
                at_cut |= compared(part, part.names, progress, out, **how)

        def score(values: Tensor, name: str | Name) -> Scores:
            return scored(values, own[END], split.labels, at_cut.get(name), similarity)

        by_name = {name: score(values, name) for name, values in logits.items()}
        found = by_name | {name: by_name[first] for name, first in self.same.items()}
        for row in self.rows:
            found[row, FRONT] = score(own[FRONT], Name(row, FRONT))
            found[row, END] = score(own[END], END)
        return found

    def _logits(self, split: AnySplit, progress: Progress) -> dict[Name, Tensor]:
        known = {
            name: self.answered[own.network]
            for name, own in (self.stitched | self.random).items()
            if own.network in self.answered
        }
        asked = {name: network for name, network in self.behind.items() if name not in known}
        what = f"evaluating → {self.column}"
        found = predict_all([*asked.values()], split, BATCH_SIZE, progress, what) if asked else []
        return known | dict(zip(asked, found, strict=True))

    def attacked(
        self,
        split: AnySplit,
        row: str,
        scores: Mapping[str, Scores],
        plan: GridPlan,
        seed: int,
        progress: Progress,
        known: Mapping[str, Known],
    ) -> AttackScores:
        """A cell under attack: what was trained beside the donors, unless all is wanted."""
        networks: dict[str, nn.Module] = dict(zip((FRONT, END), self.donors, strict=True))
        networks |= {
            name.what: self.stitched[first].network
            for name, first in self.same.items()
            if name.row == row
        }
        wanted = set(networks) - set(UNATTACKED) if plan.attack_all else {FRONT, END, "stitched"}
        asked = [what for what in networks if what in wanted and scores[what].accuracy is not None]
        return measure_attacks(
            {what: networks[what] for what in asked},
            split.sample(plan.measured.robust_images, seed),
            threat_on(split, plan.measured.eval_epsilon),
            seed,
            progress,
            plan.measured.tier,
            known,
            transfers=plan.attack_all,
        )

    def _parts(self, split: AnySplit) -> "Iterator[_AtCut]":
        """The cells, as many at once as have their activations kept without a second pass."""
        rows: list[str] = []
        for row in self.rows:
            if rows and self._at_cut([*rows, row], split).kept_bytes > KEPT_BYTES:
                yield self._at_cut(rows, split)
                rows = []
            rows.append(row)
        yield self._at_cut(rows, split)

    def _at_cut(self, rows: Sequence[str], split: AnySplit) -> "_AtCut":
        behind = {name: self.behind[name] for name in self.stitched if name.row in rows}
        return _AtCut(self.donors, self.column, rows, behind, split)


class _AtCut(Stream):
    """What cells of a column have at the cut, of the images of a split.

    Attributes
    ----------
    names : of the activations of a batch.
    """

    def __init__(
        self,
        donors: tuple[nn.Module, nn.Module],
        column: str,
        rows: Sequence[str],
        behind: Mapping[Name, Behind],
        split: AnySplit,
    ):
        self.donors, self.column, self.rows = donors, column, rows
        self.behind, self.split, self.n = behind, split, len(split)
        self.names = [END, *(Name(row, FRONT) for row in rows), *behind]
        front, end = donors
        units = graph.layout_of(end, column).units * (1 + len(behind))
        units += sum(graph.layout_of(front, row).units for row in rows)
        self.image_bytes, self.batch_size = 4 * units, BATCH_SIZE

    @property
    def kept_bytes(self) -> int:
        """Of the activations of all images."""
        return self.n * self.image_bytes

    def looking(self) -> AbstractContextManager[None]:
        front, end = self.donors
        self.pieces = graph.features(front, self.rows), graph.features(end, [self.column])
        self._at_once = at_once(self.pieces, self.donors, self.batch_size)
        return evaluating(*self.pieces, *self.behind.values())

    def batches(self, start: int = 0) -> Iterator[Batch]:
        split = replace(self.split, augmentation=None).between(start, self.n)
        for batch, _ in split.batches(self.batch_size):
            for images in batch.split(self._at_once):
                front, end = (piece(images) for piece in self.pieces)
                mapped = [own.mapped(images) for own in self.behind.values()]
                yield Batch(start, [*end, *front, *mapped], [])
                start += len(images)
