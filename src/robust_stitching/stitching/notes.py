"""What a reader of a stitch has to know, in sentences."""

from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import Objective, Stitching
from robust_stitching.plans.actions import Stitched
from robust_stitching.plans.parts import HARD, INVARIANT, MLP, TASK
from robust_stitching.stitching.keeping import Map
from robust_stitching.training.adversarial import warnings_of


def notes_of_cut(network: StitchedNetwork, direct: Map | None, plan: Stitching) -> list[str]:
    """Of where two networks are cut, and of the map between."""
    notes, transform = [], network.transform
    if network.leaks:
        notes.append(
            f"The cut at '{plan.cut.end_layer}' leaks: a skip connection of the end network jumps "
            "over it, so part of the image reaches the output without passing the map."
        )
    if transform.resizes:
        notes.append(
            f"Activations of {transform.source} were brought to the positions of "
            f"{transform.target} before the map."
        )
    if direct is None and not plan.measured.no_pinv:
        notes.append(
            f"A map of {transform.rows:,}×{transform.columns:,} units is too large for direct "
            "matching, which was left out."
        )
    if transform.mask is not None:
        left_over = int((~transform.mask.any(dim=1)).sum())
        notes.append(
            f"The mask {plan.transform.mask} leaves {int(transform.mask.sum()):,} of "
            f"{transform.mask.numel():,} entries"
            + (f"; {left_over} channels of the end are their bias alone." if left_over else ".")
        )
    return notes


def notes_of_pair(
    front: Checkpoint,
    end: Checkpoint,
    train: AnySplit,
    elsewhere: AnySplit | None,
    plan: Stitched,
) -> list[str]:
    """Of the networks, the data and the training, wherever they are cut."""
    notes = [
        f"The attack in training is weaker than it seems: {warning}"
        for warning in warnings_of(plan.objective.adversary)
    ]
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
    if plan.images == INVARIANT and _asks_no_end(plan.objective):
        notes.append(
            "The map was trained for "
            + ("labels" if plan.objective.target_type == HARD else "the front's own answers")
            + ", so what the end makes of the invariant images makes no difference, unless by a "
            "skip connection; objective='fula', direct or features, and target_type='soft_2' ask "
            "for that."
        )
    if plan.transform.map == MLP and not plan.measured.no_pinv:
        notes.append(
            "Direct matching is by the best linear map: that of two layers has no closed form."
        )
    if plan.debug:
        notes.append("A debugging run on a few batches: these numbers mean nothing.")
    return notes


def _asks_no_end(objective: Objective) -> bool:
    """Whether nothing that a map is trained for looks at what the end network makes by itself."""
    own = objective.cka_reg or objective.terms
    return objective.objective == TASK and objective.target_type in (HARD, "soft_1") and not own
