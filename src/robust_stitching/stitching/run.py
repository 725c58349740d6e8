"""One stitching run: a frozen configuration and two networks in, a result out."""

import copy
import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from robust_stitching.attacks import Threat
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import Split, usual_epsilon
from robust_stitching.progress import Progress, silent
from robust_stitching.stitching.attacked import AttackScores, measure_attacks
from robust_stitching.stitching.matching import match
from robust_stitching.stitching.measure import Scores, measure
from robust_stitching.stitching.network import StitchedNetwork
from robust_stitching.stitching.transform import initial_values
from robust_stitching.training import Adversary, EpochRecord, Trainer, TrainingConfig, objective_of
from robust_stitching.training.examiner import Examiner

log = logging.getLogger(__name__)
DEBUG_BATCHES = 3


@dataclass(frozen=True)
class StitchConfig:
    """What to stitch and how; the flags of find_transform.py say the same in the same words.

    Attributes
    ----------
    save_frequency : the map is kept every `save_frequency` × `epochs` iterations.
    seed : of the initialisation, of order and augmentation.
    no_bn : freeze the running statistics of the donors' batch norms too.
    no_pinv : leave out CKA, direct matching and what follows from them.
    debug : use a few batches only.
    adversary : the attack that the map is trained under; None for standard training.
    no_robustness : leave out attacks on the networks and what transfers between them.
    robust_images : how many test images are attacked, chosen at random by the seed.
    eval_epsilon : l-inf radius of those attacks; None is the usual one of the dataset.
    """

    front_layer: str
    end_layer: str
    epochs: int = 30
    lr: float = 1e-3
    batch_size: int = 128
    save_frequency: int = 10
    seed: int = 0
    weight_decay: float = 1e-4
    optimizer: str = "adam"
    init: str = "random"
    no_bn: bool = False
    no_pinv: bool = False
    debug: bool = False
    precision: str = "float32"
    adversary: Adversary | None = None
    no_robustness: bool = False
    robust_images: int = 200
    eval_epsilon: float | None = None


@dataclass(frozen=True)
class Map:
    """A stitching map: weight (C_end, C_front) and bias (C_end,), at an iteration."""

    iteration: int
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class StitchResult:
    """All that came out of a run.

    Attributes
    ----------
    network : the stitched network with the trained map, in evaluation mode.
    maps : the map before, while and after it was trained.
    direct : the map of direct matching; None with `no_pinv`.
    scores : of "front", "end", "untrained", "stitched" and "direct_matching", on the test split.
    data, source : the dataset's name, and what `data.load` finds it by.
    attacks : robust and transfer accuracies; None with `no_robustness`.
    cka, l2 : between front and end at the cut, see `Scores`.
    curve : the stitch's training log.
    train_images, test_images : how many were used.
    notes : what a reader has to know, in sentences.
    """

    config: StitchConfig
    front: Checkpoint
    end: Checkpoint
    data: str
    source: str
    train_images: int
    test_images: int
    network: StitchedNetwork
    maps: list[Map]
    direct: Map | None
    scores: dict[str, Scores]
    attacks: AttackScores | None
    curve: list[EpochRecord]
    notes: list[str]
    seconds: float

    @property
    def cka(self) -> float | None:
        return self.scores["front"].cka_to_end

    @property
    def l2(self) -> float | None:
        return self.scores["front"].l2_to_end

    @property
    def initial(self) -> Map:
        """The map before training."""
        return self.maps[0]

    @property
    def final(self) -> Map:
        """The trained map."""
        return self.maps[-1]

    def training(self) -> dict[str, Any]:
        """How the stitched network came about, for its checkpoint."""
        return {
            "kind": "stitch",
            "front": str(self.front.path),
            "end": str(self.end.path),
            **asdict(self.config),
        }


def stitch(
    front: Checkpoint,
    end: Checkpoint,
    train: Split,
    test: Split,
    config: StitchConfig,
    progress: Progress = silent,
) -> StitchResult:
    """Stitch the front of one network to the end of another and measure what that shows.

    The map is trained on `train`; every score is taken on `test`. Networks and splits must be on
    the same device; the donors stay as they are.

    Raises
    ------
    UserError : for unknown layers, a map that does not fit its initialisation, classes or images
        that do not fit the networks; Diverged when training does.
    """
    started = time.perf_counter()
    check_fit(front, end, train)
    if config.debug:
        few = DEBUG_BATCHES * config.batch_size
        train, test = train.sample(few), test.sample(few)
    network = StitchedNetwork(
        front.network, config.front_layer, end.network, config.end_layer, config.no_bn
    ).to(train.images.device)
    log.debug("the stitched graph:\n%s", network.graph)

    outputs, inputs = network.transform.weight.shape
    direct = None
    if config.init != "ps_inv":
        network.transform.set(*initial_values(config.init, inputs, outputs, config.seed))
    if config.init == "ps_inv" or not config.no_pinv:
        weight, bias = match(
            front.network, config.front_layer, end.network, config.end_layer, train, progress
        )
        direct = Map(0, weight.cpu(), bias.cpu())
    if config.init == "ps_inv":
        network.transform.set(direct.weight, direct.bias)
    untrained = copy.deepcopy(network)
    maps = [Map(0, *network.transform.values())]
    curve = _train(network, train, test, config, maps, progress)

    networks = {
        "front": (front.network, config.front_layer),
        "end": (end.network, config.end_layer),
        "untrained": (untrained, "transform"),
        "stitched": (network.eval(), "transform"),
    }
    if not config.no_pinv:
        matched = copy.deepcopy(untrained)
        matched.transform.set(direct.weight, direct.bias)
        networks["direct_matching"] = (matched, "transform")
    scores = measure(networks, test, similarity=not config.no_pinv, progress=progress)
    attacks = None
    if not config.no_robustness:
        answering = {
            name: network
            for name, (network, _) in networks.items()
            if scores[name].accuracy is not None
        }
        threat = Threat(config.eval_epsilon or usual_epsilon(train.source))
        few = test.sample(config.robust_images, config.seed)
        attacks = measure_attacks(answering, few, threat, config.seed, progress)
    return StitchResult(
        config=config,
        front=front,
        end=end,
        data=train.name,
        source=train.source,
        train_images=len(train),
        test_images=len(test),
        network=network,
        maps=maps,
        direct=None if config.no_pinv else direct,
        scores=scores,
        attacks=attacks,
        curve=curve,
        notes=_notes(front, end, network, train, config),
        seconds=time.perf_counter() - started,
    )


def check_fit(front: Checkpoint, end: Checkpoint, train: Split) -> None:
    """Raise UserError unless these networks can be stitched on these images: the end has to answer
    for the classes of the data, the front need not."""
    end.require_fit(train)
    front.require_images(train)


def _train(
    network: StitchedNetwork,
    train: Split,
    test: Split,
    config: StitchConfig,
    maps: list[Map],
    progress: Progress,
) -> list[EpochRecord]:
    """Train the map in place; appends to `maps` as it goes."""

    def keep(trainer: Trainer) -> None:
        last = trainer.iteration == trainer.iterations
        if last or trainer.iteration % (config.save_frequency * config.epochs) == 0:
            trainer.check_weights()
            maps.append(Map(trainer.iteration, *network.transform.values()))

    settings = TrainingConfig(
        epochs=config.epochs,
        lr=config.lr,
        batch_size=config.batch_size,
        weight_decay=config.weight_decay,
        optimizer=config.optimizer,
        seed=config.seed,
        precision=config.precision,
    )
    objective = objective_of(config.adversary, network, settings.iterations_on(train))
    examiner = Examiner(test, config.adversary)
    trainer = Trainer(network, objective, train, settings, evaluate=examiner)
    return trainer.run(after_step=keep, progress=progress)


def _notes(
    front: Checkpoint, end: Checkpoint, network: StitchedNetwork, train: Split, config: StitchConfig
) -> list[str]:
    notes = []
    if network.leaks:
        notes.append(
            f"The cut at '{config.end_layer}' leaks: a skip connection of the end network jumps "
            "over it, so part of the image reaches the output without passing the map."
        )
    transform = network.transform
    if transform.resizes:
        notes.append(
            f"Activations of shape {transform.in_shape} were resized to the positions of "
            f"{transform.out_shape} before the map."
        )
    for side, checkpoint in (("front", front), ("end", end)):
        if checkpoint.network.input_shape[0] > train.channels:
            notes.append(f"The {side} network takes colour; the grey images were repeated for it.")
    if front.classes != len(train.classes):
        notes.append(
            f"The front network tells {front.classes} classes apart, the data has "
            f"{len(train.classes)}: it has no accuracy here."
        )
    if config.debug:
        notes.append("A debugging run on a few batches: these numbers mean nothing.")
    return notes
