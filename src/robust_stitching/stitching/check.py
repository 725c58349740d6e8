"""Which stitches make sense: all others are refused with a reason, before any work is done."""

from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit
from robust_stitching.data.split import MOST_IN_MEMORY
from robust_stitching.graphs.kinds import require_equal
from robust_stitching.graphs.transform import weights_of
from robust_stitching.plans import Measurement, Objective, Transform, as_values
from robust_stitching.plans.actions import Stitched
from robust_stitching.plans.parts import AFFINE, INVARIANT, LINEAR, MLP, NO_MASK, TASK
from robust_stitching.plans.recipes import may_be_white
from robust_stitching.stitching.attack_scores import check_attacks
from robust_stitching.stitching.initial import require_square
from robust_stitching.stitching.masks import check_mask
from robust_stitching.stitching.targets import FRONT_TARGETS
from robust_stitching.stitching.terms import terms_of

MOST_WEIGHTS = 2**27  # half a gigabyte, four times that while it is trained
MOST_KEPT_BYTES = 2**30


def check_fit(front: Checkpoint, end: Checkpoint, split: AnySplit) -> None:
    """Raise UserError unless these networks can be stitched on these images: the end has to answer
    for the classes of the data, the front need not."""
    end.require_fit(split)
    front.require_images(split)


def check_target(plan: Objective, front: Checkpoint, split: AnySplit) -> None:
    """Raise UserError for targets that these networks cannot give."""
    kind = plan.target_type
    if plan.objective != TASK and kind != "hard":
        raise UserError(
            f"target_type={kind!r} is of the task, but the objective is {plan.objective!r}, which "
            "asks for activations; leave `target_type` out."
        )
    if kind == "hard" and plan.temperature != 1:
        raise UserError(
            f"temperature={plan.temperature:g} is of soft targets, but the target type is hard; "
            "choose target_type='soft_1', soft_2, soft_12 or soft_1_plus_2."
        )
    if kind in FRONT_TARGETS and front.classes != len(split.classes):
        raise UserError(
            f"target_type={kind!r} needs the front's answers, but it tells {front.classes} classes "
            f"apart and {split.name} has {len(split.classes)}; use soft_2 or hard."
        )


def check_map(plan: Transform, rows: int, columns: int) -> None:
    """Raise UserError where the settings of a map of that size exclude each other."""
    init, mask, rank = plan.init, plan.mask, plan.low_rank
    if plan.whiten and not may_be_white(as_values(plan)):
        raise UserError(
            "whiten=True is for full matrices between channels; leave it out, or `map`, `mask`, "
            "`low_rank` and `flatten`."
        )
    if plan.map != LINEAR:
        _check_kind(plan, rows, columns)
    if rank is not None and mask != NO_MASK:
        raise UserError(
            f"low_rank={rank} and mask={mask!r} exclude each other: which entries are left "
            "decides the rank; leave one of them out."
        )
    if mask != NO_MASK and init in ("eye", "perm", "procrustes"):
        raise UserError(
            f"init={init!r} has its entries elsewhere than mask={mask!r} leaves them; use "
            "init='ones-zeros', ps_inv, random or zeros."
        )
    full = min(rows, columns)
    if rank is not None and rank > full:
        raise UserError(
            f"low_rank={rank} is more than a matrix of {rows}×{columns} can have; choose "
            f"{full} at most."
        )
    if rank is not None and rank < full and init in ("eye", "perm", "procrustes"):
        raise UserError(
            f"init={init!r} has rank {full}, low_rank={rank} less; use init='ps_inv', random, "
            "ones-zeros or zeros."
        )
    require_square(init, columns, rows)
    check_mask(mask, columns, rows)
    weights = weights_of(plan.map, rows, columns)
    if weights > MOST_WEIGHTS:
        raise UserError(
            f"a map of {rows:,}×{columns:,} units has {weights:,} weights, more than "
            f"{MOST_WEIGHTS:,}; leave `flatten` out, or cut where activations are smaller."
        )


def _check_kind(plan: Transform, rows: int, columns: int) -> None:
    """Raise UserError where a map that is not linear has no such settings."""
    kind, init = plan.map, plan.init
    has = "a scale a channel" if kind == AFFINE else "two matrices"
    if plan.low_rank is not None:
        raise UserError(
            f"low_rank={plan.low_rank} is of one matrix, but map={kind!r} has {has}; leave one of "
            "them out."
        )
    if plan.mask != NO_MASK:
        raise UserError(
            f"mask={plan.mask!r} is of one matrix, but map={kind!r} has {has}; leave one of them "
            "out."
        )
    if kind == AFFINE and plan.flatten:
        raise UserError(
            f"flatten=True maps units to units, map={kind!r} each channel to its own; leave one of "
            "them out."
        )
    if kind == AFFINE and init in ("perm", "procrustes"):
        raise UserError(
            f"init={init!r} mixes channels, which map={kind!r} does not; use init='eye', ps_inv, "
            "random, ones-zeros or zeros."
        )
    if kind == MLP and init == "zeros":
        raise UserError(
            f"init='zeros' has nothing to learn from with map={kind!r}, whose ReLU has no gradient "
            "at zero; use init='random', ps_inv, procrustes, perm, eye or ones-zeros."
        )
    if kind == AFFINE:
        require_equal(rows, columns)


def check_history(weights: int, iterations: int, every: int, epochs: int) -> None:
    """Raise UserError where the maps kept on the way would fill the memory."""
    most = max(MOST_KEPT_BYTES // (4 * weights) - 2, 1)
    if iterations // (every * epochs) > most:
        fitting = -(-iterations // (most * epochs))
        raise UserError(
            f"{iterations // (every * epochs)} maps of {weights:,} weights would be kept on the "
            f"way; keep fewer with save_frequency={fitting} or more."
        )


def check_terms(plan: Objective, batch_size: int) -> None:
    """Raise UserError where a batch, or what TRADES attacks of it, is too small for a term."""
    adversary = plan.adversary
    trades = adversary is not None and adversary.kind == "trades"
    images = (adversary.attacked(batch_size) or batch_size) if trades else batch_size
    for term in terms_of(plan):
        if images < term.least_images:
            raise UserError(
                f"`{term.name}` needs at least {term.least_images} images at a time, not {images}; "
                "choose a larger `batch_size`."
            )


def check_images(plan: Stitched, train: AnySplit) -> None:
    """Raise UserError where no map can be trained on such images in place of those of `train`."""
    if plan.images != INVARIANT:
        return
    if plan.objective.adversary is not None:
        raise UserError(
            f"images={plan.images!r} are what the front takes for the real ones, which no attack "
            "would leave them; leave `madry` and `robust` out, or `images`."
        )
    size = len(train) * train.channels * train.image_size**2
    if size > MOST_IN_MEMORY:
        raise UserError(
            f"images={plan.images!r} are kept in memory, where those in place of the "
            f"{len(train):,} training images of {train.name} would take {size / 2**30:.1f} GiB, "
            f"more than {MOST_IN_MEMORY / 2**30:.0f}; take a folder with fewer images, or leave "
            "`images` out."
        )


def check_robustness(plan: Measurement, *splits: AnySplit) -> None:
    """Raise UserError where networks could not be attacked as asked on one of the test splits."""
    for split in splits:
        check_attacks(plan.tier, plan.eval_epsilon, split)
