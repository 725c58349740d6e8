"""What a grid takes of memory while it is made."""

from torch import nn

from robust_stitching.data import AnySplit
from robust_stitching.graphs.graph import graph_of
from robust_stitching.plans import GridPlan
from robust_stitching.plans.parts import INVARIANT
from robust_stitching.stitching import ood
from robust_stitching.stitching.fit import form_of, wants_moments
from robust_stitching.stitching.grid.cells import Cuts
from robust_stitching.stitching.grid.measure import KEPT_BYTES
from robust_stitching.stitching.grid.training import COPIES, GROUP_BYTES
from robust_stitching.stitching.matching import nothing_yet
from robust_stitching.stitching.once import BATCH_SIZE

FLOAT = 4

KEPT = 5
"""Copies of each map that stay: untrained, trained, by direct matching, and two of networks with
that; a control has the first two."""

WITH_GRADIENT = 2
"""Of an activation: its value, and the gradient where something is trained or attacked."""

SOLVING = 5
"""Matrices as large as the largest co-moments that finding a map from these takes."""

SLACK = 2
"""What allocators hold for each byte that is in use: 8 × 8 maps of two tiny10, compared on 2,000
images, took 0.93 GB beyond what was there before, where this sum is 0.53 GB."""


def memory_of(
    plan: GridPlan,
    cuts: Cuts,
    front: nn.Module,
    end: nn.Module,
    images: int,
    train: AnySplit | None = None,
) -> int:
    """About how many bytes making a grid takes at once, networks and real images aside.

    Parameters
    ----------
    images : how many are compared.
    train : the real images that the maps are trained on or, where `plan.images` are others, that
        each front layer has some in place of.
    """
    form = form_of(plan.transform)
    sizes = [FLOAT * form.weights(*layouts) for layouts in cuts.values()]
    maps = trained_at_once = sum(sizes)
    kept = maps * plan.seeds * KEPT
    if plan.measured.controls:
        ends = {column: layout for (_, column), (_, layout) in cuts.items()}
        selves = [FLOAT * form.weights(layout, layout) for layout in ends.values()]
        kept += plan.seeds * 2 * (maps * plan.measured.random_fronts + sum(selves))
        sizes, trained_at_once = sizes + selves, max(maps, sum(selves))
    training = min(trained_at_once * COPIES, max(GROUP_BYTES, max(sizes) * COPIES))
    trained, measured = plan.training.batch_size * WITH_GRADIENT, BATCH_SIZE
    if not plan.measured.no_robustness or plan.images == INVARIANT:
        measured *= WITH_GRADIENT
    batch = FLOAT * max(trained, measured) * (_units(front) + _units(end))
    compared = 0
    if not plan.measured.no_pinv:
        row, column = (max(own.units for own in side) for side in zip(*cuts.values(), strict=True))
        compared = min(KEPT_BYTES, images * FLOAT * (row + KEPT * column))
        compared = max(compared, *(ood.memory_of(own) for _, own in cuts.values()))
    kept += _moments(plan, cuts, front, end)
    if plan.images == INVARIANT and train is not None:
        rows = len({row for row, _ in cuts}) * plan.seeds + (1 if plan.measured.controls else 0)
        kept += rows * len(train) * train.channels * train.image_size**2
    return kept + training + SLACK * (batch + compared)


def _moments(plan: GridPlan, cuts: Cuts, front: nn.Module, end: nn.Module) -> int:
    """Of what maps in closed form are found from, the most at once."""
    own, others = _moments_between(plan, cuts, front, end, main=True), 0
    if plan.measured.controls:
        selves = {(column, column): (layout, layout) for (_, column), (_, layout) in cuts.items()}
        others = max(
            _moments_between(plan, selves, end, end, main=False),
            _moments_between(plan, cuts, front, end, main=False),
        )
    return max(own, others) if plan.seeds == 1 else own + others


def _moments_between(
    plan: GridPlan, cuts: Cuts, front: nn.Module, end: nn.Module, main: bool
) -> int:
    one = plan.cell(*next(iter(cuts)), plan.seed)
    wanted = {
        (row, column): layouts
        for (row, column), layouts in cuts.items()
        if wants_moments((front, row), (end, column), one, main)
    }
    alike = nothing_yet(wanted, form_of(plan.transform), "meta")
    moments = [own for some in alike.values() for own in some.values()]
    sums = dict.fromkeys(values for own in moments for values in (own.xx, own.xy, own.yy))
    solving = SOLVING * max((own.xx.nbytes for own in moments), default=0)
    return sum(values.nbytes for values in sums) + solving


def _units(network: nn.Module) -> int:
    """Of all activations of one image."""
    known = graph_of(network)
    units = {known.node(name): layer.layout.units for name, layer in known.layers.items()}
    return sum(units.values())
