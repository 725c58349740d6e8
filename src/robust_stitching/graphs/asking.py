"""Operations that ask a tensor for what is true of any images: how many there are, where they lie.

What comes of them carries no image, as a grid of zeros or of positions that is made for a batch. In
a graph they all ask the images themselves, so that nothing else has to be computed for them.
"""

from collections.abc import Callable, Collection
from operator import mul
from typing import Any

import torch
from torch import Tensor, fx

from robust_stitching.graphs.values import BATCHES

NEW = frozenset(("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"))
"""Methods that make a tensor of the type, and on the device, of another."""

TYPED = frozenset(("type_as", "to"))
"""Methods that bring a tensor to the type and device of another."""

SHAPED = {"expand_as": "expand", "view_as": "reshape"}
"""Methods that bring a tensor to the shape of another, and those that are told it."""

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
    seeing = {images}
    for node in list(graph.nodes):
        if node.args and isinstance(node.args[0], fx.Node):
            asking |= _made_to_ask(node, images, seeing, values)
        if node not in asking and not seeing.isdisjoint(node.all_input_nodes):
            seeing.add(node)
    return asking


def _made_to_ask(
    node: fx.Node, images: fx.Node, seeing: Collection[fx.Node], values: Known
) -> set[fx.Node]:
    """Have one operation ask the images; returns the nodes that do. What is given numbers of those
    that are `seeing` the images asks nothing."""
    given, *others = node.args
    one, method = values(given)[0], node.target if node.op == "call_method" else ""
    beside: list[fx.Node] = []
    fx.node.map_arg((others, node.kwargs), beside.append)
    new = isinstance(one, Tensor) and not any(other in seeing for other in beside)
    if method == "size" and values(node) == BATCHES:
        node.args = (images, 0)
    elif node.target is getattr and node.args[1] == "device":
        node.args = (images, "device")
    elif method in NEW and new:
        node.args = (images, *others)
        node.kwargs = {"dtype": one.dtype, **node.kwargs}
    elif method == "new" and new and one.dtype == values(images)[0].dtype:
        node.args = (images, *others)
    else:
        with images.graph.inserting_before(node):
            return _told(node, method, images, values)
    return {node}


def _told(node: fx.Node, method: str, images: fx.Node, values: Known) -> set[fx.Node]:
    """Tell an operation that takes the type, shape or place of a tensor what these are; returns the
    nodes that ask the images for it."""
    graph, other = images.graph, node.args[1] if len(node.args) == 2 else None
    known = values(other) if isinstance(other, fx.Node) else (None, None)
    if node.target in LIKE and isinstance(values(node.args[0])[0], Tensor):
        known = values(node.args[0])
        shape, asked = _shape(images, known)
        device = graph.call_function(getattr, (images, "device"))
        node.args, node.target = (shape, *node.args[1:]), LIKE[node.target]
        node.kwargs = {"dtype": known[0].dtype, "device": device, **node.kwargs}
        return {device, *asked}
    if method in TYPED and isinstance(known[0], Tensor):
        device = graph.call_function(getattr, (images, "device"))
        node.args, node.target = (node.args[0], device, known[0].dtype), "to"
        return {device}
    if method in SHAPED and isinstance(known[0], Tensor):
        shape, asked = _shape(images, known)
        node.args, node.target = (node.args[0], shape), SHAPED[method]
        return asked
    return set()


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
