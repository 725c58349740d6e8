"""Finding the map between two layers: its mask, its first values, its training."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust_stitching.basics.copying import copy_of
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.graphs import graph
from robust_stitching.graphs.behind import Behind
from robust_stitching.graphs.layout import Layout
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.graphs.transform import Form
from robust_stitching.plans import Stitching, Transform
from robust_stitching.plans.parts import AFFINE, FROM_CORRELATIONS, FROM_DATA, NO_MASK
from robust_stitching.similarity import Moments
from robust_stitching.stitching import matching
from robust_stitching.stitching.check import check_history, check_map
from robust_stitching.stitching.initial import first_values
from robust_stitching.stitching.keeping import Map, State
from robust_stitching.stitching.masks import mask_of
from robust_stitching.stitching.terms import OwnActivations, terms_of, watch, weighted
from robust_stitching.stitching.whitening import whitening
from robust_stitching.training import EpochRecord, Trainer, objective_of
from robust_stitching.training.examiner import Examiner
from robust_stitching.training.objectives import LABELS, Goal
from robust_stitching.training.optimisation import iterations_on
from robust_stitching.training.whitened import Whitened

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedMap:
    """A map between two layers, and how it came about.

    Attributes
    ----------
    untrained, network : the stitched network before and after training, in evaluation mode.
    direct : the map of direct matching; None where nobody asked for it.
    maps : the map before, while and after it was trained.
    curve : the training log.
    precision : that it was trained in.
    """

    untrained: StitchedNetwork
    network: StitchedNetwork
    direct: Map | None
    maps: list[Map]
    curve: list[EpochRecord]
    precision: str


Cut = tuple[nn.Module, str]
"""A network and the layer at which it is cut."""


def form_of(plan: Transform) -> Form:
    """Which maps it is chosen from."""
    return Form(plan.flatten, plan.low_rank, masked=plan.mask != NO_MASK, kind=plan.map)


def check_cut(front: Cut, end: Cut, train: AnySplit, plan: Stitching) -> None:
    """Raise UserError where the map that is asked for cannot be made between two layers."""
    check_between(
        graph.layout_of(*front, "front layer"), graph.layout_of(*end, "end layer"), train, plan
    )


def check_between(front: Layout, end: Layout, train: AnySplit, plan: Stitching) -> None:
    """The same of layers whose layouts are known."""
    form = form_of(plan.transform)
    rows, columns = form.shape(front, end)
    check_map(plan.transform, rows, columns)
    weights, iterations = form.weights(front, end), iterations_on(train, plan.training)
    check_history(weights, iterations, plan.save_frequency, plan.training.epochs)
    if _needs_moments(plan.transform):
        matching.check_size(rows, columns)


def find_map(
    front: Cut,
    end: Cut,
    train: AnySplit,
    test: AnySplit,
    plan: Stitching,
    goal: Goal = LABELS,
    *,
    main: bool = True,
    progress: Progress = silent,
    state: State | None = None,
    moments: Moments | None = None,
) -> TrainedMap:
    """Make the map between two layers and train it.

    Parameters
    ----------
    test : is looked at after each epoch.
    goal : what the stitched network is to answer.
    main : find direct matching, too, if it is not too large; a control needs it only where its
        start is made of it.
    state : where the training is kept and gone on with; bit for bit as without an interruption.
    moments : of the activations on both sides, where somebody has them, see `wants_moments`.
    """
    check_cut(front, end, train, plan)
    state = state or State()
    if moments is None and wants_moments(front, end, plan, main):
        seen = fitted_on(train, plan.transform)
        moments = matching.moments_of(*front, *end, seen, form_of(plan.transform), progress)
    network, direct, optimizer = begun(front, end, plan, train.device, moments, main)
    untrained = copy_of(network)
    trainer = trainer_of(network, end, train, plan, goal, test, optimizer)
    maps = state.take_up(trainer) or [Map(0, *network.transform.values())]

    def after_step(trainer: Trainer) -> None:
        every = plan.save_frequency * plan.training.epochs
        if trainer.iteration == trainer.iterations or trainer.iteration % every == 0:
            trainer.check_weights()
            maps.append(Map(trainer.iteration, *network.transform.values()))
        state.after_step(trainer, maps)

    with state.watching():
        curve = trainer.run(after_step, lambda trainer: state.after_epoch(trainer, maps), progress)
    return TrainedMap(untrained, network.eval(), direct, maps, curve, trainer.precision)


def directly_matched(untrained: StitchedNetwork, direct: Map) -> StitchedNetwork:
    """A stitched network with the map of direct matching: the one before training itself where that
    starts there."""
    matched = copy_of(untrained)
    matched.transform.set(direct.weight, direct.bias)
    ours, theirs = matched.transform.values(), untrained.transform.values()
    same = all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    return untrained if same else matched


def trainer_of(
    network: StitchedNetwork | Behind,
    end: Cut,
    train: AnySplit,
    plan: Stitching,
    goal: Goal = LABELS,
    test: AnySplit | None = None,
    optimizer: Whitened | None = None,
    own: OwnActivations | None = None,
) -> Trainer:
    """A training of the map that begins.

    Parameters
    ----------
    network : whole, or behind a front that it shares with others.
    end : the network whose end it has, and the layer.
    test : is looked at after each epoch; None for nothing.
    optimizer : what `begun` gave.
    own : see `terms.watch`.
    """
    asked = terms_of(plan.objective)
    watched = watch(network, *end, asked, own)
    adversary = plan.objective.adversary
    objective = objective_of(
        adversary,
        network,
        iterations_on(train, plan.training),
        goal,
        seed=plan.seed,
        look=watched.look,
    )
    return Trainer(
        network,
        weighted(objective, asked, watched),
        train,
        plan.training,
        evaluate=test and Examiner(test, adversary, plan.seed),
        seed=plan.seed,
        optimizer=optimizer,
    )


def wants_moments(front: Cut, end: Cut, plan: Stitching, main: bool = True) -> bool:
    """Whether a stitch needs the moments of the activations on both sides, see `find_map`."""
    return _reports_direct(front, end, plan, main) or _needs_moments(plan.transform)


def fitted_on(train: AnySplit, plan: Transform) -> AnySplit:
    """The images that maps in closed form are computed from."""
    n = plan.fit_images
    return train if n is None or n >= len(train) else train.sample(n)


def _reports_direct(front: Cut, end: Cut, plan: Stitching, main: bool) -> bool:
    layouts = graph.layout_of(*front), graph.layout_of(*end)
    size = form_of(plan.transform).shape(*layouts)
    return main and not plan.measured.no_pinv and not matching.too_large(*size)


def _needs_moments(plan: Transform) -> bool:
    return plan.init in FROM_DATA or plan.mask in FROM_CORRELATIONS or plan.whiten


def begun(
    front: Cut,
    end: Cut,
    plan: Stitching,
    device: torch.device,
    moments: Moments | None,
    main: bool = True,
) -> tuple[StitchedNetwork, Map | None, Whitened | None]:
    """A stitched network whose map has its mask and its first values, in evaluation mode; direct
    matching, where it was made; and what trains the map if its inputs are whitened.

    Parameters
    ----------
    moments : of the activations on both sides, see `wants_moments`.
    main : see `find_map`.
    """
    network = StitchedNetwork(*front, *end, plan.no_bn, form_of(plan.transform)).to(device)
    log.debug("the stitched graph:\n%s", network.graph)
    transform, asked = network.transform, plan.transform
    rows, columns = transform.rows, transform.columns
    mask = mask_of(asked.mask, columns, rows, plan.seed, moments)
    if mask is not None:
        transform.mask.copy_(mask)
    direct = None
    if asked.init == "ps_inv" or _reports_direct(front, end, plan, main):
        direct = Map(0, *_direct(asked, moments, mask))
    if asked.init == "ps_inv":
        start = direct.weight, direct.bias
    elif asked.init == "procrustes":
        start = matching.procrustes(moments)
    else:
        start = first_values(asked, columns, rows, plan.seed)
    transform.set(*start)
    optimizer = None
    if asked.whiten:
        white = whitening(moments)
        optimizer = Whitened(transform.weight, transform.bias, white, plan.training)
    return network.eval(), direct, optimizer


def _direct(plan: Transform, moments: Moments, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Direct matching: the best map of the kind, of two layers the best linear one."""
    if plan.map == AFFINE:
        return matching.channelwise(moments)
    return matching.direct(moments, mask, plan.low_rank)
