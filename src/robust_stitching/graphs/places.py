"""Which image, position and channel each number of a tensor belongs to, and what that makes of its
axes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robust_stitching.graphs.layout import Layout

BASE = 1024
"""The first image, row, column and channel; so far from the two below that nothing gets there."""

NOWHERE = 0
"""Row and column of what is at no position of the image, as class tokens are."""

UNKNOWN = -1
CLOSE = 0.01  # pixels: rounding of means over many numbers


class Places(NamedTuple):
    """Where the numbers of one tensor belong: four tensors of its rank, of size 1 along every axis
    on which they do not depend. Rows and columns are pixels of the image, and may be fractions."""

    image: Tensor
    row: Tensor
    column: Tensor
    channel: Tensor

    def varying(self, axis: int) -> set[str]:
        """Which of the four depend on an axis."""
        return {name for name, part in self._asdict().items() if part.shape[axis] > 1}

    def apply(self, change: Callable[[Tensor], Tensor]) -> "Places":
        """The same change made to all four."""
        return Places(*map(change, self))

    def reduced(self) -> "Places":
        """The same, of size 1 wherever they can be."""
        return self.apply(_reduced)


def places_of(images: Tensor) -> Places:
    """Of images (N, C, H, W), or of vectors (N, C)."""
    axes = {"image": 0, "row": 2, "column": 3, "channel": 1}
    shape = (*images.shape, 1, 1)
    found = Places(**{name: counted(shape[axis], axis, 4) for name, axis in axes.items()})
    return found if images.ndim == 4 else found.apply(lambda part: part[..., 0, 0])


def counted(size: int, axis: int, rank: int) -> Tensor:
    """Consecutive numbers from `BASE` on along one of `rank` axes."""
    shape = [-1 if i == axis else 1 for i in range(rank)]
    return torch.arange(BASE, BASE + size, dtype=torch.float32, device="cpu").view(shape)


def _reduced(part: Tensor) -> Tensor:
    for axis, size in enumerate(part.shape):
        first = part.narrow(axis, 0, 1)
        if size > 1 and bool((part == first).all()):
            part = first
    return part


@dataclass(frozen=True)
class Arrangement:
    """How a tensor holds the activations of a batch of images.

    Attributes
    ----------
    axes : what stands along each of its axes: "n" images, "c" channels, "h" rows, "w" columns, "t"
        tokens of which some are at no position; several letters where one axis runs through all
        pairs, the first slowest, and none for an axis of size 1.
    layout : what it holds of one image.
    """

    axes: tuple[str, ...]
    layout: Layout

    def canonical(self, x: Any, call: Callable[..., Any]) -> Any:
        """`x` as (N, *layout.shape). ``call(x, method, *args)`` calls a tensor's method, or writes
        such a call into a graph."""
        letters = "".join(self.axes)
        order = self._order()
        if any(len(axis) != 1 for axis in self.axes):
            x = call(x, "reshape", *self._sizes(letters))
        if list(order) != sorted(order):
            x = call(x, "permute", *order)
        if len(letters) != 1 + len(self.layout.shape):
            x = call(x, "reshape", -1, *self.layout.shape)
        return x

    def restored(self, x: Any, call: Callable[..., Any]) -> Any:
        """The inverse: (N, *layout.shape) as the tensor was."""
        letters = "".join(self.axes)
        order = self._order()
        moved = "".join(letters[i] for i in order)
        if len(letters) != 1 + len(self.layout.shape):
            x = call(x, "reshape", *self._sizes(moved))
        if list(order) != sorted(order):
            x = call(x, "permute", *(order.index(i) for i in range(len(order))))
        if any(len(axis) != 1 for axis in self.axes):
            sizes = [_product(self._sizes(axis)) for axis in self.axes]
            x = call(x, "reshape", *sizes)
        return x

    def _order(self) -> tuple[int, ...]:
        """The axes of single letters in the order of a canonical activation."""
        wanted = "ntc" if "t" in "".join(self.axes) else "nchw"
        letters = "".join(self.axes)
        return tuple(letters.index(letter) for letter in wanted if letter in letters)

    def _sizes(self, letters: str) -> list[int]:
        height, width = self.layout.grid or (1, 1)
        tokens = self.layout.prefix + height * width
        known = {"n": -1, "c": self.layout.channels, "h": height, "w": width, "t": tokens}
        return [known[letter] for letter in letters]


def _product(sizes: Sequence[int]) -> int:
    found = 1
    for size in sizes:
        found *= size
    return found


def arrangement(places: Places, shape: Sequence[int]) -> Arrangement | str:
    """How a tensor of `shape` holds activations; where channels and positions cannot be told from
    each other, or from images, the reason, as the end of a sentence."""
    places = places.reduced()
    axes = {name: _axes(part) for name, part in places._asdict().items()}
    if not axes["image"]:
        return "it does not tell images from each other"
    batch = axes["image"][0]
    images = places.image.flatten()
    if len(axes["image"]) > 1 or not torch.equal(images, counted(len(images), 0, 1)):
        return "one axis holds images and parts of them, as in windows"
    for name in ("row", "column", "channel"):
        if batch in axes[name]:
            return "one axis holds images and parts of them, as in windows"
        if len(axes[name]) > 1:
            what = "channels are" if name == "channel" else "positions are"
            return f"{what} spread over several axes, as in heads or windows of an attention"
    if bool((places.channel < BASE).any()):
        return "there are no channels in it, as in the weights of an attention"
    found = _axes_of_one(places, axes, shape)
    if isinstance(found, str):
        return found
    letters, layout = found
    letters[batch] = "n"
    for axis, size in enumerate(shape):
        if axis not in letters and size > 1:
            return "an axis holds neither channels nor positions, as behind a sum over positions"
    return Arrangement(tuple(letters.get(axis, "") for axis in range(len(shape))), layout)


def _axes(part: Tensor) -> list[int]:
    return [axis for axis, size in enumerate(part.shape) if size > 1]


def _axes_of_one(
    places: Places, axes: dict[str, list[int]], shape: Sequence[int]
) -> tuple[dict[int, str], Layout] | str:
    """The letters of the axes that tell channels and positions, and what they hold."""
    (channel,) = axes["channel"] or [None]
    (row,), (column,) = axes["row"] or [None], axes["column"] or [None]
    rows, columns, channels = (
        part.flatten() for part in (places.row, places.column, places.channel)
    )
    if channel is not None and channel in (row, column):
        if {row, column} - {channel, None}:
            return "channels share an axis with some of the positions"
        n = len(channels)
        return _flat(channel, rows.expand(n), columns.expand(n), channels)
    if len(channels.unique()) != len(channels):
        return "channels repeat"
    letters = {} if channel is None else {channel: "c"}
    count = len(channels)
    if row is not None and row == column:
        grid = _grid(rows, columns)
        if grid is None:
            return "its tokens are not those of a whole grid, row by row or column by column"
        letters[row], layout = ("t" if grid.prefix else grid.axes), (grid.size, grid.prefix)
        return letters, Layout(count, *layout)
    for axis, values, letter in ((row, rows, "h"), (column, columns, "w")):
        if axis is not None:
            if bool((values < BASE / 2).any()):
                grid = _grid(rows.expand(shape[axis]), columns.expand(shape[axis]))
                if grid is None or {row, column} - {axis, None}:
                    return "some of its positions are none of the image"
                letters[axis] = "t"
                return letters, Layout(count, grid.size, grid.prefix)
            if not _rises(values):
                return "its positions are in another order than in the image"
            letters[axis] = letter
    sides = tuple(1 if axis is None else shape[axis] for axis in (row, column))
    vector = row is None and column is None and len(shape) < 4
    return letters, Layout(count, None if vector else sides)


def _flat(
    axis: int, rows: Tensor, columns: Tensor, channels: Tensor
) -> tuple[dict[int, str], Layout] | str:
    """Where channels and positions stand along one axis, all pairs of them."""
    n = len(channels)
    same_channel = _run(channels == channels[0])
    same_place = _run(((rows - rows[0]).abs() < CLOSE) & ((columns - columns[0]).abs() < CLOSE))
    for size, slow in ((same_channel, "c"), (same_place, "p")):
        if size == n or n % size:
            continue
        table = [part.view(-1, size) for part in (rows, columns, channels)]
        if slow == "p":
            table = [part.T for part in table]  # now one row a channel, one column a position
        r, c, own = table
        whole = _constant(r, 0) and _constant(c, 0) and _constant(own, 1)
        grid = _grid(r[0].contiguous(), c[0].contiguous()) if whole else None
        if grid is None or grid.prefix or len(own[:, 0].unique()) != len(own):
            continue
        letters = "c" + grid.axes if slow == "c" else grid.axes + "c"
        return {axis: letters}, Layout(len(own), grid.size)
    return "channels and positions share an axis in no order that is known"


class _Grid(NamedTuple):
    """Positions of a sequence: the letters of its order, (height, width), tokens before them."""

    axes: str
    size: tuple[int, int]
    prefix: int


def _grid(rows: Tensor, columns: Tensor) -> _Grid | None:
    """The grid that a sequence of positions runs through, where it is whole."""
    prefix = _run((rows == NOWHERE) & (columns == NOWHERE))
    rows, columns = rows[prefix:], columns[prefix:]
    if not len(rows) or bool((torch.minimum(rows, columns) < BASE / 2).any()):
        return None
    for axes, slow, fast in (("hw", rows, columns), ("wh", columns, rows)):
        length = _run((slow - slow[0]).abs() < CLOSE)
        if len(slow) % length:
            continue
        slow, fast = slow.view(-1, length), fast.view(-1, length)
        if _constant(slow, 1) and _constant(fast, 0) and _rises(slow[:, 0]) and _rises(fast[0]):
            sizes = tuple(slow.shape)
            return _Grid(axes, sizes if axes == "hw" else sizes[::-1], prefix)
    return None


def _run(mask: Tensor) -> int:
    """How many of the first are true."""
    return int(mask.long().cumprod(0).sum())


def _constant(table: Tensor, axis: int) -> bool:
    return bool(((table - table.narrow(axis, 0, 1)).abs() < CLOSE).all())


def _rises(values: Tensor) -> bool:
    return bool((values.diff() > CLOSE).all())
