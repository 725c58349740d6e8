"""Maps between two layers in closed form, from the moments of their activations, without training:
direct matching by least squares, under a mask, of a rank or channel by channel too, and the best
orthogonal map."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.modes import evaluating
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.graphs import graph
from robust_stitching.graphs.layout import Layout
from robust_stitching.graphs.transform import Form
from robust_stitching.similarity import Moments, Spread
from robust_stitching.stitching.comoments import Pair, Side, of_maps, take_in, take_in_units

log = logging.getLogger(__name__)
BATCH_SIZE = 100
BATCH_BYTES = 2**28  # of float64 rows of one side
MOST_VARIABLES = 6000  # their co-moments and eigenvalues take minutes and a gigabyte


def moments_of(
    front: nn.Module,
    front_layer: str,
    end: nn.Module,
    end_layer: str,
    split: AnySplit,
    form: Form | None = None,
    progress: Progress = silent,
) -> Moments:
    """Moments of the front's activations (x) and the end's (y) over all positions of all images of
    `split`, unaugmented, in evaluation mode; of a form that flattens, over the images.

    The front's activations are resized to the end's positions first, as in `LinearMap`; tokens of
    no position enter where both layers have as many of them, see `layout.paired_rows`.

    Raises
    ------
    UserError : for more variables than can be handled.
    """
    (moments,) = moments_of_all(front, end, [(front_layer, end_layer)], split, form, progress)
    return moments


def moments_of_all(
    front: nn.Module,
    end: nn.Module,
    pairs: Sequence[tuple[str, str]],
    split: AnySplit,
    form: Form | None = None,
    progress: Progress = silent,
) -> list[Moments]:
    """The same of many pairs of layers, in one pass for all whose batches are equally large."""
    form, found = form or Form(), {}
    layouts = {
        pair: (graph.layout_of(front, pair[0]), graph.layout_of(end, pair[1])) for pair in pairs
    }
    for cut in layouts.values():
        check_size(*form.shape(*cut))
    for batch_size, moments in nothing_yet(layouts, form, split.device).items():
        _gather(front, end, moments, split, batch_size, form.flatten, progress)
        found |= moments
    return [found[pair] for pair in pairs]


def nothing_yet(
    cuts: Mapping[Pair, tuple[Layout, Layout]], form: Form, device: torch.device | str
) -> dict[int, dict[Pair, Moments]]:
    """Moments of pairs of layers that have taken in nothing, by how large batches may be. What
    belongs to one layer alone is one for all pairs with the same rows."""
    alike: dict[int, dict[Pair, Moments]] = defaultdict(dict)
    spreads: dict[tuple, Spread] = {}
    for (source, goal), (own, target) in cuts.items():
        outputs, inputs = form.shape(own, target)
        size = batch_size_of(own, target, form)
        if form.flatten:
            rows = size, None
        else:
            rows = size, target.grid if of_maps(own, target) else (source, goal)
        keys = ("x", source, rows), ("y", goal, rows)
        for key, variables in zip(keys, (inputs, outputs), strict=True):
            if key not in spreads:
                spreads[key] = Spread(variables, device)
        own_x, own_y = (spreads[key] for key in keys)
        alike[size][source, goal] = Moments(inputs, outputs, device, own_x, own_y)
    return alike


def batch_size_of(front: Layout, end: Layout, form: Form) -> int:
    """How many images are looked at together: their rows take no more than `BATCH_BYTES`."""
    largest = 8 * max(form.shape(front, end)) * (1 if form.flatten else end.positions)
    return max(1, min(BATCH_SIZE, BATCH_BYTES // largest))


def _gather(
    front: nn.Module,
    end: nn.Module,
    moments: Mapping[Pair, Moments],
    split: AnySplit,
    batch_size: int,
    flatten: bool,
    progress: Progress,
) -> None:
    """Let moments take in what two networks make of a split."""
    sources, goals = (list(dict.fromkeys(names)) for names in zip(*moments, strict=True))
    head, target = graph.features(front, sources), graph.features(end, goals)
    theirs = {name: graph.layout_of(front, name) for name in sources}
    ours = {name: graph.layout_of(end, name) for name in goals}
    with evaluating(head, target), progress(len(split), "direct matching") as bar:
        for images, labels in split.batches(batch_size):
            xs = dict(zip(sources, head(images), strict=True))
            ys = dict(zip(goals, target(images), strict=True))
            take_in_batch(moments, Side(xs, theirs), Side(ys, ours), flatten)
            bar.update(len(labels))
    for (source, goal), own in moments.items():
        log.debug(
            "moments of %s and %s over %d positions: %d of %d front channels are dead",
            *(source, goal, own.n),
            int((own.xx.diagonal() == 0).sum()),
            len(own.xx),
        )


def take_in_batch(
    moments: Mapping[tuple[str, str], Moments], front: Side, end: Side, flatten: bool
) -> None:
    """Let the moments of pairs of layers take in a batch, of channels at positions or, where they
    are flattened, of units."""
    if flatten:
        take_in_units(moments, front.values, end.values)
    else:
        take_in(moments, front, end)


def too_large(rows: int, columns: int) -> bool:
    """Whether closed-form maps of that size would take too long."""
    return max(rows, columns) > MOST_VARIABLES


def check_size(rows: int, columns: int) -> None:
    """Raise UserError where closed-form maps would take too long."""
    if too_large(rows, columns):
        raise UserError(
            "masks by correlation, init='ps_inv', init='procrustes' and whiten=True between "
            f"{columns:,} and {rows:,} units would take too long (the limit is "
            f"{MOST_VARIABLES:,}); use init='random' with neither, or cut where activations are "
            "smaller."
        )


def direct(
    moments: Moments, mask: Tensor | None = None, rank: int | None = None
) -> tuple[Tensor, Tensor]:
    """Direct matching (Csiszárik et al., 2021, section 3.2): matrix (rows, columns) and bias that
    bring x closest to y in the sum of squares; float32, on the CPU.

    Parameters
    ----------
    mask : bool, with at most one entry a row: among the matrices that are zero elsewhere.
    rank : among the matrices of at most this rank: reduced-rank regression (Izenman, 1975), the
        full solution projected onto the main directions of what it predicts.
    """
    if mask is None:
        matrix, _ = moments.least_squares()
    else:
        used = mask.to(moments.xx.device) & moments.alive()[0]
        matrix = torch.where(used, moments.xy.T / moments.xx.diagonal(), 0.0)
    if rank is not None:
        predicted = matrix @ moments.xx @ matrix.T
        main = torch.linalg.eigh(predicted).eigenvectors[:, -rank:]
        matrix = main @ (main.T @ matrix)
    return _with_bias(moments, matrix)


def channelwise(moments: Moments) -> tuple[Tensor, Tensor]:
    """Direct matching by a scale and a bias a channel, (C,) both: the least squares line of every
    channel of y over the same one of x, flat where that is dead; float32, on the CPU."""
    own = torch.eye(len(moments.xx), dtype=torch.bool)
    matrix, bias = direct(moments, own)
    return matrix.diagonal().clone(), bias


def procrustes(moments: Moments) -> tuple[Tensor, Tensor]:
    """The orthogonal matrix (C, C), and bias, that bring x closest to y (Schönemann, 1966): U Vᵀ of
    the singular value decomposition of the co-moments of y and x; float32, on the CPU."""
    u, _, v = torch.linalg.svd(moments.xy.T)
    return _with_bias(moments, u @ v)


def _with_bias(moments: Moments, matrix: Tensor) -> tuple[Tensor, Tensor]:
    bias = moments.mean_y - matrix @ moments.mean_x
    return matrix.float().cpu(), bias.float().cpu()
