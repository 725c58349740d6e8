"""What to stitch and how: one frozen value, from which a run follows."""

from dataclasses import dataclass

from robust_stitching.evaluation.suites import REPORTED
from robust_stitching.graphs.transform import Form
from robust_stitching.stitching.masks import NO_MASK
from robust_stitching.training import Adversary


@dataclass(frozen=True)
class StitchConfig:
    """What to stitch and how; the flags of find_transform.py say the same in the same words.

    Attributes
    ----------
    save_frequency : the map is kept every `save_frequency` × `epochs` iterations.
    seed : of the initialisation, of order and augmentation.
    flatten : map all units to all units instead of channel to channel.
    l1 : weight of the mean absolute value of the matrix.
    cka_reg : weight of the CKA between mapped activation and the end's own; negative raises it.
    init, mask : see `initial.INITS` and `masks.MASKS`.
    low_rank : rank of the matrix; None is full.
    target_type, temperature : see `objective.goal_of`.
    no_bn : freeze the running statistics of the donors' batch norms too.
    no_pinv : leave out CKA, direct matching and what follows from them.
    debug : use a few batches only.
    adversary : the attack that the map is trained under; None for standard training.
    controls : also stitch the end to itself, and fronts with random weights.
    random_fronts : how many of those.
    no_robustness : leave out attacks on the networks and what transfers between them.
    robust_images : how many test images are attacked, chosen at random by the seed.
    eval_epsilon : l-inf radius of those attacks; None is the usual one of the dataset.
    tier : which attacks they are (see `evaluation.suites.suite`).
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
    flatten: bool = False
    l1: float = 0.0
    cka_reg: float = 0.0
    init: str = "random"
    mask: str = NO_MASK
    low_rank: int | None = None
    target_type: str = "hard"
    temperature: float = 1.0
    no_bn: bool = False
    no_pinv: bool = False
    debug: bool = False
    precision: str = "float32"
    adversary: Adversary | None = None
    controls: bool = False
    random_fronts: int = 3
    no_robustness: bool = False
    robust_images: int = 200
    eval_epsilon: float | None = None
    tier: str = REPORTED

    @property
    def form(self) -> Form:
        """Which matrices the map is chosen from."""
        return Form(self.flatten, self.low_rank, masked=self.mask != NO_MASK)
