"""What is measured of donors is measured once, however many cuts are made between them."""

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints import fingerprint
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.accuracy import BATCH_SIZE, predict_all
from robust_stitching.graphs.signature import signature, told
from robust_stitching.graphs.tracing import trace

T = TypeVar("T")


class Known:
    """What is known of one network with certain weights."""

    def __init__(self):
        self._values: dict[Hashable, Any] = {}

    def has(self, what: Hashable) -> bool:
        """Whether that is known."""
        return what in self._values

    def once(self, what: Hashable, measure: Callable[[], T]) -> T:
        """What `measure` returns, called only where that is not known yet."""
        if what not in self._values:
            self._values[what] = measure()
        return self._values[what]


NOTHING: Mapping[str, Known] = MappingProxyType({})
"""Of no network."""


class DonorScores:
    """What was measured of donors: give the same object to several calls of `stitch`, and all that
    does not depend on where they are cut is measured by the first.

    Networks count by what they compute, weights included, and splits by their images and labels (of
    files that are streamed, names and sizes), as they are when `stitch` is called: what has been
    changed in the meantime is measured anew, and so is what was measured with another seed, radius,
    tier, number of images or of threads. Not seen is what `graphs.signature` does not see.

    Kept for each network are its logits on every split, what fooled it of the images that were
    attacked, and, where these are no more than `attack_scores.MOST_KEPT`, what they were changed
    into to see what transfers; on the device of the split, as long as this object is.
    """

    def __init__(self):
        self._known: dict[Hashable, Known] = {}

    def of(self, network: nn.Module) -> Known:
        """What is known of a network as it is now."""
        now = signature(network, trace(network), _content)
        return self._known.setdefault((now, torch.get_num_threads()), Known())


def answers(
    networks: Mapping[str, nn.Module],
    split: AnySplit,
    known: Mapping[str, Known],
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """The logits of those `networks` of which something is known, on a whole split, in one pass."""
    what = "logits", content_of(split)
    asked = {id(own): name for name, own in reversed(known.items()) if not own.has(what)}
    found = answers_of({name: networks[name] for name in asked.values()}, split, progress)
    return {
        name: own.once(what, partial(found.get, asked.get(id(own)))) for name, own in known.items()
    }


def answers_of(
    networks: Mapping[str, nn.Module], split: AnySplit, progress: Progress = silent
) -> dict[str, Tensor]:
    """The logits of networks on a whole split, in one pass."""
    if not networks:
        return {}
    names = " and ".join(networks) if len(networks) < 3 else f"{len(networks)} networks"
    found = predict_all([*networks.values()], split, BATCH_SIZE, progress, f"evaluating {names}")
    return dict(zip(networks, found, strict=True))


def content_of(split: AnySplit) -> Hashable:
    """Equal for splits that hold the same."""
    return told((split, split.content), _content)


def _content(tensor: Tensor) -> Hashable:
    """What counts of a tensor: products depend on where it lies, and how, in their last digits."""
    return str(tensor.device), tensor.stride(), fingerprint(tensor)
