"""Attacking the images of a split with a suite of attacks, batch by batch."""

from collections.abc import Callable

import torch
from torch import nn

from robust_stitching.attacks.loop import all_finite
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.labels import are_right, per_image
from robust_stitching.basics.modes import logits_of, without_tf32
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.doubts import doubts
from robust_stitching.evaluation.known import WORST, Part, Robustness
from robust_stitching.evaluation.pace import Pace
from robust_stitching.evaluation.suites import Suite, suite
from robust_stitching.graphs.folding import view_of

__all__ = ["BATCH_SIZE", "WORST", "Part", "Robustness", "Suite", "robustness", "suite"]

BATCH_SIZE = 250


def robustness(
    network: nn.Module,
    split: AnySplit,
    attacks: Suite,
    *,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Progress = silent,
    what: str = "attacking",
    known: Robustness | None = None,
    after_batch: Callable[[Part], None] = lambda part: None,
    keep_images: bool = True,
    view: nn.Module | None = None,
) -> Robustness:
    """Attack every image of `split` that the network gets right, with every attack; of an image
    with attributes, one right answer is enough.

    Parameters
    ----------
    seed : of the random starts, which follow from it and from the place of an image in the split.
    known : what an earlier, interrupted call had found out; it is gone on with.
    after_batch : called with what each batch adds: the place to keep it.
    keep_images : whether the adversarial images are kept, which takes the memory of all images.
    view : what is attacked in place of the network, where its `view_of` is known already.

    Raises
    ------
    UserError : for a split without images.
    """
    if not len(split):
        raise UserError(f"there is no image of {split.name} to attack.")
    known = known or Robustness.begin(split, attacks, keep_images)
    view = view_of(network) if view is None else view
    with without_tf32(), progress(len(split), what) as bar:
        bar.initial = bar.n = known.done
        pace = Pace(bar, attacks.passes)
        with pace.watching(view):
            for start in range(known.done, len(split), batch_size):
                batch = split.between(start, start + batch_size)
                pace.batch(len(batch))
                part = _attack_batch(view, batch, start, attacks, seed, pace)
                known.add(part)
                after_batch(part)
            pace.batch(0)
    known.warnings = [
        *attacks.warnings,
        *doubts(network, view, split, attacks, known, seed=seed, progress=progress),
    ]
    return known


def _attack_batch(
    network: nn.Module, split: AnySplit, start: int, attacks: Suite, seed: int, pace: Pace
) -> Part:
    """Run every attack on the images of `split`, a part of the whole that begins at `start`."""
    ((images, labels),) = split.batches(len(split))
    logits = logits_of(network, images)
    sound = all_finite(logits)
    right = (are_right(logits, labels) & sound.view(-1, *[1] * (labels.ndim - 1))).cpu()
    not_finite = ~sound.cpu()
    no_gradient = torch.zeros_like(not_finite)
    steps = {name: torch.full(right.shape, -1) for name in attacks.attacks}
    fooled, most = torch.zeros_like(right), torch.zeros(len(right), dtype=torch.long)
    changed = images.cpu().clone()
    for name, attack in attacks.attacks.items():
        pace.part(name, attack.passes * attack.restarts)
        standing = right & ~fooled if attack.on_what_is_left else right
        rows = per_image(standing).nonzero()[:, 0]
        if not len(rows):
            continue
        at = rows.to(images.device)
        attacked = attack(network, images[at], labels[at], start + rows, seed, name).cpu()
        new = attacked.fooled & right[rows]
        steps[name][rows] = torch.where(new, attacked.step, -1)
        fooled[rows] |= new
        not_finite[rows] |= attacked.not_finite
        if name == "FGSM":
            no_gradient[rows] = attacked.no_gradient
        better = per_image(new) > most[rows]
        changed[rows[better]] = attacked.images[better]
        most[rows] = torch.maximum(most[rows], per_image(new))
    places = most.nonzero()[:, 0]
    return Part(start, right, steps, no_gradient, not_finite, start + places, changed[places])
