"""What operations do to the places of the numbers that they are given, by the name of the operation
in ATen: a rule each, for those that do not work number by number.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from robust_stitching.graphs.places import (
    BASE,
    NOWHERE,
    UNKNOWN,
    Arrangement,
    Places,
    arrangement,
    counted,
)


class Call(NamedTuple):
    """One operation: what it was given and what it gave."""

    func: Any
    args: tuple
    kwargs: dict[str, Any]
    out: Any
    tensors: list[Tensor]
    places: Callable[[Any], Places | None]

    @property
    def name(self) -> str:
        """Of the operation, without its overload and without the mark of those in place."""
        return self.func.overloadpacket.__name__.rstrip("_")

    @property
    def pointwise(self) -> bool:
        """Whether it works number by number."""
        return torch.Tag.pointwise in self.func.tags or self.name in _POINTWISE

    @property
    def outs(self) -> list[Any]:
        """All that it gave."""
        return list(self.out) if isinstance(self.out, tuple | list) else [self.out]

    def argument(self, name: str, default: Any = None) -> Any:
        """What it was given under a name of its schema."""
        names = [argument.name for argument in self.func._schema.arguments]
        given = dict(zip(names, self.args, strict=False)) | self.kwargs
        return given.get(name, default)


Rule = Callable[[Call], Places | list[Places | None] | None]
_RULES: dict[str, Rule] = {}

_POINTWISE = ("hardswish", "hardsigmoid", "mish", "celu", "_prelu_kernel", "fill", "zero")
"""Operations on single numbers that torch does not mark as such in every version."""


def followed(call: Call) -> list[Places | None]:
    """The places of all that an operation gave; None where they are lost.

    Raises
    ------
    RuntimeError, ValueError, IndexError, TypeError : where an operation that moves numbers by other
        numbers needs values, of which the meta device has none.
    """
    follow = _RULES.get(call.name) or (_pointwise if call.pointwise else None)
    found = follow(call) if follow else None
    return found if isinstance(found, list) else [found]


def _rule(*names: str) -> Callable:
    def decorate(follow: Callable) -> Callable:
        _RULES.update(dict.fromkeys(names, follow))
        return follow

    return decorate


@_rule("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand")
@_rule("slice", "select", "unsqueeze", "squeeze", "split", "split_with_sizes", "unsafe_split")
@_rule("unbind", "clone", "alias", "detach", "contiguous", "roll", "flip", "repeat", "unfold")
@_rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "diagonal")
@_rule("index", "index_select", "gather", "lift_fresh", "narrow", "chunk")
def _moved(call: Call) -> Places | list[Places] | None:
    """What only moves numbers moves their places, unless the image itself says where to."""
    owner, *others = call.tensors
    places = call.places(owner)
    if places is None or any(call.places(other) is not None for other in others):
        return None
    if any(other.is_meta for other in others):
        raise ValueError("where numbers go is told by numbers")
    flat = call.name in ("view", "_unsafe_view", "_reshape_alias")
    move = torch.ops.aten.reshape if flat else call.func

    def moved(part: Tensor) -> Any:
        full = part.expand(owner.shape)
        args, kwargs = tree_map(
            lambda leaf: full if leaf is owner else leaf, (call.args, call.kwargs)
        )
        return move(*args, **kwargs)

    found = [moved(part) for part in places]
    if isinstance(call.out, tuple | list):
        return [Places(*parts) for parts in zip(*found, strict=True)]
    return Places(*found)


@_rule("_to_copy", "native_layer_norm", "native_group_norm", "native_batch_norm", "rms_norm")
@_rule("_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm")
@_rule("_batch_norm_no_update", "_batch_norm_with_update", "miopen_batch_norm", "_fused_rms_norm")
@_rule("_softmax", "_safe_softmax", "_log_softmax", "native_dropout", "cumsum")
@_rule("_native_multi_head_attention", "_transformer_encoder_layer_fwd")
def _kept(call: Call) -> list[Places | None]:
    """What scales and shifts by sums over others, or answers each position by its own name."""
    return [next((p for p in map(call.places, call.tensors) if p is not None), None)]


def _pointwise(call: Call) -> Places | None:
    """Number by number: of several operands one that is whole and still knows its axes goes first;
    an outer product has from each what it brings."""
    rank, shape = call.outs[0].ndim, call.outs[0].shape
    known = [
        (tensor, places.apply(lambda part: part[(None,) * (rank - part.ndim)]))
        for tensor, places in ((tensor, call.places(tensor)) for tensor in call.tensors)
        if places is not None
    ]
    whole = [places for tensor, places in known if tensor.shape == shape]
    if whole:
        told = (places for places in whole if isinstance(arrangement(places, shape), Arrangement))
        return next(told, whole[0]) if len(whole) > 1 else whole[0]
    if not known:
        return None
    parts = zip(*(places for _, places in known), strict=True)
    return Places(*(max(own, key=torch.numel) for own in parts))


@_rule("max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "mkldnn_max_pool2d")
@_rule("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
@_rule(
    "upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "_upsample_nearest_exact2d"
)
@_rule("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
def _resampled(call: Call) -> list[Places] | None:
    """Another resolution along the last two axes."""
    places = call.places(call.tensors[0])
    return None if places is None else [_spread(places, call.outs[0].shape)]


@_rule("convolution", "_convolution", "conv2d", "mkldnn_convolution", "convolution_overrideable")
def _convolved(call: Call) -> Places | None:
    """New channels along the second axis, another resolution along those behind."""
    places = call.places(call.tensors[0])
    if places is None:
        return None
    found = _spread(places, call.out.shape) if call.out.ndim == 4 else places
    behind = call.out.shape[2:]
    if any(
        size not in (1, new)
        for part in found
        for size, new in zip(part.shape[2:], behind, strict=True)
    ):
        return None
    image = (
        found.image if found.image.shape[1] == 1 else torch.full_like(found.image[:, :1], UNKNOWN)
    )
    row, column = (_mean(part, [1]) for part in (found.row, found.column))
    return Places(image, row, column, counted(call.out.shape[1], 1, call.out.ndim))


@_rule("mm", "bmm", "addmm", "baddbmm", "linear")
def _multiplied(call: Call) -> Places | None:
    """A matrix product, of activations with weights or with each other."""
    biased = call.name in ("addmm", "baddbmm")
    left, right = call.args[1:3] if biased else call.args[:2]
    return _product(call.places(left), call.places(right), call.out.shape)


@_rule(
    *(name for name in dir(torch.ops.aten) if name.startswith("_scaled_dot_product")),
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
def _attended(call: Call) -> list[Places | None]:
    """softmax(Q Kᵀ) V: the positions of Q, the channels of V."""
    q, k, v = map(call.places, call.args[:3])
    if q is None or k is None or v is None:
        return [None]
    turned = k.apply(lambda part: part.transpose(-1, -2))
    queries, keys = call.args[0].shape[-2], call.args[1].shape[-2]
    weights = _product(q, turned, (*call.args[0].shape[:-2], queries, keys))
    return [_product(weights, v, call.outs[0].shape)]


def _product(left: Places | None, right: Places | None, shape: Sequence[int]) -> Places | None:
    """Of a matrix product of `shape`: (…, r, k) times (…, k, s), None where a side is of weights.

    What does not depend on the axis k that is summed over stays as it is: images and positions of
    the left side before those of the right one, and the richer channels. Sums with weights bring
    new channels, at the mean position of what they sum.
    """
    if left is None and right is None:
        return None
    weights = left is None or right is None
    known, summed = (left, -1) if left is not None else (right, -2)

    def pick(name: str) -> Tensor:
        kept = []
        for places, axis in ((left, -1), (right, -2)):
            part = None if places is None else getattr(places, name)
            if part is None or part.shape[axis] > 1 or bool((part == UNKNOWN).all()):
                continue
            if name == "channel" and weights and part.numel() == 1:
                continue  # a single channel is summed over, too
            kept.append(part)
        if kept:
            return max(kept, key=torch.numel) if name == "channel" else kept[0]
        if weights and name == "channel":
            free = len(shape) + (-1 if left is not None else -2)
            return counted(shape[free], free, len(shape))
        if weights and name in ("row", "column"):
            return _mean(getattr(known, name), [summed])
        return torch.full([1] * len(shape), float(UNKNOWN), device="cpu")

    return Places(*map(pick, Places._fields))


@_rule(
    "mean", "sum", "amax", "amin", "max", "min", "logsumexp", "linalg_vector_norm", "norm", "std"
)
@_rule("var", "prod", "median")
def _summarised(call: Call) -> list[Places] | None:
    """One number for many: at the middle of their positions, a channel where all channels went."""
    places, dims = call.places(call.tensors[0]), call.argument("dim")
    if places is None or dims is None:
        return None
    rank = call.tensors[0].ndim
    dims = sorted({dim % rank for dim in ([dims] if isinstance(dims, int) else dims)})

    def told(name: str, part: Tensor) -> Tensor:
        if all(part.shape[dim] == 1 for dim in dims):
            found = part
        elif name == "channel":
            found = torch.full_like(_mean(part, dims), BASE)
        else:
            found = _mean(part, dims)
            found = torch.full_like(found, UNKNOWN) if name == "image" else found
        for dim in reversed(dims):
            found = found if call.argument("keepdim", False) else found.squeeze(dim)
        return found

    return [Places(*(told(name, part) for name, part in places._asdict().items()))]


@_rule("cat")
def _joined(call: Call) -> Places | None:
    """Channels side by side; or one sequence of positions, in which parameters are nowhere."""
    parts, shape = call.args[0], call.out.shape
    dim = call.argument("dim", 0) % len(shape)
    known = [places for places in map(call.places, parts) if places is not None]
    along = set().union(*(places.varying(dim) for places in known))
    everywhere = set().union(
        *(places.varying(axis) for places in known for axis in range(len(shape)))
    )
    if along == {"channel"} or not (along or "channel" in everywhere):
        return known[0]._replace(channel=counted(shape[dim], dim, len(shape)))
    first = known[0].apply(lambda part: part.narrow(dim, 0, 1))
    beside = first._replace(
        row=torch.full_like(first.row, NOWHERE), column=torch.full_like(first.column, NOWHERE)
    )
    all_parts = [
        (call.places(part) or beside).apply(lambda own, part=part: own.expand(part.shape))
        for part in parts
    ]
    return Places(*(torch.cat(own, dim) for own in zip(*all_parts, strict=True)))


@_rule("stack")
def _stacked(call: Call) -> Places | None:
    parts, dim = call.args[0], call.argument("dim", 0)
    found = [call.places(part) for part in parts]
    if any(places is None for places in found):
        return None
    full = [
        places.apply(lambda own, part=part: own.expand(part.shape))
        for places, part in zip(found, parts, strict=True)
    ]
    return Places(*(torch.stack(own, dim) for own in zip(*full, strict=True)))


@_rule("constant_pad_nd", "reflection_pad2d", "replication_pad2d", "reflection_pad1d")
def _padded(call: Call) -> Places | None:
    """Positions and channels go on beyond the edge."""
    places = call.places(call.tensors[0])
    return None if places is None else _continued(places, call.args[1])


@_rule("im2col")
def _patches(call: Call) -> Places | None:
    """(N, C·k·k, patches)."""
    image, kernel, dilation, padding, stride = call.args
    places = call.places(image)
    if places is None:
        return None
    padding = list(padding) * (2 // len(padding))
    padded = _continued(places, [padding[1]] * 2 + [padding[0]] * 2)
    shape = (*image.shape[:-2], *(image.shape[i] + 2 * padding[i] for i in (-2, -1)))
    return padded.apply(
        lambda part: call.func(part.expand(shape).contiguous(), kernel, dilation, [0, 0], stride)
    )


def _continued(places: Places, padding: Sequence[int]) -> Places:
    """Places padded, or cropped, as `torch.nn.functional.pad` does, the last axis first."""

    def one(part: Tensor) -> Tensor:
        for i in range(0, len(padding), 2):
            axis, n = part.ndim - 1 - i // 2, part.shape[-1 - i // 2]
            if n > 1:
                before, behind = padding[i : i + 2]
                at = torch.arange(-before, n + behind, dtype=part.dtype, device="cpu")
                part = _read(part, axis, at)
        return part

    return places.apply(one)


def _spread(places: Places, shape: Sequence[int]) -> Places:
    """Places brought to the last two sizes of `shape`, evenly over what they covered."""
    found = places._asdict()
    for axis, owner in ((len(shape) - 2, "row"), (len(shape) - 1, "column")):
        m = shape[axis]
        sizes = {name: part.shape[axis] for name, part in found.items()}
        from_one = m > 1 and set(sizes.values()) == {1} and found[owner].numel() == 1
        for name, part in found.items():
            n = sizes[name]
            if (n > 1 and n != m) or (from_one and name == owner):
                at = (torch.arange(m, dtype=part.dtype, device="cpu") + 0.5) * n / m - 0.5
                found[name] = _read(part, axis, at)
    return Places(**found)


def _read(part: Tensor, axis: int, at: Tensor) -> Tensor:
    """Values between, and beyond, those along an axis, by straight lines."""
    n = part.shape[axis]
    weight_shape = [-1 if i == axis else 1 for i in range(part.ndim)]
    if n == 1:
        return part + at.view(weight_shape)
    low = at.floor().clamp(0, n - 2)
    share = (at - low).view(weight_shape)
    low = low.long()
    below, above = part.index_select(axis, low), part.index_select(axis, low + 1)
    return below + share * (above - below)


def _mean(part: Tensor, dims: Sequence[int]) -> Tensor:
    """The mean of positions over `dims`, of what is at one; unknown where any is."""
    if all(part.shape[dim] == 1 for dim in dims):
        return part
    there = part >= BASE / 2
    count = there.sum(dim=dims, keepdim=True)
    found = (part * there).sum(dim=dims, keepdim=True) / count.clamp(min=1)
    unknown = (part == UNKNOWN).sum(dim=dims, keepdim=True) > 0
    return torch.where(unknown, float(UNKNOWN), found)
