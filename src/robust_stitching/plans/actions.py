"""The actions: train, stitch, once or for all layers, compare, attack and evaluate: a plan each."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from robust_stitching.basics.errors import UserError
from robust_stitching.plans.parts import (
    CELLS,
    IMAGES,
    INVARIANT,
    NORMS,
    POSITIONS,
    REAL,
    SPLITS,
    TIERS,
    Adversary,
    Cut,
    DataRef,
    FileRef,
    Measurement,
    NetworkRef,
    Objective,
    Optimisation,
    Transform,
)
from robust_stitching.plans.recipes import FAST, PAPER, RECIPES, completed
from robust_stitching.plans.settings import (
    AT_LEAST_ONE,
    PERMUTATIONS,
    POSITIVE,
    SEED,
    SOME,
    Settings,
    setting,
)
from robust_stitching.plans.written import from_flat


@dataclass(frozen=True, kw_only=True)
class TrainPlan(Settings):
    """Train a network from fresh weights.

    Attributes
    ----------
    model : a name of the registry, or the user's own ``path/file.py:function``.
    code : the hash of that function's code; None until it was read, and for all others.
    init_noise, gradient_noise : seeds of the initialisation, and of the order of the batches.
    adversary : the attack of adversarial training; None for standard training.
    no_augmentation : train on the images as they are.
    image_size : pixels of the side that images are scaled to; None takes that of the dataset.
    save_frequency : iterations between intermediate snapshots.
    """

    KIND: ClassVar[str] = "train"
    FORMAT: ClassVar[int] = 1

    model: str = setting("lenet", unless="code")
    code: str | None = None
    dataset: DataRef = setting(DataRef("mnist"))
    training: Optimisation = setting(Optimisation(epochs=300, lr=1e-1, clip_norm=1.0))
    adversary: Adversary | None = None
    init_noise: int = setting(0, SEED)
    gradient_noise: int = setting(0, SEED)
    no_augmentation: bool = False
    image_size: int | None = setting(None, AT_LEAST_ONE)
    save_frequency: int = setting(10000, AT_LEAST_ONE)

    @property
    def label(self) -> str:
        """As the name of a folder: the seeds; kind and radius of an adversarial training stand
        behind, so that it never meets a standard one."""
        name = f"in{self.init_noise}-gn{self.gradient_noise}"
        return f"{name}-{self.adversary.label}" if self.adversary else name


@dataclass(frozen=True, kw_only=True)
class Stitched(Settings):
    """How networks are stitched, whichever they are and wherever they are cut.

    Attributes
    ----------
    recipe : where what was not said of `transform` and `training` comes from, see `plans.recipes`;
        a name, once the plan is made.
    no_bn : freeze the running statistics of the donors' batch norms too; so it is in any case with
        invariant images, which are so for a front that normalises by its own.
    seed : of order and augmentation, of random first values, of random fronts, of attacks, of the
        noise that invariant images begin as.
    debug : use a few batches only.
    images : what the map is trained on: "real" ones, or, "invariant", others that the front takes
        for them, see `stitching.invariant`.
    """

    transform: Transform = setting(RECIPES[PAPER].transform)
    training: Optimisation = setting(RECIPES[PAPER].training)
    objective: Objective = setting(Objective())
    measured: Measurement = setting(Measurement())
    no_bn: bool = False
    seed: int = setting(0, SEED)
    debug: bool = False
    recipe: str = setting(PAPER, choices=tuple(RECIPES))
    images: str = setting(REAL, choices=IMAGES)

    def __post_init__(self):
        super().__post_init__()
        if self.images == INVARIANT:
            object.__setattr__(self, "no_bn", True)

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """With what the recipe stands for."""
        return completed(values, cls.__dataclass_fields__["recipe"].default)


@dataclass(frozen=True, kw_only=True)
class Stitching(Stitched):
    """One stitch of two networks, whichever they are.

    Attributes
    ----------
    save_frequency : the map is kept every `save_frequency` × epochs iterations.
    """

    cut: Cut
    save_frequency: int = setting(10, AT_LEAST_ONE)


def stitching(front_layer: str, end_layer: str, **settings: Any) -> Stitching:
    """How to stitch, from settings by their own names: ``stitching("bn3", "bn3", epochs=5)``. What
    is not said is as the recipe has it.

    Raises
    ------
    UserError : for an unknown setting, or a value that is none of it.
    """
    return from_flat(Stitching, {"front_layer": front_layer, "end_layer": end_layer, **settings})


@dataclass(frozen=True, kw_only=True)
class StitchPlan(Stitching):
    """Stitch the front of one network to the end of another.

    Attributes
    ----------
    dataset : what the map is trained and measured on.
    eval_dataset : another one that it is measured on, too; None for none.
    """

    KIND: ClassVar[str] = "stitch"
    FORMAT: ClassVar[int] = 1

    front: NetworkRef
    end: NetworkRef
    dataset: DataRef
    eval_dataset: DataRef | None = None


MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class GridPlan(Stitched):
    """Stitch every layer of one network to every layer of another.

    Attributes
    ----------
    dataset, eval_dataset : as in `StitchPlan`.
    front_layers, end_layers : None takes the clean cuts.
    cells : which of them are stitched: all with all; those of the same name or, where they have
        none in common, of the same depth ("diagonal"); the first with the first, and so on
        ("pairs").
    seeds : how many times, with `seed` and those that follow.
    attack_all : also attack direct matching, the map before training, and see what transfers.
    frank_models : leave every stitched network as a file of its own.
    """

    KIND: ClassVar[str] = "grid"
    FORMAT: ClassVar[int] = 1

    front: NetworkRef
    end: NetworkRef
    dataset: DataRef
    eval_dataset: DataRef | None = None
    front_layers: tuple[str, ...] | None = setting(None, SOME)
    end_layers: tuple[str, ...] | None = setting(None, SOME)
    cells: str = setting("all", choices=CELLS)
    transform: Transform = setting(RECIPES[FAST].transform)
    training: Optimisation = setting(RECIPES[FAST].training)
    measured: Measurement = setting(Measurement(similarity_images=2000))
    recipe: str = setting(FAST, choices=tuple(RECIPES))
    seeds: int = setting(1, AT_LEAST_ONE)
    attack_all: bool = False
    frank_models: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.seeds > MOST_SEEDS:
            raise UserError(
                f"seeds={self.seeds} is more than {MOST_SEEDS}, and each makes the whole map; "
                "choose fewer `seeds`."
            )
        if not SEED.hold(self.seed + self.seeds - 1):
            raise UserError(
                f"seed={self.seed} with seeds={self.seeds} goes beyond 2^63 - 1; choose a smaller "
                "`seed`."
            )

    def cell(self, front_layer: str, end_layer: str, seed: int) -> Stitching:
        """The stitch of two of the layers, by one of the seeds."""
        shared = {own.name: getattr(self, own.name) for own in fields(Stitched)}
        return Stitching(**shared | {"cut": Cut(front_layer, end_layer), "seed": seed})


@dataclass(frozen=True, kw_only=True)
class Comparing(Settings):
    """How representations are compared, all layers with all.

    Attributes
    ----------
    layers1, layers2 : None takes the clean cuts of networks, and all layers of files.
    measures : their names; None takes the usual ones.
    n_images : how many, chosen at random by the seed; None takes all.
    batch_size : images at a time; the batches of minibatch CKA.
    neighbours : how many nearest neighbours are looked at.
    positions : what measures of channels take for rows, see `similarity.rows`.
    seed : of the choice of images and positions, of the order in batches, and of permutations.
    null : how many permutations tell what values would be by chance; 0 for none.
    interval : whether values have 95% intervals.
    """

    layers1: tuple[str, ...] | None = setting(None, SOME)
    layers2: tuple[str, ...] | None = setting(None, SOME)
    measures: tuple[str, ...] | None = setting(None, SOME)
    n_images: int | None = setting(None, AT_LEAST_ONE)
    batch_size: int = setting(250, AT_LEAST_ONE)
    neighbours: int = setting(10, AT_LEAST_ONE)
    positions: str = setting("pooled", choices=POSITIONS)
    seed: int = setting(0, SEED)
    null: int = setting(0, PERMUTATIONS)
    interval: bool = False


@dataclass(frozen=True, kw_only=True)
class ComparePlan(Comparing):
    """Compare the layers of two networks, and their answers.

    Attributes
    ----------
    split : "test" or "train".
    """

    KIND: ClassVar[str] = "compare"
    FORMAT: ClassVar[int] = 1

    model1: NetworkRef
    model2: NetworkRef
    dataset: DataRef
    split: str = setting("test", choices=SPLITS)


@dataclass(frozen=True, kw_only=True)
class CompareSavedPlan(Comparing):
    """Compare activations that were saved in files."""

    KIND: ClassVar[str] = "compare_saved"
    FORMAT: ClassVar[int] = 1

    model1: FileRef
    model2: FileRef


@dataclass(frozen=True, kw_only=True)
class EvaluatePlan(Settings):
    """Measure loss and accuracy of a network.

    Attributes
    ----------
    dataset : None takes what the network was trained on.
    batch_size : images at a time; changes nothing but speed and memory.
    """

    KIND: ClassVar[str] = "evaluate"
    FORMAT: ClassVar[int] = 1

    checkpoint: NetworkRef
    dataset: DataRef | None = None
    split: str = setting("test", choices=SPLITS)
    batch_size: int = setting(250, AT_LEAST_ONE, counts=False)


@dataclass(frozen=True, kw_only=True)
class AttackPlan(Settings):
    """Measure the accuracy of a network under attack.

    Attributes
    ----------
    dataset : None takes what the network was trained on.
    epsilon : radius in pixel space; None is the usual one of the dataset and the norm.
    steps : of PGD and of each APGD.
    step_size : of PGD; None is 2.5 epsilon / steps.
    restarts : random starts of every attack but FGSM.
    n_images : how many test images, chosen at random by the seed; None takes all.
    batch_size : images at a time.
    """

    KIND: ClassVar[str] = "attack"
    FORMAT: ClassVar[int] = 1

    checkpoint: NetworkRef
    dataset: DataRef | None = None
    tier: str = setting("default", choices=TIERS)
    norm: str = setting("linf", choices=NORMS)
    epsilon: float | None = setting(None, POSITIVE)
    steps: int = setting(20, AT_LEAST_ONE)
    step_size: float | None = setting(None, POSITIVE)
    restarts: int = setting(1, AT_LEAST_ONE)
    n_images: int | None = setting(None, AT_LEAST_ONE)
    seed: int = setting(0, SEED)
    batch_size: int = setting(250, AT_LEAST_ONE)
