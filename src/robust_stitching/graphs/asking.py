"""Operations that ask a tensor for what is true of any images: how many there are, where they lie.

What comes of them carries no image, as a grid of zeros or of positions that is made for a batch. In
a graph they all ask the images themselves, so that nothing else has to be computed for them.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from robust_stitching.graphs.values import BATCHES

NEW = frozenset(("new_zeros", "new_ones", "new_empty", "new_full"))
"""Methods that make a tensor of the type, and on the device, of another."""

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
    for node in list(graph.nodes):
        given = node.args[0] if node.args else None
        if not isinstance(given, fx.Node):
            continue
        method = node.target if node.op == "call_method" else ""
        if method == "size" and values(node) == BATCHES:
            node.args = (images, 0)
        elif node.target is getattr and node.args[1] == "device":
            node.args = (images, "device")
        elif method in NEW and isinstance(values(given)[0], Tensor):
            node.args = (images, *node.args[1:])
            node.kwargs = {"dtype": values(given)[0].dtype, **node.kwargs}
        elif node.target in LIKE and isinstance(values(given)[0], Tensor):
            with graph.inserting_before(node):
                asking |= _told_the_shape(node, images, values(given))
            continue
        else:
            continue
        asking.add(node)
    return asking


def _told_the_shape(node: fx.Node, images: fx.Node, given: tuple[Tensor, Tensor]) -> set[fx.Node]:
    one, other = given
    count = node.graph.call_method("size", (images, 0))
    device = node.graph.call_function(getattr, (images, "device"))
    shape = []
    for size, again in zip(one.shape, other.shape, strict=True):
        if (size, again) == BATCHES:
            size = count
        elif size != again:  # a multiple of them
            size = node.graph.call_function(operator.mul, (count, size // BATCHES[0]))
        shape.append(size)
    node.args = (tuple(shape), *node.args[1:])
    node.kwargs = {"dtype": one.dtype, "device": device, **node.kwargs}
    node.target = LIKE[node.target]
    return {count, device}
