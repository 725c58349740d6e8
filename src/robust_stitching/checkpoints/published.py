"""Weights somewhere in a file of somebody else's.

Nothing is promised about the file but that there are tensors in it. What is looked for is the place
where names and shapes are those of the network: below wrappers (``state_dict``, ``model``, …) and
behind prefixes (``module.``, ``net.``, …), whatever they are called.
"""

import re
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints.fitting import (
    Fit,
    Misfit,
    State,
    constants_of,
    fit,
    frame_of,
    require_stored,
)

MEAN = {"mean", "mu", "new_mean", "_mean", "pixel_mean", "image_mean"}
STD = {"std", "sigma", "new_std", "_std", "pixel_std", "image_std"}
"""What others call the constants by which a network normalises its images."""

MOST_CHANNELS = 4
"""Of images: a larger tensor of such a name is no constant of channels."""

AVERAGED = {"ema", "swa", "averaged", "shadow", "polyak", "teacher", "momentum"}
"""Words for weights that are means over the training, and stand beside the plain ones."""

COPIES = {"attacker"}
"""Words for a second copy of a network, which a package for robustness keeps."""

OPTIMISERS = {"exp_avg", "exp_avg_sq", "momentum_buffer", "grad", "grads", "gradients"}
"""Words for what an optimiser keeps, maybe under the names of the weights that it is about."""

LOSSES = {"criterion", "criteria", "loss", "losses", "metric", "metrics"}
"""Words for what a training has beside its network."""

WRAPPING = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of a name that stand for nothing but a wrapper, which may be around any module of a network
(data parallel training, torch.compile, sharding)."""

HOLDERS = (Tensor, dict, list, tuple)

BOOKKEEPING = {"decay", "total_ops", "total_params"}
"""Single numbers that averages, and packages that count operations, put beside weights."""


@dataclass(frozen=True)
class Weights:
    """The weights of a network in somebody else's file.

    Attributes
    ----------
    fit : the weights, which fit.
    constants : "mean" and "std" of shape (C,) or (1,), as far as they stand beside the weights.
    place : where the weights stand: keys and prefixes with dots between them.
    others : places of other weights that fit as well.
    """

    fit: Fit
    constants: dict[str, Tensor]
    place: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Tensors that may be a network's weights.

    Attributes
    ----------
    prefix : what stands before their names: empty, or ending with a dot.
    state : the tensors without the prefix; no constants.
    around : all tensors of the same dictionaries, with everything before their names.
    """

    name: str
    state: State
    around: State

    @property
    def prefix(self) -> str:
        return self.name and f"{self.name}."


def flattened(content: Any) -> dict[tuple[str, ...], Tensor]:
    """Every tensor in nested dictionaries and lists, under its keys."""
    tensors = {}
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    seen = set()
    while waiting:
        keys, value = waiting.popleft()
        if isinstance(value, Tensor):
            tensors[keys] = value.detach()
        elif id(value) not in seen:
            seen.add(id(value))  # a dictionary may hold itself
            inside = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [((*keys, str(k)), v) for k, v in inside if isinstance(v, HOLDERS)]
    return tensors


def find(
    path: Path,
    content: Any,
    entry: models.Entry,
    dataset: str | None = None,
    image_size: int | None = None,
    wanted: str | None = None,
) -> Weights:
    """The weights in a file that fit a network.

    Where several do, the plain ones are taken rather than averaged ones, then those that lie
    highest in the file.

    Parameters
    ----------
    content : what the file holds.
    dataset : the key of what the network was made for, if that is known by name.
    image_size : of its images; the network's own for None.
    wanted : which of several to take, by their place or a word in it ("ema").

    Raises
    ------
    UserError : where none fits, with what is amiss; where `wanted` names none.
    """
    tensors = {k: v for k, v in flattened(content).items() if not _is_optimisers(".".join(k[:-1]))}
    if not tensors:
        raise UserError(f"{path} holds no state dict of a network.")
    frame = frame_of(entry, image_size, (), classes=2, channels=3)
    names = frame.state_dict().keys() - set(constants_of(frame))
    places = _places(_without_wrapping(tensors, names), names)
    fits = {place.name: fit(entry, place.state, path, dataset, image_size) for place in places}
    fitting = [p for p in places if not (fits[p.name].misfit.missing or fits[p.name].misfit.bent)]
    if not fitting:
        raise _no_fit(path, fits[places[0].name])
    choices = sorted((place.name for place in fitting), key=_plainness)
    name = choices[0] if wanted is None else _chosen(path, wanted, choices)
    chosen = fits[name]
    (place,) = (place for place in fitting if place.name == name)
    strange = _strange(place, chosen, [p.name for p in places if p.name])
    if strange:
        raise _no_fit(path, replace(chosen, misfit=Misfit(unknown=strange)))
    others = (n for n in choices if n != name and not _words(n) & COPIES)
    return Weights(
        fit=chosen,
        constants=_constants(place, path),
        place=name,
        others=tuple(n for n in others if _differ(fits[n].state, chosen.state)),
    )


def _no_fit(path: Path, tried: Fit) -> UserError:
    return UserError(f"the weights in {path} do not fit {tried.entry.name}: {tried.misfit}.")


def _without_wrapping(
    tensors: dict[tuple[str, ...], Tensor], names: Collection[str]
) -> dict[tuple[str, ...], Tensor]:
    """The tensors without the `WRAPPING` in their names, but where a network has such names itself,
    or the file the same tensor with and without."""
    own = {part for name in names for part in name.split(".")}
    bare = {}
    for keys, value in tensors.items():
        parts = [part for part in keys[-1].split(".") if part not in WRAPPING - own]
        bare[(*keys[:-1], ".".join(parts))] = value
    return bare if len(bare) == len(tensors) else tensors


def _places(tensors: dict[tuple[str, ...], Tensor], names: Collection[str]) -> list[_Place]:
    """The places below which the most of `names` stand, and those with at least half as many; the
    largest dictionary where none of them is anywhere."""
    deepest = max(name.count(".") for name in names) + 1
    counts: Counter[str] = Counter()
    owners: dict[str, set[tuple[str, ...]]] = {}
    for keys in tensors:
        parts = ".".join(keys).split(".")
        for cut in range(max(0, len(parts) - deepest), len(parts)):
            place = ".".join(parts[:cut])
            if ".".join(parts[cut:]) in names and not _is_optimisers(place):
                counts[place] += 1
                owners.setdefault(place, set()).add(keys[:-1])
    if not counts:
        ((owner, number),) = Counter(keys[:-1] for keys in tensors).most_common(1)
        counts, owners = Counter({".".join(owner): number}), {".".join(owner): {owner}}
    most = max(counts.values())
    likely = sorted((p for p in counts if 2 * counts[p] >= most), key=lambda p: (-counts[p], p))
    places = []
    for name in likely:
        around = {".".join(k): v for k, v in tensors.items() if k[:-1] in owners[name]}
        prefix = name and f"{name}."
        own = {n.removeprefix(prefix): v for n, v in around.items() if n.startswith(prefix)}
        state = {n: v for n, v in own.items() if n in names or not _kind(n, v)}
        places.append(_Place(name, state, around))
    return places


def _kind(name: str, value: Tensor) -> str | None:
    """Which constant a tensor seems to be, "mean" or "std", if any."""
    last = name.rpartition(".")[2]
    kind = "mean" if last in MEAN else "std" if last in STD else None
    return kind if value.numel() <= MOST_CHANNELS else None


def _words(name: str) -> set[str]:
    """The words in a name: in "modelEMA.state_dict" model, ema, state, dict and state_dict."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return {word.lower() for word in (*parts, *name.split("."))}


def _is_optimisers(place: str) -> bool:
    words = _words(place)
    return bool(words & OPTIMISERS) or any(word.startswith("optim") for word in words)


def _plainness(place: str) -> tuple:
    """What stands first is taken, whatever the order in the file."""
    words = _words(place)
    return bool(words & AVERAGED), bool(words & COPIES), place.count("."), len(place), place


def _chosen(path: Path, wanted: str, names: Sequence[str]) -> str:
    """The one of some places that is called so, or has that word in its name."""
    called = [name for name in names if name == wanted]
    called = called or [name for name in names if wanted.lower() in _words(name)]
    if len(called) == 1:
        return called[0]
    listed = " or ".join(f"weights={name!r}" if name else "none" for name in called or names)
    what = "several sets of weights are" if called else "no weights that fit are"
    raise UserError(f"in {path} {what} called '{wanted}'; choose {listed}.")


def _strange(place: _Place, chosen: Fit, others: Sequence[str]) -> tuple[str, ...]:
    """Names beside a network's weights that nobody expects: a layer more, say, without which it
    would answer something else. Constants, counters and weights at other places are expected."""
    others = [other for other in others if not place.prefix.startswith(f"{other}.")]
    beyond = [
        name
        for name in place.around
        if not name.startswith(place.prefix) and not _words(name) & LOSSES
    ]
    loose = [*(place.prefix + name for name in chosen.misfit.unknown), *beyond]
    return tuple(name for name in loose if not _expected(name, place.around.get(name), others))


def _expected(name: str, value: Tensor | None, others: Sequence[str]) -> bool:
    if _words(name) & (AVERAGED | COPIES) or name.startswith(tuple(f"{o}." for o in others)):
        return True
    if value is None:
        return False
    counts = value.numel() == 1 and not value.is_floating_point()
    return counts or name.rpartition(".")[2] in BOOKKEEPING or _kind(name, value) is not None


def _constants(place: _Place, path: Path) -> dict[str, Tensor]:
    """Mean and deviation that stand nearest to a network's weights."""
    own = {place.prefix + name for name in place.state}
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in place.around.items():
        kind = _kind(name, value)
        if kind and name not in own:
            require_stored({name: value}, path)
            groups.setdefault(name.rpartition(".")[0], {})[kind] = value.reshape(-1).float()

    def nearness(parent: str) -> tuple:
        shared = zip(parent.split("."), place.name.split("."), strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], shared))
        return common, not _words(parent) & (AVERAGED | COPIES), len(groups[parent])

    return groups[max(groups, key=nearness)] if groups else {}


def _differ(state: State, other: State) -> bool:
    """Whether two sets of weights for a network are not the same ones."""
    return any(name not in other or not torch.equal(v, other[name]) for name, v in state.items())
