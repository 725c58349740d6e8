"""A grid of stitches: a frozen plan and two networks in, a result out."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from robust_stitching.basics.copying import copy_of
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit, notes_of
from robust_stitching.plans import GridPlan
from robust_stitching.plans.parts import REAL
from robust_stitching.similarity import Moments
from robust_stitching.stitching import controls, matching
from robust_stitching.stitching.controls import RANDOM, SELF
from robust_stitching.stitching.fit import (
    check_between,
    directly_matched,
    fitted_on,
    form_of,
    wants_moments,
)
from robust_stitching.stitching.grid.cells import Cuts, Pair, cuts_of
from robust_stitching.stitching.grid.measure import Stitch, Stitches, measure_grid
from robust_stitching.stitching.grid.result import Cell, GridResult
from robust_stitching.stitching.grid.training import (
    TrainedCell,
    groups_of,
    train_alone,
    train_cells,
)
from robust_stitching.stitching.invariant import NAME as INVARIANT_IMAGES
from robust_stitching.stitching.invariant import InvariantImages, images_for
from robust_stitching.stitching.keeping import Keeping
from robust_stitching.stitching.noise_front import NAME as NOISE
from robust_stitching.stitching.noise_front import (
    Clusters,
    NoiseScore,
    clusters_at,
    noise_scores,
)
from robust_stitching.stitching.notes import notes_of_cut, notes_of_pair
from robust_stitching.stitching.once import DonorScores
from robust_stitching.stitching.run import NOTHING, Prepared, prepared
from robust_stitching.stitching.statistics import estimate_statistics, has_statistics


def stitch_grid(
    front: Checkpoint,
    end: Checkpoint,
    train: AnySplit,
    test: AnySplit,
    plan: GridPlan,
    progress: Progress = silent,
    elsewhere: AnySplit | None = None,
    warn: Callable[..., None] = lambda *notes: None,
    keeping: Keeping = NOTHING,
    donors: DonorScores | None = None,
    begin: Callable[[Cuts, int], None] = lambda cuts, images: None,
) -> GridResult:
    """Stitch every layer of one network to every layer of another, as the plan says, and measure
    every cell.

    Each cell is what `stitching.run.stitch` makes of its plan (`GridPlan.cell`), its numbers under
    attack aside, see `GridPlan.attack_all`. Maps that are trained under attack are trained one by
    one, since the images differ.

    Parameters
    ----------
    warn, keeping, donors : see `stitching.run.stitch`.
    begin : is given the cells, and how many images activations are compared on, once nothing is to
        be refused any more.

    Raises
    ------
    UserError : see `stitching.run.stitch` and `cells_of`.
    """
    started = time.perf_counter()
    ready = prepared(front, end, train, test, plan, elsewhere, donors)
    pair = ready.pair.front, ready.pair.end
    cuts = cuts_of(plan, *pair)
    check_cells(cuts, plan, pair[0], ready.train)
    begin(cuts, min(len(test), ready.compared_on.images or len(test)))
    pairs = list(cuts)
    notes = ready.look_at_donors(progress)
    warn(*notes)
    grid = _Grid(plan, ready, pairs, progress, keeping)
    cells = [cell for seed in range(plan.seed, plan.seed + plan.seeds) for cell in grid.cells(seed)]
    return GridResult(
        plan=plan,
        front=front,
        end=end,
        cells=cells,
        train_images=len(ready.train),
        class_names=ready.pair.class_names,
        notes=[
            *notes,
            *notes_of(ready.train, ready.test, ready.elsewhere),
            *notes_of_pair(front, end, ready.train, ready.elsewhere, plan),
            *grid.notes,
        ],
        seconds=time.perf_counter() - started,
        similarity_images=ready.compared_on.images,
    )


def check_cells(cuts: Cuts, plan: GridPlan, front: nn.Module, train: AnySplit) -> None:
    """Raise UserError where one of the cells of a grid cannot be stitched as the plan says."""
    for pair, layouts in cuts.items():
        try:
            check_between(*layouts, train, plan.cell(*pair, plan.seed))
        except UserError as error:
            raise UserError(f"from {pair[0]} to {pair[1]}: {error}") from error
    if not plan.measured.controls:
        return
    controls.require_factory(front)
    for (_, column), (_, layout) in cuts.items():
        try:
            check_between(layout, layout, train, plan.cell(column, column, plan.seed))
        except UserError as error:
            raise UserError(f"`controls` stitch the end to itself, but {error}") from error


@dataclass
class _Grid:
    """A grid in the making."""

    plan: GridPlan
    ready: Prepared
    pairs: list[Pair]
    progress: Progress
    keeping: Keeping
    notes: list[str] = field(default_factory=list)

    def __post_init__(self):
        donors, self.moments = (self.ready.pair.front, self.ready.pair.end), {}
        if self.plan.images == REAL:  # else they are of other images for each seed and front layer
            self.moments = self._moments_between(*donors, self.pairs, self.ready.train)

    def cells(self, seed: int) -> Iterator[Cell]:
        """The cells of one seed, trained and measured."""
        plan, ready, donors = self.plan, self.ready, (self.ready.pair.front, self.ready.pair.end)
        trained, invariant = self._trained(*donors, self.pairs, seed, "stitched", main=True)
        if seed == plan.seed + plan.seeds - 1:
            self.moments.clear()  # gigabytes, where units are mapped to units
        stitches = Stitches(
            {pair: self._networks(pair, trained[pair], seed) for pair in self.pairs}
        )
        answered = _answers_of(trained)
        if plan.measured.controls:
            answered |= self._add_controls(stitches, seed)
        noise, compared = self._noise_scores(seed), ready.compared_on.images
        measured, elsewhere = (
            split
            and measure_grid(
                split,
                donors,
                stitches,
                plan=replace(plan, measured=replace(plan.measured, similarity_images=compared)),
                seed=seed,
                progress=self.progress,
                known=ready.known,
                train=ready.train,
                answered=asked,
            )
            for split, asked in ((ready.test, answered), (ready.elsewhere, {}))
        )
        for pair in self.pairs:
            own = plan.cell(*pair, seed)
            network = trained[pair].network
            notes = notes_of_cut(network, trained[pair].direct, own)
            yield Cell(
                plan=own,
                trained=trained[pair],
                measured=replace(measured[pair], noise_front=noise[pair][0]),
                elsewhere=elsewhere and replace(elsewhere[pair], noise_front=noise[pair][1]),
                error=trained[pair].error,
                notes=notes,
                invariant=invariant.get(pair[0]),
            )

    def _moments_between(
        self,
        front: nn.Module,
        end: nn.Module,
        pairs: list[Pair],
        train: AnySplit,
        main: bool = True,
    ) -> dict[Pair, Moments]:
        plan = self.plan.cell(*pairs[0], self.plan.seed)
        wanted = [p for p in pairs if wants_moments((front, p[0]), (end, p[1]), plan, main)]
        seen = fitted_on(train, plan.transform)
        form = form_of(plan.transform)
        found = matching.moments_of_all(front, end, wanted, seen, form, self.progress)
        return dict(zip(wanted, found, strict=True))

    def _trained(
        self,
        front: nn.Module,
        end: nn.Module,
        pairs: list[Pair],
        seed: int,
        what: str,
        main: bool = False,
    ) -> tuple[dict[Pair, TrainedCell], dict[str, InvariantImages]]:
        """The maps of some cells, trained together where the images are the same for all; and what
        those of each front layer were trained on in place of real images, where they were.

        Parameters
        ----------
        main : whether they are those of the grid, not of a control.
        """
        if self.plan.images == REAL:
            return self._trained_on(self.ready.train, front, end, pairs, seed, what, main), {}
        made, invariant = {}, {}
        for number, row in enumerate(dict.fromkeys(row for row, _ in pairs)):
            of_row, name = [pair for pair in pairs if pair[0] == row], f"{what}-row{number}"
            kept = self.keeping.of(f"{INVARIANT_IMAGES}-{name}-{seed}").file
            given = (front, row), self.ready.train, self.plan, seed, self.progress, kept
            seen = invariant[row] = images_for(*given)
            made |= self._trained_on(seen.split, front, end, of_row, seed, name, main)
        return {pair: made[pair] for pair in pairs}, invariant

    def _trained_on(
        self,
        train: AnySplit,
        front: nn.Module,
        end: nn.Module,
        pairs: list[Pair],
        seed: int,
        what: str,
        main: bool,
    ) -> dict[Pair, TrainedCell]:
        moments = self.moments
        if not main or self.plan.images != REAL:
            moments = self._moments_between(front, end, pairs, train, main)
        plans = {pair: self.plan.cell(*pair, seed) for pair in pairs}
        ready, made = self.ready, {}
        common = {"goal": ready.goal, "main": main, "progress": self.progress}
        if self.plan.objective.adversary is not None:
            for number, (pair, plan) in enumerate(plans.items()):
                made[pair] = train_alone(
                    *((front, pair[0]), (end, pair[1]), plan, train, ready.test),
                    moments=moments.get(pair),
                    state=self.keeping.of(f"{what}-{seed}-{number}"),
                    **common,
                )
            return made
        for number, group in enumerate(groups_of(plans, front, end)):
            made |= train_cells(
                *(front, end, group, train, ready.test),
                moments=moments,
                state=self.keeping.of(f"{what}-{seed}-{number}").file,
                what=f"training {what}",
                **common,
            )
        return made

    def _networks(self, pair: Pair, trained: TrainedCell, seed: int) -> dict[str, Stitch]:
        """What is measured of a cell besides donors and controls."""
        made = {"untrained": trained.untrained}
        if trained.error is None:
            made["stitched"] = trained.network
        if trained.direct is not None and not self.plan.measured.no_pinv:
            matched = made["direct_matching"] = directly_matched(trained.untrained, trained.direct)
            if not self.plan.no_bn and has_statistics(matched):
                again = made["direct_matching_recalibrated"] = copy_of(matched)
                estimate_statistics(again, self.ready.train, seed)
        donor = self.ready.pair.front
        return {name: Stitch(network, donor, pair[0]) for name, network in made.items()}

    def _add_controls(self, stitches: Stitches, seed: int) -> dict[nn.Module, Tensor]:
        """The end stitched to itself at every column, and random fronts at every cell. Returns
        `_answers_of` these."""
        front, end, train = self.ready.pair.front, self.ready.pair.end, self.ready.train
        selves = list(dict.fromkeys((column, column) for _, column in self.pairs))
        own, _ = self._trained(end, end, selves, seed, SELF)
        answered = _answers_of(own)
        for (column, _), found in own.items():
            if self._sound(found, f"the end stitched to itself at {column}", seed):
                for pair in (pair for pair in self.pairs if pair[1] == column):
                    stitches.cells[pair][SELF] = Stitch(found.network, end, column)
        for number in range(self.plan.measured.random_fronts):
            twin = controls.with_random_weights(front, train, seed, number)
            made, _ = self._trained(twin, end, self.pairs, seed, f"{RANDOM}-{number}")
            answered |= _answers_of(made)
            for pair, cell in made.items():
                if self._sound(cell, f"a random front at {pair[0]} → {pair[1]}", seed):
                    stitch = Stitch(cell.network, twin, pair[0])
                    stitches.fronts.setdefault(pair, []).append(stitch)
                    stitches.cells[pair].setdefault(RANDOM, stitch)
        return answered

    def _noise_scores(self, seed: int) -> dict[Pair, list[tuple[NoiseScore, ...]]]:
        """Of each cell, those on both test splits."""
        asked = self.plan.measured
        if not asked.controls or not asked.noise_sigmas:
            return {pair: [(), ()] for pair in self.pairs}
        (front, end), found = (self.ready.pair.front, self.ready.pair.end), {}
        train, tests = self.ready.train, (self.ready.test, self.ready.elsewhere)
        clusters: tuple[str, Clusters | str] | None = None
        for number, (row, column) in enumerate(self.pairs):
            if clusters is None or clusters[0] != row:
                clusters = row, clusters_at((front, row), train, self.progress)
            scores, notes = noise_scores(
                *(clusters[1], (front, row), (end, column), train, tests),
                self.plan.cell(row, column, seed),
                self.progress,
                self.keeping,
                f"{NOISE}-{seed}-{number}",
            )
            found[row, column] = [tuple(of_split) for of_split in scores]
            self.notes += [f"At {row} → {column}: {note}" for note in notes]
        return found

    def _sound(self, cell: TrainedCell, what: str, seed: int) -> bool:
        """Whether there is such a control; notes why not."""
        if cell.error is not None:
            of_seed = f", seed {seed}" if self.plan.seeds > 1 else ""
            self.notes.append(f"A control ({what}{of_seed}) was left out: {cell.error}")
        return cell.error is None


def _answers_of(trained: Mapping[Pair, TrainedCell]) -> dict[nn.Module, Tensor]:
    """The logits of trained networks on the test images, of those that have some."""
    return {own.network: own.logits for own in trained.values() if own.logits is not None}
