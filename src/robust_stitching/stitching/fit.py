"""Finding the map between two layers: its mask, its first values, its training."""

import copy
import logging
from dataclasses import dataclass

from torch import Tensor, nn

from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.graphs import graph
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.stitching import matching
from robust_stitching.stitching.check import check_history, check_map
from robust_stitching.stitching.config import StitchConfig
from robust_stitching.stitching.initial import FROM_DATA, initial_values
from robust_stitching.stitching.masks import FROM_CORRELATIONS, mask_of
from robust_stitching.stitching.objective import penalised
from robust_stitching.training import EpochRecord, Trainer, TrainingConfig, objective_of
from robust_stitching.training.examiner import Examiner
from robust_stitching.training.objectives import LABELS, Goal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Map:
    """A stitching map: weight (C_end, C_front) and bias (C_end,), at an iteration."""

    iteration: int
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class TrainedMap:
    """A map between two layers, and how it came about.

    Attributes
    ----------
    untrained, network : the stitched network before and after training, in evaluation mode.
    direct : the map of direct matching; None where nobody asked for it.
    maps : the map before, while and after it was trained.
    curve : the training log.
    """

    untrained: StitchedNetwork
    network: StitchedNetwork
    direct: Map | None
    maps: list[Map]
    curve: list[EpochRecord]


Cut = tuple[nn.Module, str]
"""A network and the layer at which it is cut."""


def check_cut(front: Cut, end: Cut, train: AnySplit, config: StitchConfig) -> None:
    """Raise UserError where the map that `config` asks for cannot be made between two layers."""
    layouts = graph.layout_of(*front, "front layer"), graph.layout_of(*end, "end layer")
    rows, columns = config.form.shape(*layouts)
    check_map(config.init, config.mask, config.form, rows, columns)
    iterations = _settings(config).iterations_on(train)
    check_history(rows * columns, iterations, config.save_frequency, config.epochs)
    if _needs_moments(config):
        matching.check_size(rows, columns)


def find_map(
    front: Cut,
    end: Cut,
    train: AnySplit,
    test: AnySplit,
    config: StitchConfig,
    goal: Goal = LABELS,
    *,
    main: bool = True,
    progress: Progress = silent,
) -> TrainedMap:
    """Make the map between two layers and train it.

    Parameters
    ----------
    test : is looked at after each epoch.
    goal : what the stitched network is to answer.
    main : find direct matching, too, if it is not too large; a control needs it only where its
        start is made of it.
    """
    check_cut(front, end, train, config)
    network = StitchedNetwork(*front, *end, config.no_bn, config.form).to(train.device)
    log.debug("the stitched graph:\n%s", network.graph)
    direct = _begin(network, front, end, train, config, progress, main)
    untrained = copy.deepcopy(network).eval()
    maps = [Map(0, *network.transform.values())]

    def keep(trainer: Trainer) -> None:
        last = trainer.iteration == trainer.iterations
        if last or trainer.iteration % (config.save_frequency * config.epochs) == 0:
            trainer.check_weights()
            maps.append(Map(trainer.iteration, *network.transform.values()))

    settings = _settings(config)
    objective = objective_of(config.adversary, network, settings.iterations_on(train), goal)
    if config.l1 or config.cka_reg:
        objective = penalised(objective, network, *end, config.l1, config.cka_reg)
    examiner = Examiner(test, config.adversary)
    trainer = Trainer(network, objective, train, settings, evaluate=examiner)
    curve = trainer.run(after_step=keep, progress=progress)
    return TrainedMap(untrained, network.eval(), direct, maps, curve)


def _settings(config: StitchConfig) -> TrainingConfig:
    return TrainingConfig(
        epochs=config.epochs,
        lr=config.lr,
        batch_size=config.batch_size,
        weight_decay=config.weight_decay,
        optimizer=config.optimizer,
        seed=config.seed,
        precision=config.precision,
    )


def _needs_moments(config: StitchConfig) -> bool:
    return config.init in FROM_DATA or config.mask in FROM_CORRELATIONS


def _begin(
    network: StitchedNetwork,
    front: Cut,
    end: Cut,
    train: AnySplit,
    config: StitchConfig,
    progress: Progress,
    main: bool,
) -> Map | None:
    """Give the map its mask and its first values; returns direct matching where it was made."""
    transform, form = network.transform, config.form
    rows, columns = transform.bias.shape[0], transform.columns
    reported = main and not config.no_pinv and not matching.too_large(rows, columns)
    moments = None
    if reported or _needs_moments(config):
        moments = matching.moments_of(*front, *end, train, form, progress)
    mask = mask_of(config.mask, columns, rows, config.seed, moments)
    if mask is not None:
        transform.mask.copy_(mask)
    direct = None
    if reported or config.init == "ps_inv":
        direct = Map(0, *matching.direct(moments, mask, form.rank))
    if config.init == "ps_inv":
        start = direct.weight, direct.bias
    elif config.init == "procrustes":
        start = matching.procrustes(moments)
    else:
        start = initial_values(config.init, columns, rows, config.seed, form.rank)
    transform.set(*start)
    return direct
