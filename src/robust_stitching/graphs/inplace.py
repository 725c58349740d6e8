"""Graphs in which nothing is overwritten that anybody may still ask for.

Where a network works in place (``nn.ReLU(inplace=True)``, ``x.mul_(3)``, ``y += 1``), the layer
before it would be recorded as what became of it, and a statement whose result nobody uses would be
lost. Here every such operation works on a copy, and whatever uses its input later, or a view of
that, gets what the operation made of it: the network computes the same.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from robust_stitching.basics.own_lines import is_known


def was_overwritten(value: Any) -> bool:
    """Whether any tensor in a value has been overwritten since it was made."""
    return any(leaf._version for leaf in tree_leaves(value) if _has_memory(leaf))


def may_overwrite(module: nn.Module) -> bool:
    """Whether a module could overwrite what it is given, in a mode in which nobody has looked.
    Torch's do where they say so, and ours never."""
    return not is_known(module) or bool(getattr(module, "inplace", False))


class Overwriting(NamedTuple):
    """An operation that overwrites memory, and the nodes whose values lie there, in their order."""

    node: fx.Node
    sharing: list[fx.Node]


class Lookout(fx.Interpreter):
    """Runs a graph and notes which operations overwrite what.

    Attributes
    ----------
    overwriting : in the order of computation.
    like : node to the first one with the same elements of the same memory.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph):
        # With garbage collected memory would be used again.
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.overwriting: list[Overwriting] = []
        self.like: dict[fx.Node, fx.Node] = {}
        self._sharing: dict[int, list[fx.Node]] = {}
        self._first: dict[tuple, fx.Node] = {}

    def run_node(self, n: fx.Node) -> Any:
        given = [v for v in tree_leaves(self.fetch_args_kwargs_from_env(n)) if _has_memory(v)]
        before = {_memory(value): (value, value._version) for value in given}
        made = super().run_node(n)
        if n.op == "output":
            return made
        for memory, (value, version) in before.items():
            if value._version != version:
                self.overwriting.append(Overwriting(n, list(self._sharing[memory])))
        for value in filter(_has_memory, tree_leaves(made)):
            sharing = self._sharing.setdefault(_memory(value), [])
            if n not in sharing:
                sharing.append(n)
        if _has_memory(made):
            geometry = (_memory(made), tuple(made.shape), made.stride(), made.storage_offset())
            self.like[n] = self._first.setdefault(geometry, n)
        return made


def _has_memory(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided


def _memory(value: Tensor) -> int:
    return value.untyped_storage()._cdata


def after(value: Any, done: Any) -> Any:
    """`value`, once `done` has been computed, which overwrote it."""
    return value


def overwrites_a_part(node: fx.Node) -> bool:
    """Whether something waits for what `node` overwrites, which is more than the value of it."""
    return any(user.target is after and user.args[1] is node for user in node.users)


def without_overwriting(
    graph: fx.Graph, lookouts: Sequence[Lookout]
) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """The same computation with every overwriting operation on a copy.

    Parameters
    ----------
    lookouts : of the network in its modes: dropout in place overwrites in training alone.

    Returns
    -------
    The new graph, and old node to the new one with the value that the old one had when it was made.
    """
    changed, likes = {}, {}
    for lookout in reversed(lookouts):
        for overwriting in lookout.overwriting:
            changed[overwriting.node] = overwriting
            likes[overwriting.node] = lookout.like
    new = fx.Graph()
    first: dict[fx.Node, fx.Node] = {}
    now: dict[fx.Node, fx.Node] = {}  # with the value that a node has by now
    for node in graph.nodes:
        if node not in changed:
            first[node] = now[node] = new.node_copy(node, now.__getitem__)
            continue
        sharing, like = changed[node].sharing, likes[node]
        root, *views = sharing
        alike = all(like.get(view) is like.get(root) for view in views)
        # A view of it must not become a copy, which it would where channels come last.
        order = {} if alike else {"memory_format": torch.contiguous_format}
        copies = {root: new.call_method("clone", (now[root],), order)}
        for view in views:
            same = like.get(view)
            if same in copies:
                copies[view] = copies[same]
            else:
                copies[view] = new.node_copy(view, lambda n, own=copies: own.get(n, now[n]))
        done = new.node_copy(node, lambda n, own=copies: own.get(n, now[n]))
        of_all = like.get(root) is like.get(node, node)
        for view in sharing:
            if like.get(view) is like.get(node, node):
                now[view] = done
            elif of_all:
                now[view] = new.node_copy(view, now.__getitem__)
            else:
                now[view] = new.call_function(after, (copies[view], done))
        first[node] = now[node] = done
    _leave_out_what_nobody_asks_for(new, set(first.values()))
    return new, first


def _leave_out_what_nobody_asks_for(graph: fx.Graph, but: set[fx.Node]) -> None:
    for node in reversed(graph.nodes):
        if not node.users and node not in but:
            graph.erase_node(node)
