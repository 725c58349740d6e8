"""Which stitches make sense: all others are refused with a reason, before any work is done."""

from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit
from robust_stitching.graphs.transform import Form
from robust_stitching.similarity.gram import LEAST_IMAGES
from robust_stitching.stitching.attack_scores import check_attacks
from robust_stitching.stitching.initial import require_square
from robust_stitching.stitching.masks import NO_MASK
from robust_stitching.stitching.objective import FRONT_TARGETS, TARGETS
from robust_stitching.training import Adversary

MOST_WEIGHTS = 2**27  # half a gigabyte, four times that while it is trained
MOST_KEPT_BYTES = 2**30


def check_fit(front: Checkpoint, end: Checkpoint, split: AnySplit) -> None:
    """Raise UserError unless these networks can be stitched on these images: the end has to answer
    for the classes of the data, the front need not."""
    end.require_fit(split)
    front.require_images(split)


def check_target(kind: str, temperature: float, front: Checkpoint, split: AnySplit) -> None:
    """Raise UserError for targets that are unknown, or that these networks cannot give."""
    if kind not in TARGETS:
        raise unknown("target type", kind, TARGETS)
    if kind == "hard" and temperature != 1:
        raise UserError(
            f"--temperature {temperature:g} is of soft targets, but the target type is hard; "
            "choose --target-type soft_1, soft_2, soft_12 or soft_1_plus_2."
        )
    if kind in FRONT_TARGETS and front.classes != len(split.classes):
        raise UserError(
            f"--target-type {kind} needs the front's answers, but it tells {front.classes} classes "
            f"apart and {split.name} has {len(split.classes)}; use soft_2 or hard."
        )


def check_map(init: str, mask: str, form: Form, rows: int, columns: int) -> None:
    """Raise UserError where a start, a mask, and a form of map exclude each other."""
    if form.rank is not None and mask != NO_MASK:
        raise UserError(
            f"--low-rank {form.rank} and --mask {mask} exclude each other: which entries are left "
            "decides the rank; leave one of them out."
        )
    if mask != NO_MASK and init in ("eye", "perm", "procrustes"):
        raise UserError(
            f"--init {init} has its entries elsewhere than --mask {mask} leaves them; use "
            "--init ones-zeros, ps_inv, random or zeros."
        )
    full = min(rows, columns)
    if form.rank is not None and form.rank > full:
        raise UserError(
            f"--low-rank {form.rank} is more than a matrix of {rows}×{columns} can have; choose "
            f"{full} at most."
        )
    if form.rank is not None and form.rank < full and init in ("eye", "perm", "procrustes"):
        raise UserError(
            f"--init {init} has rank {full}, --low-rank {form.rank} less; use --init ps_inv, "
            "random, ones-zeros or zeros."
        )
    require_square(init, columns, rows)
    if rows * columns > MOST_WEIGHTS:
        raise UserError(
            f"a map of {rows:,}×{columns:,} units has {rows * columns:,} weights, more than "
            f"{MOST_WEIGHTS:,}; leave --flatten out, or cut where activations are smaller."
        )


def check_history(weights: int, iterations: int, every: int, epochs: int) -> None:
    """Raise UserError where the maps kept on the way would fill the memory."""
    most = max(MOST_KEPT_BYTES // (4 * weights) - 2, 1)
    if iterations // (every * epochs) > most:
        fitting = -(-iterations // (most * epochs))
        raise UserError(
            f"{iterations // (every * epochs)} maps of {weights:,} weights would be kept on the "
            f"way; keep fewer with --save-frequency {fitting} or more."
        )


def check_cka(weight: float, batch_size: int, adversary: Adversary | None) -> None:
    """Raise UserError where a batch, or what TRADES attacks of it, is too small for that term."""
    trades = adversary is not None and adversary.kind == "trades"
    images = (adversary.attacked(batch_size) or batch_size) if trades else batch_size
    if weight and images < LEAST_IMAGES:
        raise UserError(
            f"--cka-reg needs at least {LEAST_IMAGES} images at a time, not {images}; choose a "
            "larger --batch-size."
        )


def check_robustness(images: int, tier: str, epsilon: float | None, *splits: AnySplit) -> None:
    """Raise UserError where networks could not be attacked as asked on one of the test splits."""
    if images < 1:
        raise UserError(f"--robust-images has to be at least 1, not {images}.")
    for split in splits:
        check_attacks(tier, epsilon, split)
