"""Operations that ask a tensor for what is true of any images: how many there are, where they lie.

What comes of them carries no image, as a grid of zeros or of positions that is made for a batch. In
a graph they all ask the images themselves, so that nothing else has to be computed for them.
"""

from collections.abc import Callable
from operator import mul
from typing import Any

import torch
from torch import Tensor, fx

from robust_stitching.graphs.values import BATCHES

NEW = frozenset(("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"))
"""Methods that make a tensor of the type, and on the device, of another."""

TYPED, SHAPED = frozenset(("type_as", "to")), {"expand_as": "expand", "view_as": "reshape"}
"""Methods that bring a tensor to the type and device, or the shape, of another, to those that are
told that shape."""

LIKE = {
    torch.zeros_like: torch.zeros,
    torch.ones_like: torch.ones,
    torch.empty_like: torch.empty,
    torch.full_like: torch.full,
}
"""Functions that make a tensor of the shape of another, too, and those that are told it."""

Known = Callable[[fx.Node], tuple[Any, Any]]
"""What a node stands for, for both of `BATCHES`; nothing of one that no trace has."""


def ask_the_images(graph: fx.Graph, values: Known) -> set[fx.Node]:
    """Have all that asks a tensor ask the images; returns the nodes that do."""
    (images,) = (node for node in graph.nodes if node.op == "placeholder")
    asking: set[fx.Node] = set()

    def is_tensor(value: Any) -> bool:
        return isinstance(value, fx.Node) and isinstance(values(value)[0], Tensor)

    for node in list(graph.nodes):
        given = node.args[0] if node.args else None
        if not isinstance(given, fx.Node):
            continue
        method = node.target if node.op == "call_method" else ""
        if method == "size" and values(node) == BATCHES:
            node.args = (images, 0)
        elif node.target is getattr and node.args[1] == "device":
            node.args = (images, "device")
        elif method in NEW and is_tensor(given):
            node.args = (images, *node.args[1:])
            node.kwargs = {"dtype": values(given)[0].dtype, **node.kwargs}
        elif node.target in LIKE and is_tensor(given):
            with graph.inserting_before(node):
                shape, asked = _shape(images, values(given))
                device = graph.call_function(getattr, (images, "device"))
            node.args = (shape, *node.args[1:])
            node.kwargs = {"dtype": values(given)[0].dtype, "device": device, **node.kwargs}
            node.target = LIKE[node.target]
            asking |= {device, *asked}
            continue
        elif method in TYPED and len(node.args) == 2 and is_tensor(node.args[1]):
            with graph.inserting_before(node):
                device = graph.call_function(getattr, (images, "device"))
            node.target, node.args = "to", (given, device, values(node.args[1])[0].dtype)
            asking.add(device)
            continue
        elif method in SHAPED and len(node.args) == 2 and is_tensor(node.args[1]):
            with graph.inserting_before(node):
                shape, asked = _shape(images, values(node.args[1]))
            node.target, node.args = SHAPED[method], (given, shape)
            asking |= asked
            continue
        else:
            continue
        asking.add(node)
    return asking


def _shape(images: fx.Node, given: tuple[Tensor, Tensor]) -> tuple[tuple, set[fx.Node]]:
    """That of a tensor, for any number of images, and the nodes that ask how many there are."""
    one, other = given
    graph, asked, shape = images.graph, set(), []
    for size, again in zip(one.shape, other.shape, strict=True):
        if size != again:  # a multiple of them
            count = graph.call_method("size", (images, 0))
            asked.add(count)
            plain = (size, again) == BATCHES
            size = count if plain else graph.call_function(mul, (count, size // BATCHES[0]))
        shape.append(size)
    return tuple(shape), asked
