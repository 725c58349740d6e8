"""What plans are composed of: networks, data, cuts, maps, trainings, objectives, measurements."""

from dataclasses import dataclass, replace

from robust_stitching.plans.settings import (
    AT_LEAST_ONE,
    AT_LEAST_ZERO,
    COUNT,
    ENOUGH,
    NOT_NEGATIVE,
    POSITIVE,
    RADIUS,
    SHARE,
    SOME,
    TEMPERATURE,
    Settings,
    setting,
)

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("steps", "cosine")
PRECISIONS = ("auto", "float32", "bfloat16")
INITS = ("random", "perm", "eye", "ps_inv", "procrustes", "ones-zeros", "zeros")
FROM_DATA = ("ps_inv", "procrustes")
"""Those of `INITS` that are computed from activations."""

LINEAR, AFFINE, MLP = "linear", "affine-channels", "mlp"
MAPS = (LINEAR, AFFINE, MLP)
NO_MASK, PERMUTED = "identity", "random-permutation"
MASKS = (NO_MASK, "semi-match", "abs-semi-match", "hungarian", PERMUTED)
FROM_CORRELATIONS = ("semi-match", "abs-semi-match", "hungarian")
"""Those of `MASKS`."""

TASK = "task"
OBJECTIVES = (TASK, "direct", "fula", "features")
HARD = "hard"
TARGETS = (HARD, "soft_1", "soft_2", "soft_12", "soft_1_plus_2")
TIERS = ("quick", "gradient", "default", "standard")
REPORTED_TIER = "gradient"
"""Of the reports of stitches, which attack several networks."""
NORMS = ("linf", "l2")
POSITIONS = ("pooled", "all")
SPLITS = ("test", "train")
CELLS = ("all", "diagonal", "pairs")
ADVERSARIES = ("madry", "trades")
AUTO, ALL = "auto", "all"
REAL, INVARIANT = "real", "invariant"
IMAGES = (REAL, INVARIANT)


@dataclass(frozen=True)
class NetworkRef(Settings):
    """A network that lies in a file.

    Attributes
    ----------
    path : of the file.
    hash : of its weights and its architecture; None until it was read. It is what counts then: a
        file may move, and what it says may be said as well.
    mean, std : of the images that it was made with, per channel in [0, 1]; None takes what its file
        says.
    weights : which to take where the file holds several; None takes the plain ones.
    model : what a bare state dict is of, a name of the registry or the user's own
        ``path/file.py:function``; None reads it from the path.
    """

    path: str = setting(unless="hash")
    hash: str | None = None
    mean: tuple[float, ...] | None = setting(None, SOME, unless="hash")
    std: tuple[float, ...] | None = setting(None, SOME, unless="hash")
    weights: str | None = setting(None, unless="hash")
    model: str | None = setting(None, unless="hash")


@dataclass(frozen=True)
class DataRef(Settings):
    """A dataset.

    Attributes
    ----------
    name : a known dataset's key, or the path of a folder.
    hash : of the images of both splits, their labels, size and classes, or, of files that are
        streamed, of their paths, sizes and labels; None until they were read.
    """

    name: str = setting(unless="hash")
    hash: str | None = None


@dataclass(frozen=True)
class FileRef(Settings):
    """A file that counts by what it holds.

    Attributes
    ----------
    path : where it lies.
    hash : of its content; None until it was read.
    """

    path: str = setting(unless="hash")
    hash: str | None = None


@dataclass(frozen=True)
class Cut(Settings):
    """Where two networks are cut: the layer whose activation is mapped, and the one whose
    activation the map replaces."""

    front_layer: str
    end_layer: str


@dataclass(frozen=True)
class Transform(Settings):
    """Which map, and where it begins.

    Attributes
    ----------
    init : its first values, see `stitching.initial`.
    mask : which entries may differ from zero, see `stitching.masks`.
    low_rank : the rank of its matrix; None is full.
    flatten : map all units to all units instead of channel to channel.
    whiten : train it in coordinates in which its inputs are white, see `training.whitened`; of full
        matrices between channels only.
    fit_images : how many training images maps in closed form are computed from, always the same
        ones; None takes all.
    map : "linear"; "affine-channels" is a scale and a bias a channel, "mlp" two linear layers with
        a ReLU between, see `graphs.kinds`.
    """

    init: str = setting("random", choices=INITS)
    mask: str = setting(NO_MASK, choices=MASKS)
    low_rank: int | None = setting(None, AT_LEAST_ONE)
    flatten: bool = False
    whiten: bool = False
    fit_images: int | None = setting(None, AT_LEAST_ONE)
    map: str = setting(LINEAR, choices=MAPS)


@dataclass(frozen=True)
class Optimisation(Settings):
    """How weights are trained.

    Attributes
    ----------
    lr : the largest learning rate.
    weight_decay : L2 penalty, added to the gradient.
    optimizer : "sgd" (Nesterov momentum 0.9) or "adam".
    warmup : iterations over which the learning rate rises linearly from 0; never more than a fifth
        of the training; 0 turns it off.
    clip_norm : largest norm of the gradient of all parameters together; 0 turns clipping off.
    precision : "float32", "bfloat16" for autocast, or "auto" for what the device is best at.
    schedule : of the learning rate; "steps" has a tenth of it in the second third of the training
        and a hundredth in the last, "cosine" lets it fall to zero.
    """

    epochs: int = setting(limits=AT_LEAST_ONE)
    lr: float = setting(limits=POSITIVE)
    batch_size: int = setting(128, AT_LEAST_ONE)
    weight_decay: float = setting(1e-4, AT_LEAST_ZERO)
    optimizer: str = setting("sgd", choices=OPTIMIZERS)
    warmup: int = setting(0, COUNT)
    clip_norm: float = setting(0.0, AT_LEAST_ZERO)
    precision: str = setting("auto", choices=PRECISIONS)
    schedule: str = setting("steps", choices=SCHEDULES)


@dataclass(frozen=True)
class Adversary(Settings):
    """The attack inside adversarial training.

    Attributes
    ----------
    kind : "madry" or "trades".
    epsilon, step_size : l-inf radius and step, in pixel space.
    perturb_steps : steps of the attack.
    beta : weight of the TRADES term.
    attack_ratio : share of each batch that is attacked, 0 to 1.
    ramp : iterations over which epsilon and step rise to their values, at most a third of the
        training; 0 turns that off.
    """

    kind: str = setting(choices=ADVERSARIES)
    epsilon: float = setting(8 / 255, RADIUS)
    step_size: float = setting(2 / 255, POSITIVE)
    perturb_steps: int = setting(10, AT_LEAST_ONE)
    beta: float = setting(10.0, AT_LEAST_ZERO)
    attack_ratio: float = setting(1.0, SHARE)
    ramp: int = setting(500, COUNT)

    @property
    def label(self) -> str:
        """As part of a folder's name: kind and radius."""
        return f"{self.kind}-eps{self.epsilon:.4g}"

    def within(self, iterations: int) -> "Adversary":
        """The same for a training of so many iterations: the ramp takes a third at most."""
        return replace(self, ramp=min(self.ramp, iterations // 3))

    def attacked(self, batch: int) -> int:
        """How many images of a batch are attacked. TRADES shows them to the network by themselves,
        in training mode, where batch norms need two: it attacks two where it would attack one."""
        k = round(self.attack_ratio * batch)
        return min(2, batch) if k == 1 and self.kind == "trades" else k


@dataclass(frozen=True)
class Objective(Settings):
    """What the training of a map minimises.

    Attributes
    ----------
    target_type, temperature : what the stitched network is to answer, see `stitching.targets`.
    l1 : weight of the mean absolute value of what the map multiplies by: of the matrix, of the
        scales, of both layers together.
    cka_reg : weight of the CKA between mapped activation and the end's own; negative raises it.
    terms : further ones, "name=weight" each, see `stitching.terms`.
    adversary : the attack that the map is trained under; None for standard training.
    objective : "task" is the loss of what the stitched network is to answer; "direct", "fula" and
        "features" are distances of its activations from the end's own, see the terms of these
        names, in place of it.
    """

    target_type: str = setting(HARD, choices=TARGETS)
    temperature: float = setting(1.0, TEMPERATURE)
    l1: float = setting(0.0, AT_LEAST_ZERO)
    cka_reg: float = 0.0
    terms: tuple[str, ...] = ()
    adversary: Adversary | None = None
    objective: str = setting(TASK, choices=OBJECTIVES)


@dataclass(frozen=True)
class Measurement(Settings):
    """What is measured of a stitch.

    Attributes
    ----------
    no_pinv : leave out CKA, direct matching and what follows from them.
    no_robustness : leave out attacks on the networks and what transfers between them.
    robust_images : how many test images are attacked, chosen at random by the seed.
    eval_epsilon : l-inf radius of those attacks; None is the usual one of the dataset.
    tier : which attacks they are, see `evaluation.suites`.
    similarity_images : how many test images activations are compared on, chosen at random by the
        seed; "all" or None takes all, "auto" all where that takes no longer than the training of
        the map, see `stitching.budget`.
    controls : also stitch the end to itself, and fronts with random weights.
    random_fronts : how many of those.
    noise_sigmas : how noisy the class means are that a noise front, another of the controls, gives,
        one such front each, see `stitching.noise_front`; of none there is none.
    """

    no_pinv: bool = False
    similarity_images: int | str | None = setting(AUTO, ENOUGH, choices=(AUTO, ALL))
    no_robustness: bool = False
    robust_images: int = setting(200, AT_LEAST_ONE)
    eval_epsilon: float | None = setting(None, RADIUS)
    tier: str = setting(REPORTED_TIER, choices=TIERS)
    controls: bool = False
    random_fronts: int = setting(3, AT_LEAST_ONE)
    noise_sigmas: tuple[float, ...] = setting((0.0, 1.0, 4.0), NOT_NEGATIVE)

    def __post_init__(self):
        super().__post_init__()
        if self.similarity_images == ALL:
            object.__setattr__(self, "similarity_images", None)
