"""One stitching run: a frozen configuration and two networks in, a result out."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from robust_stitching.basics.copying import copy_of
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit, notes_of
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.graphs.wrong_network import telling_whose_layer
from robust_stitching.plans import Stitching, as_values
from robust_stitching.plans.actions import Stitched
from robust_stitching.stitching import controls
from robust_stitching.stitching.budget import Budget, budget_of
from robust_stitching.stitching.check import (
    check_fit,
    check_images,
    check_robustness,
    check_target,
    check_terms,
)
from robust_stitching.stitching.donors import Donors, doubts_about, in_one_order
from robust_stitching.stitching.fit import (
    Cut,
    TrainedMap,
    check_cut,
    directly_matched,
    find_map,
)
from robust_stitching.stitching.invariant import NAME as INVARIANT_IMAGES
from robust_stitching.stitching.invariant import InvariantImages, images_for
from robust_stitching.stitching.keeping import Keeping, Map
from robust_stitching.stitching.measure import Measured, measure_on
from robust_stitching.stitching.noise_front import clusters_at, noise_scores
from robust_stitching.stitching.notes import notes_of_cut, notes_of_pair
from robust_stitching.stitching.once import DonorScores, Known, answers
from robust_stitching.stitching.ood import typical_at
from robust_stitching.stitching.scores import Scores
from robust_stitching.stitching.statistics import estimate_statistics, has_statistics
from robust_stitching.stitching.targets import goal_of
from robust_stitching.training import Diverged
from robust_stitching.training.objectives import Goal

DEBUG_BATCHES = 3
NOTHING = Keeping()


@dataclass(frozen=True)
class StitchResult:
    """All that came out of a run.

    Attributes
    ----------
    trained : the map, with the stitched network around it.
    train_images : how many the map was trained on.
    class_names : of the stitched network's answers, in their order.
    measured : scores of "front", "end", "untrained", "stitched", with direct matching and controls
        "direct_matching", "direct_matching_recalibrated" (with statistics of batch norms estimated
        again, as a trained stitch has them), "self_stitch" and "random_front" (the first of them),
        on the test split.
    elsewhere : the same on another dataset's test split, where one was given.
    notes : what a reader has to know, in sentences.
    similarity_images : how many test images activations were compared on; None for all.
    invariant : what the map was trained on in place of real images; None where these were real.
    """

    plan: Stitching
    front: Checkpoint
    end: Checkpoint
    trained: TrainedMap
    train_images: int
    class_names: tuple[str, ...]
    measured: Measured
    elsewhere: Measured | None
    notes: list[str]
    seconds: float
    similarity_images: int | None
    invariant: InvariantImages | None = None

    @property
    def scores(self) -> dict[str, Scores]:
        """Of every network, on the test split."""
        return self.measured.scores

    @property
    def cka(self) -> float | None:
        """Linear CKA between front and end at the cut, on the test split."""
        return self.measured.cka

    @property
    def precision(self) -> str:
        """That the map was trained in."""
        return self.trained.precision

    @property
    def network(self) -> StitchedNetwork:
        """The stitched network with the trained map, in evaluation mode."""
        return self.trained.network

    @property
    def initial(self) -> Map:
        """The map before training."""
        return self.trained.maps[0]

    @property
    def final(self) -> Map:
        """The trained map."""
        return self.trained.maps[-1]

    @property
    def direct(self) -> Map | None:
        """The map of direct matching; None with `no_pinv`."""
        return None if self.plan.measured.no_pinv else self.trained.direct

    def training(self) -> dict[str, Any]:
        """How the stitched network came about, for its checkpoint."""
        return {
            "kind": "stitch",
            "front": self.front.called,
            "end": self.end.called,
            "test_accuracy": self.scores["stitched"].accuracy,
            "plan": as_values(self.plan),
        }


@dataclass(frozen=True)
class Prepared:
    """Two networks and data that were found to fit.

    Attributes
    ----------
    pair : the networks, with their answers in one order.
    train, test, elsewhere : with their classes in that order; a few batches where `debug`.
    goal : what a stitched network is to answer.
    known : what is known of the donors, under "front" and "end".
    compared_on : what activations are compared on.
    """

    front: Checkpoint
    end: Checkpoint
    pair: Donors
    train: AnySplit
    test: AnySplit
    elsewhere: AnySplit | None
    goal: Goal
    known: dict[str, Known]
    compared_on: Budget

    def look_at_donors(self, progress: Progress = silent) -> list[str]:
        """Notes on the donors, with what their answers show, and on what is left out of all."""
        alone = {"front": self.pair.front, "end": self.pair.end}
        logits = answers(alone, self.test, self.known, progress)
        doubts = doubts_about(self.front, self.end, self.test, logits)
        return [*self.pair.notes, *doubts, *filter(None, [self.compared_on.why])]


def prepared(
    front: Checkpoint,
    end: Checkpoint,
    train: AnySplit,
    test: AnySplit,
    plan: Stitched,
    elsewhere: AnySplit | None = None,
    donors: DonorScores | None = None,
) -> Prepared:
    """Bring networks and data together, wherever the networks will be cut.

    Raises
    ------
    UserError : for classes or images that do not fit, and targets, terms and attacks that these
        networks or data do not have.
    """
    for split in filter(None, (train, elsewhere)):
        check_fit(front, end, split)
    check_target(plan.objective, front, train)
    check_terms(plan.objective, plan.training.batch_size)
    pair = in_one_order(front, end, train, test, elsewhere)
    train, test, elsewhere = pair.splits
    if not plan.measured.no_robustness:
        check_robustness(plan.measured, *filter(None, (test, elsewhere)))
    if plan.debug:
        few = DEBUG_BATCHES * plan.training.batch_size
        train, test = train.sample(few), test.sample(few)
        elsewhere = elsewhere and elsewhere.sample(few)
    check_images(plan, train)
    donors = DonorScores() if donors is None else donors
    return Prepared(
        front,
        end,
        pair,
        train,
        test,
        elsewhere,
        goal_of(plan.objective, pair.front, pair.end),
        {"front": donors.of(pair.front), "end": donors.of(pair.end)},
        budget_of(
            *(plan, pair.front, pair.end, len(train)),
            max(len(split) for split in (test, elsewhere) if split is not None),
        ),
    )


def stitch(
    front: Checkpoint,
    end: Checkpoint,
    train: AnySplit,
    test: AnySplit,
    plan: Stitching,
    progress: Progress = silent,
    elsewhere: AnySplit | None = None,
    warn: Callable[..., None] = lambda *notes: None,
    keeping: Keeping = NOTHING,
    donors: DonorScores | None = None,
) -> StitchResult:
    """Stitch the front of one network to the end of another and measure what that shows.

    The map is trained on `train`; every score is taken on `test` and, where it is given, on
    `elsewhere`, the test split of another dataset with as many classes. Classes are matched by
    their names, in whatever order a network answers or a dataset has them. Networks and splits must
    be on the same device; the donors stay as they are.

    Parameters
    ----------
    warn : called, before anything is trained, with those notes of the result that are doubts about
        the donors, or say what is measured on fewer images than there are.
    keeping : where the states of trainings are kept, which are gone on with if they are there.
    donors : what earlier calls have measured of donors, which is not measured again, and what this
        one does measure.

    Raises
    ------
    UserError : for unknown layers, choices that exclude each other or do not fit the networks,
        classes or images that do not; Diverged when training does.
    """
    started = time.perf_counter()
    ready = prepared(front, end, train, test, plan, elsewhere, donors)
    pair, train, elsewhere = ready.pair, ready.train, ready.elsewhere
    front_cut, end_cut = (pair.front, plan.cut.front_layer), (pair.end, plan.cut.end_layer)
    with telling_whose_layer(
        ("the front model", front.network, [plan.cut.front_layer]),
        ("the end model", end.network, [plan.cut.end_layer]),
    ):
        check_cut(front_cut, end_cut, train, plan)
    if plan.measured.controls:
        _check_controls(pair.front, end_cut, train, plan)
    notes = ready.look_at_donors(progress)
    warn(*notes)

    def trained_behind(
        cut: Cut, name: str, main: bool = True
    ) -> tuple[TrainedMap, InvariantImages | None]:
        """The map between a cut and the end, and what it was trained on in place of real images."""
        kept = keeping.of(f"{INVARIANT_IMAGES}-{name}").file
        seen = images_for(cut, train, plan, plan.seed, progress, kept)
        how = {"goal": ready.goal, "main": main, "progress": progress, "state": keeping.of(name)}
        images = seen.split if seen else train
        return find_map(cut, end_cut, images, ready.test, plan, **how), seen

    trained, invariant = trained_behind(front_cut, "stitched")
    joined = {"untrained": trained.untrained, "stitched": trained.network}
    if trained.direct is not None and not plan.measured.no_pinv:
        matched = joined["direct_matching"] = directly_matched(trained.untrained, trained.direct)
        if not plan.no_bn and has_statistics(matched):
            joined["direct_matching_recalibrated"] = copy_of(matched)
            estimate_statistics(joined["direct_matching_recalibrated"], train, plan.seed)
    notes += notes_of(train, ready.test, elsewhere)
    notes += notes_of_cut(trained.network, trained.direct, plan)
    notes += notes_of_pair(front, end, train, elsewhere, plan)
    fronts = []
    for name, state, cut in _control_cuts(front_cut, end_cut, train, plan):
        try:
            control, _ = trained_behind(cut, state, main=False)
        except Diverged as error:
            notes.append(f"A control ({name.replace('_', ' ')}) was left out: {error}")
            continue
        joined.setdefault(name, control.network)
        if name == controls.RANDOM:
            fronts.append(control.network)
    tests, noise = (ready.test, elsewhere), ([], [])
    if plan.measured.controls and plan.measured.noise_sigmas:
        clusters = clusters_at(front_cut, train, progress)
        given = clusters, front_cut, end_cut, train, tests, plan
        noise, left_out = noise_scores(*given, progress, keeping)
        notes += left_out
    networks = {
        "front": front_cut,
        "end": end_cut,
        **{name: (network, "transform") for name, network in joined.items()},
    }
    typical = None
    if not plan.measured.no_pinv:
        typical = typical_at(*end_cut, train, progress)
    measured, other = (
        split
        and measure_on(
            split,
            networks,
            fronts=fronts,
            plan=replace(plan.measured, similarity_images=ready.compared_on.images),
            seed=plan.seed,
            progress=progress,
            known=ready.known,
            typical=typical,
            noise_front=scores,
        )
        for split, scores in zip(tests, noise, strict=True)
    )
    return StitchResult(
        plan=plan,
        front=front,
        end=end,
        trained=trained,
        train_images=len(train),
        class_names=pair.class_names,
        measured=measured,
        elsewhere=other,
        notes=notes,
        seconds=time.perf_counter() - started,
        similarity_images=ready.compared_on.images,
        invariant=invariant,
    )


def _check_controls(front: nn.Module, end: Cut, train: AnySplit, plan: Stitching) -> None:
    """Raise UserError, before any training, where there can be no controls."""
    controls.require_factory(front)
    try:
        check_cut(end, end, train, plan)
    except UserError as error:
        raise UserError(f"`controls` stitch the end to itself, but {error}") from error


def _control_cuts(
    front: Cut, end: Cut, train: AnySplit, plan: Stitching
) -> Iterator[tuple[str, str, Cut]]:
    """What is stitched to the end in place of the front, the end itself and random fronts: its
    name, what its training is called, where it is cut."""
    if not plan.measured.controls:
        return
    yield controls.SELF, controls.SELF, end
    network, layer = front
    for number in range(plan.measured.random_fronts):
        twin = controls.with_random_weights(network, train, plan.seed, number)
        yield controls.RANDOM, f"{controls.RANDOM}-{number}", (twin, layer)
