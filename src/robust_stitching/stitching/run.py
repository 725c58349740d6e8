"""One stitching run: a frozen configuration and two networks in, a result out."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit, notes_of
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.graphs.wrong_network import telling_whose_layer
from robust_stitching.plans import Stitching, as_values
from robust_stitching.stitching import controls
from robust_stitching.stitching.check import check_fit, check_robustness, check_target, check_terms
from robust_stitching.stitching.donors import doubts_about, in_one_order
from robust_stitching.stitching.fit import Cut, TrainedMap, check_cut, find_map
from robust_stitching.stitching.keeping import Keeping, Map
from robust_stitching.stitching.measure import Measured, measure_on
from robust_stitching.stitching.once import DonorScores, answers
from robust_stitching.stitching.scores import Scores
from robust_stitching.stitching.statistics import estimate_statistics, has_statistics
from robust_stitching.stitching.targets import goal_of
from robust_stitching.training import Diverged
from robust_stitching.training.adversarial import warnings_of

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
        the donors.
    keeping : where the states of trainings are kept, which are gone on with if they are there.
    donors : what earlier calls have measured of donors, which is not measured again, and what this
        one does measure.

    Raises
    ------
    UserError : for unknown layers, choices that exclude each other or do not fit the networks,
        classes or images that do not; Diverged when training does.
    """
    started = time.perf_counter()
    for split in filter(None, (train, elsewhere)):
        check_fit(front, end, split)
    check_target(plan.objective, front, train)
    check_terms(plan.objective, plan.training.batch_size)
    wanted, layers = plan.measured, plan.cut
    pair = in_one_order(front, end, train, test, elsewhere)
    train, test, elsewhere = pair.splits
    if not wanted.no_robustness:
        check_robustness(wanted, *filter(None, (test, elsewhere)))
    if plan.debug:
        few = DEBUG_BATCHES * plan.training.batch_size
        train, test = train.sample(few), test.sample(few)
        elsewhere = elsewhere and elsewhere.sample(few)

    front_cut, end_cut = (pair.front, layers.front_layer), (pair.end, layers.end_layer)
    with telling_whose_layer(
        ("the front model", front.network, [layers.front_layer]),
        ("the end model", end.network, [layers.end_layer]),
    ):
        check_cut(front_cut, end_cut, train, plan)
    goal = goal_of(plan.objective, pair.front, pair.end)
    if wanted.controls:
        _check_controls(pair.front, end_cut, train, plan)
    donors = DonorScores() if donors is None else donors
    alone = {"front": pair.front, "end": pair.end}
    known = {name: donors.of(network) for name, network in alone.items()}
    doubts = doubts_about(front, end, test, answers(alone, test, known, progress))
    notes = [*pair.notes, *doubts]
    warn(*notes)
    training = {"train": train, "test": test, "plan": plan, "goal": goal, "progress": progress}
    trained = find_map(front_cut, end_cut, **training, state=keeping.of("stitched"))
    joined = {"untrained": trained.untrained, "stitched": trained.network}
    if trained.direct is not None and not wanted.no_pinv:
        matched = copy.deepcopy(trained.untrained)
        matched.transform.set(trained.direct.weight, trained.direct.bias)
        joined["direct_matching"] = matched
        if not plan.no_bn and has_statistics(matched):
            joined["direct_matching_recalibrated"] = copy.deepcopy(matched)
            estimate_statistics(joined["direct_matching_recalibrated"], train, plan.seed)
    notes += notes_of(train, test, elsewhere)
    notes += _notes(front, end, trained, train, elsewhere, plan)
    fronts = []
    for name, state, cut in _control_cuts(front_cut, end_cut, train, plan):
        try:
            control = find_map(cut, end_cut, **training, main=False, state=keeping.of(state))
        except Diverged as error:
            notes.append(f"A control ({name.replace('_', ' ')}) was left out: {error}")
            continue
        joined.setdefault(name, control.network)
        if name == controls.RANDOM:
            fronts.append(control.network)
    networks = {
        "front": front_cut,
        "end": end_cut,
        **{name: (network, "transform") for name, network in joined.items()},
    }
    measured, other = (
        split
        and measure_on(
            split,
            networks,
            fronts=fronts,
            plan=wanted,
            seed=plan.seed,
            progress=progress,
            known=known,
        )
        for split in (test, elsewhere)
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


def _notes(
    front: Checkpoint,
    end: Checkpoint,
    trained: TrainedMap,
    train: AnySplit,
    elsewhere: AnySplit | None,
    plan: Stitching,
) -> list[str]:
    notes, network = [], trained.network
    if network.leaks:
        notes.append(
            f"The cut at '{plan.cut.end_layer}' leaks: a skip connection of the end network jumps "
            "over it, so part of the image reaches the output without passing the map."
        )
    notes += [
        f"The attack in training is weaker than it seems: {warning}"
        for warning in warnings_of(plan.objective.adversary)
    ]
    transform = network.transform
    if transform.resizes:
        notes.append(
            f"Activations of {transform.source} were brought to the positions of "
            f"{transform.target} before the map."
        )
    if trained.direct is None and not plan.measured.no_pinv:
        notes.append(
            f"A map of {len(transform.bias):,}×{transform.columns:,} units is too large for direct "
            "matching, which was left out."
        )
    if transform.mask is not None:
        left_over = int((~transform.mask.any(dim=1)).sum())
        notes.append(
            f"The mask {plan.transform.mask} leaves {int(transform.mask.sum()):,} of "
            f"{transform.mask.numel():,} entries"
            + (f"; {left_over} channels of the end are their bias alone." if left_over else ".")
        )
    grey = {
        split.name: [
            side
            for side, donor in (("front", front), ("end", end))
            if donor.network.input_shape[0] > split.channels
        ]
        for split in filter(None, (train, elsewhere))
    }
    for name, sides in grey.items():
        if sides:
            notes.append(
                f"The channel of the grey images of {name} was repeated for the "
                f"{' and the '.join(sides)} network, which {'take' if sides[1:] else 'takes'} "
                "colour."
            )
    if front.classes != len(train.classes):
        notes.append(
            f"The front network tells {front.classes} classes apart, the data has "
            f"{len(train.classes)}: it has no accuracy here."
        )
    if plan.debug:
        notes.append("A debugging run on a few batches: these numbers mean nothing.")
    return notes
