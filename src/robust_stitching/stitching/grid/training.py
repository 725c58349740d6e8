"""Training all cells of a grid: many trainers behind one iterator of batches."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from robust_stitching.basics.copying import copy_of
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints.state import DAMAGE, StateFile
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.accuracy import accuracy_of, predict_all
from robust_stitching.graphs import graph
from robust_stitching.graphs.behind import Behind, SharedFront, alike
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import Stitching
from robust_stitching.similarity import Moments
from robust_stitching.stitching.fit import Cut, begun, find_map, form_of, trainer_of
from robust_stitching.stitching.grid.cells import Pair
from robust_stitching.stitching.keeping import Map, State
from robust_stitching.stitching.terms import OwnActivations
from robust_stitching.training import Diverged, EpochRecord, Trainer
from robust_stitching.training.objectives import Goal
from robust_stitching.training.optimisation import precision_on
from robust_stitching.training.trainer import REFRESH_SECONDS, Metrics

GROUP_BYTES = 2**29
"""What the maps that are trained together may take."""

LOGITS_BYTES = 2**27
"""What their answers may take that are kept, so that nobody asks again."""

COPIES = 6
"""Of a map: before training, by direct matching, and in training with gradient and two moments."""


@dataclass
class TrainedCell:
    """A stitch of a grid.

    Attributes
    ----------
    untrained, network : the stitched network before and after training, in evaluation mode; their
        weights are those of the donors themselves.
    direct : direct matching; None where nobody asked for it.
    curve : the training log.
    logits : of the test images, as the last epoch ended; None where they are too many to keep, or
        where training had ended before.
    error : why there is no trained one, where training diverged.
    """

    untrained: StitchedNetwork
    network: StitchedNetwork
    direct: Map | None
    curve: list[EpochRecord]
    precision: str
    error: str | None = None
    logits: torch.Tensor | None = None


def train_cells(
    front: nn.Module,
    end: nn.Module,
    plans: Mapping[Pair, Stitching],
    train: AnySplit,
    test: AnySplit,
    goal: Goal,
    moments: Mapping[Pair, Moments],
    *,
    main: bool = True,
    progress: Progress = silent,
    state: StateFile | None = None,
    what: str = "training",
) -> dict[Pair, TrainedCell]:
    """Train the maps of many cells at once; each comes out as by itself, bit for bit on a CPU.

    Parameters
    ----------
    plans : of each cell, alike but for where they cut; none trains under attack.
    moments : of each cell that wants some, see `fit.wants_moments`.
    main : see `fit.find_map`.
    state : where the training is kept and gone on with.
    """
    group = _Group(front, end, plans, train, test, goal, moments, main)
    group.run(progress, state or StateFile(), what)
    return group.cells


class _Group:
    """The trainings of some cells in progress."""

    def __init__(
        self,
        front: nn.Module,
        end: nn.Module,
        plans: Mapping[Pair, Stitching],
        train: AnySplit,
        test: AnySplit,
        goal: Goal,
        moments: Mapping[Pair, Moments],
        main: bool,
    ):
        (any_plan, *_) = plans.values()
        self.plan, self.train, self.test = any_plan, train, test
        rows = list(dict.fromkeys(row for row, _ in plans))
        self.fronts: dict[str, SharedFront] = {}
        for some in alike(front, rows):
            shared = SharedFront(front, some, self.plan.no_bn).to(train.device)
            self.fronts |= dict.fromkeys(some, shared)
        self.cells: dict[Pair, TrainedCell] = {}
        self.trainers: dict[Pair, Trainer] = {}
        goal, own = _once_a_batch(goal), OwnActivations(end)
        for pair, plan in plans.items():
            cuts = (front, pair[0]), (end, pair[1])
            network, direct, optimizer = begun(*cuts, plan, train.device, moments.get(pair), main)
            _share_weights(network, front, end)
            untrained = copy_of(network)
            _share_weights(untrained, front, end)
            cell = Behind(network, self.fronts[pair[0]], pair[0])
            trainer = self.trainers[pair] = trainer_of(
                cell, cuts[1], train, plan, goal, optimizer=optimizer, own=own
            )
            self.cells[pair] = TrainedCell(untrained, network, direct, [], trainer.precision)

    @property
    def going_on(self) -> dict[Pair, Trainer]:
        """The trainings that have not diverged."""
        return {p: t for p, t in self.trainers.items() if self.cells[p].error is None}

    def run(self, progress: Progress, state: StateFile, what: str) -> None:
        """Train from wherever the state stands to the end."""
        self._take_up(state)
        one = next(iter(self.trainers.values()))
        config, images = self.plan.training, self.plan.training.epochs * len(self.train)
        devices = [one.device] if one.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=devices),
            state.watching(),
            progress(images, what, " images") as bar,
        ):
            torch.manual_seed(self.plan.seed)
            while self.going_on:
                one = next(iter(self.going_on.values()))
                if one.epoch == config.epochs:
                    break
                bar.initial = bar.n = one.images_seen()
                bar.set_description(f"{what}, epoch {one.epoch + 1}/{config.epochs}", refresh=False)
                self._epoch(one, bar, state)
        for pair, trainer in self.trainers.items():
            self.cells[pair].curve = trainer.history
            trainer.network.settle()
        for front in self.fronts.values():
            front.forget()

    def _epoch(self, one: Trainer, bar: Any, state: StateFile) -> None:
        for trainer in self.going_on.values():
            trainer.network.train()
        started = looked = time.perf_counter()
        for images, labels in self.train.epoch(
            self.plan.training.batch_size,
            seed=self.plan.seed,
            epoch=one.epoch,
            skip=one.steps_done,
        ):
            for trainer in self.going_on.values():
                trainer.step(images, labels)
            bar.update(len(labels))
            if time.perf_counter() - looked > REFRESH_SECONDS:
                looked = time.perf_counter()
                for pair, trainer in self.going_on.items():
                    self._watched(pair, trainer.read_meter)
            if one.iteration % one.steps_per_epoch:
                state.after_step(self._state)
        left = self.going_on
        seconds = (time.perf_counter() - started) / max(len(left), 1)
        logits = predict_all([trainer.network for trainer in left.values()], self.test)
        for (pair, trainer), own in zip(left.items(), logits, strict=True):
            seen = accuracy_of(own, self.test.labels)
            test = Metrics(seen.loss, seen.accuracy)
            self._watched(pair, partial(trainer.close_epoch, test, seconds))
            self._watched(pair, trainer.check_weights)
        last = one.iteration == one.iterations
        if last and sum(own.nbytes for own in logits) <= LOGITS_BYTES:
            for pair, own in zip(left, logits, strict=True):
                self.cells[pair].logits = own
        state.keep(self._state, now=last)
        state.after_step(self._state)

    def _watched(self, pair: Pair, do: Callable[[], Any]) -> None:
        """Do something that shows whether a cell has diverged, which ends that cell alone."""
        try:
            do()
        except Diverged as error:
            self.cells[pair].error = str(error)

    def _state(self) -> dict[str, Any]:
        return {
            "shared": {row: dict(front.named_buffers()) for row, front in self.fronts.items()},
            "cells": [
                [*pair, trainer.state_dict() if pair in self.going_on else self.cells[pair].error]
                for pair, trainer in self.trainers.items()
            ],
        }

    def _take_up(self, state: StateFile) -> None:
        kept = state.read()
        if kept is None:
            return
        try:
            for row, front in self.fronts.items():
                front.load_state_dict(kept["shared"][row], strict=False)
            for row, column, own in kept["cells"]:
                if isinstance(own, str):
                    self.cells[row, column].error = own
                else:
                    self.trainers[row, column].load_state_dict(own)
        except DAMAGE as error:
            raise state.damaged(error) from error


def _once_a_batch(goal: Goal) -> Goal:
    """The goal, whose targets are computed once for all cells."""
    last: list[Any] = [None, None]

    def targets(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor | None:
        if last[0] is not images:
            last[:] = images, goal.targets(images, labels)
        return last[1]

    return Goal(goal.loss, goal.attacked, targets)


def _share_weights(network: StitchedNetwork, front: nn.Module, end: nn.Module) -> None:
    """Give a stitched network the weights of the donors themselves, in place of copies."""
    parts = dict(network.named_children())  # behind the last layer there is no part of the end
    for side, donor in ((parts.get("front"), front), (parts.get("end"), end)):
        if side is None:
            continue
        own = dict(donor.named_parameters())
        for path, module in side.named_modules():
            for name in [name for name, p in module._parameters.items() if p is not None]:
                theirs = own.get(f"{path}.{name}" if path else name)
                if theirs is not None:
                    module._parameters[name] = nn.Parameter(theirs.detach(), requires_grad=False)


def groups_of(
    plans: Mapping[Pair, Stitching], front: nn.Module, end: nn.Module
) -> Iterator[dict[Pair, Stitching]]:
    """Cells in groups whose maps fit into `GROUP_BYTES` while they are trained together."""
    group: dict[Pair, Stitching] = {}
    filled = 0
    for pair, plan in plans.items():
        layouts = graph.layout_of(front, pair[0]), graph.layout_of(end, pair[1])
        own = 4 * COPIES * form_of(plan.transform).weights(*layouts)
        filled += own
        if group and filled > GROUP_BYTES:
            yield group
            group, filled = {}, own
        group[pair] = plan
    if group:
        yield group


def train_alone(
    front: Cut,
    end: Cut,
    plan: Stitching,
    train: AnySplit,
    test: AnySplit,
    *,
    goal: Goal,
    moments: Moments | None,
    main: bool = True,
    progress: Progress = silent,
    state: State | None = None,
) -> TrainedCell:
    """The same of a single cell, by itself, as `fit.find_map` trains it."""
    how = {"goal": goal, "main": main, "progress": progress, "state": state, "moments": moments}
    try:
        one = find_map(front, end, train, test, plan, **how)
    except Diverged as error:
        network, direct, _ = begun(front, end, plan, train.device, moments, main)
        precision = precision_on(train.device, plan.training.precision)
        return TrainedCell(network, network, direct, [], precision, str(error))
    return TrainedCell(one.untrained, one.network, one.direct, one.curve, one.precision)
