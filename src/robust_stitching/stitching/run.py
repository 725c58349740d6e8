"""One stitching run: a frozen configuration and two networks in, a result out."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.graphs.wrong_network import telling_whose_layer
from robust_stitching.stitching import controls
from robust_stitching.stitching.check import check_cka, check_fit, check_robustness, check_target
from robust_stitching.stitching.config import StitchConfig
from robust_stitching.stitching.donors import doubts_about, in_one_order
from robust_stitching.stitching.fit import Cut, Map, TrainedMap, check_cut, find_map
from robust_stitching.stitching.measure import Measured, measure_on
from robust_stitching.stitching.objective import goal_of
from robust_stitching.stitching.scores import Scores
from robust_stitching.stitching.statistics import batch_norms, estimate_statistics
from robust_stitching.training import Diverged

DEBUG_BATCHES = 3


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

    config: StitchConfig
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
        return None if self.config.no_pinv else self.trained.direct

    def training(self) -> dict[str, Any]:
        """How the stitched network came about, for its checkpoint."""
        return {
            "kind": "stitch",
            "front": str(self.front.path),
            "end": str(self.end.path),
            "test_accuracy": self.scores["stitched"].accuracy,
            **asdict(self.config),
        }


def stitch(
    front: Checkpoint,
    end: Checkpoint,
    train: AnySplit,
    test: AnySplit,
    config: StitchConfig,
    progress: Progress = silent,
    elsewhere: AnySplit | None = None,
    warn: Callable[..., None] = lambda *notes: None,
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

    Raises
    ------
    UserError : for unknown layers, choices that exclude each other or do not fit the networks,
        classes or images that do not; Diverged when training does.
    """
    started = time.perf_counter()
    for split in filter(None, (train, elsewhere)):
        check_fit(front, end, split)
    check_target(config.target_type, config.temperature, front, train)
    check_cka(config.cka_reg, config.batch_size, config.adversary)
    donors = in_one_order(front, end, train, test, elsewhere)
    train, test, elsewhere = donors.splits
    if not config.no_robustness:
        splits = filter(None, (test, elsewhere))
        check_robustness(config.robust_images, config.tier, config.eval_epsilon, *splits)
    if config.debug:
        few = DEBUG_BATCHES * config.batch_size
        train, test = train.sample(few), test.sample(few)
        elsewhere = elsewhere and elsewhere.sample(few)

    front_cut, end_cut = (donors.front, config.front_layer), (donors.end, config.end_layer)
    with telling_whose_layer(
        ("the front model", front.network, [config.front_layer]),
        ("the end model", end.network, [config.end_layer]),
    ):
        check_cut(front_cut, end_cut, train, config)
    goal = goal_of(config.target_type, config.temperature, donors.front, donors.end)
    if config.controls:
        _check_controls(donors.front, end_cut, train, config)
    notes = [*donors.notes, *doubts_about(front, end, donors, test, config.seed, progress)]
    warn(*notes)
    trained = find_map(front_cut, end_cut, train, test, config, goal, progress=progress)
    joined = {"untrained": trained.untrained, "stitched": trained.network}
    if trained.direct is not None and not config.no_pinv:
        matched = copy.deepcopy(trained.untrained)
        matched.transform.set(trained.direct.weight, trained.direct.bias)
        joined["direct_matching"] = matched
        if not config.no_bn and batch_norms(matched):
            joined["direct_matching_recalibrated"] = copy.deepcopy(matched)
            estimate_statistics(joined["direct_matching_recalibrated"], train, config.seed)
    seen = filter(None, (train, test, elsewhere))
    notes += dict.fromkeys(note for split in seen for note in split.notes)
    notes += _notes(front, end, trained, train, elsewhere, config)
    fronts = []
    for name, cut in _control_cuts(front_cut, end_cut, train, config):
        try:
            control = find_map(
                cut, end_cut, train, test, config, goal, main=False, progress=progress
            )
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
            similarity=not config.no_pinv,
            attacked_images=None if config.no_robustness else config.robust_images,
            epsilon=config.eval_epsilon,
            tier=config.tier,
            seed=config.seed,
            progress=progress,
        )
        for split in (test, elsewhere)
    )
    return StitchResult(
        config=config,
        front=front,
        end=end,
        trained=trained,
        train_images=len(train),
        class_names=donors.class_names,
        measured=measured,
        elsewhere=other,
        notes=notes,
        seconds=time.perf_counter() - started,
    )


def _check_controls(front: nn.Module, end: Cut, train: AnySplit, config: StitchConfig) -> None:
    """Raise UserError, before any training, where there can be no controls."""
    controls.require_factory(front)
    try:
        check_cut(end, end, train, config)
    except UserError as error:
        raise UserError(f"--controls stitches the end to itself, but {error}") from error


def _control_cuts(
    front: Cut, end: Cut, train: AnySplit, config: StitchConfig
) -> Iterator[tuple[str, Cut]]:
    """What is stitched to the end in place of the front: the end itself, random fronts."""
    if not config.controls:
        return
    yield controls.SELF, end
    network, layer = front
    for number in range(config.random_fronts):
        twin = controls.with_random_weights(network, train, config.seed, number)
        yield controls.RANDOM, (twin, layer)


def _notes(
    front: Checkpoint,
    end: Checkpoint,
    trained: TrainedMap,
    train: AnySplit,
    elsewhere: AnySplit | None,
    config: StitchConfig,
) -> list[str]:
    notes, network = [], trained.network
    if network.leaks:
        notes.append(
            f"The cut at '{config.end_layer}' leaks: a skip connection of the end network jumps "
            "over it, so part of the image reaches the output without passing the map."
        )
    if config.adversary:
        notes += [
            f"The attack in training is weaker than it seems: {warning}"
            for warning in config.adversary.warnings
        ]
    transform = network.transform
    if transform.resizes:
        notes.append(
            f"Activations of {transform.source} were brought to the positions of "
            f"{transform.target} before the map."
        )
    if trained.direct is None and not config.no_pinv:
        notes.append(
            f"A map of {len(transform.bias):,}×{transform.columns:,} units is too large for direct "
            "matching, which was left out."
        )
    if transform.mask is not None:
        left_over = int((~transform.mask.any(dim=1)).sum())
        notes.append(
            f"The mask {config.mask} leaves {int(transform.mask.sum()):,} of "
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
    if config.debug:
        notes.append("A debugging run on a few batches: these numbers mean nothing.")
    return notes
