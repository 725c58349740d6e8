"""How far values are to be doubted: the measures asked again of the images in other orders, and
without some of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import methodcaller

import torch
from torch import Tensor

from robust_stitching.basics.progress import Progress
from robust_stitching.similarity.forms import Settings
from robust_stitching.similarity.gathering import Gathered, Values
from robust_stitching.similarity.jackknife import blocks_of, interval
from robust_stitching.similarity.measure import Measure
from robust_stitching.similarity.null import null_of, null_of_best, orders


@dataclass(frozen=True)
class Doubts:
    """What is asked of values beside themselves.

    Attributes
    ----------
    permutations : of the images of side 2, for `null.Null`; 0 asks for none.
    interval : see `jackknife`.
    """

    permutations: int = 0
    interval: bool = False

    def __bool__(self) -> bool:
        return self.permutations > 0 or self.interval


NO_DOUBTS = Doubts()


def doubt(
    values: Values,
    parts: Sequence[Gathered],
    measures: Sequence[Measure],
    n: int,
    settings: Settings,
    doubts: Doubts,
    progress: Progress,
) -> None:
    """Ask all measures again of the images in other orders, and without some of them."""
    known = {measure.name: measure for measure in measures}
    shuffled = [
        methodcaller("permuted", order) for order in orders(n, doubts.permutations, settings.seed)
    ]
    for name, again in _asked(parts, shuffled, progress, "permuting images", " orders").items():
        how = values.of(name), again, known[name].same, known[name].larger_is_more_similar
        values.nulls[name] = null_of(*how)
        best = null_of_best(*how) if again.ndim == 3 else None
        if best:
            values.best[name] = best
    blocks = blocks_of(n, settings.seed) if doubts.interval else []
    fewer = [methodcaller("without", block) for block in blocks]
    for name, again in _asked(parts, fewer, progress, "leaving out images", " blocks").items():
        values.intervals[name] = interval(values.of(name), again, *known[name].bounds)


def _asked(
    parts: Sequence[Gathered],
    looks: Sequence[Callable[[Gathered], dict[str, Tensor]]],
    progress: Progress,
    what: str,
    unit: str,
) -> dict[str, Tensor]:
    """The values of each measure at every look, (looks, *values)."""
    found: dict[str, list[Tensor]] = {}
    with progress(len(looks), what, unit) as bar:
        for look in looks:
            for part in parts:
                for name, values in look(part).items():
                    found.setdefault(name, []).append(values)
            bar.update()
    return {name: torch.stack(values) for name, values in found.items()}
