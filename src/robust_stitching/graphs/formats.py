"""Graphs that compute the same wherever the numbers of an activation lie in memory.

``x.view(n, -1)`` behind a convolution fails where channels come last, which is what convolutions
are fastest with, and what the front of one network may hand to the end of another. What is made of
numbers in the same order is the same.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from robust_stitching.basics.own_lines import is_known
from robust_stitching.models.placing import LAST, laid_out

ANY = {"view": "reshape", "view_as": "reshape_as"}
"""Methods that need the usual order, to those that do the same in any."""

STRIDED = ("as_strided", torch.as_strided)
"""What reads memory as it lies."""


def in_any_format(graph: fx.Graph, values: Mapping[fx.Node, Any], owner: nn.Module) -> None:
    """Rewrite what works in the usual order of memory alone.

    Parameters
    ----------
    values : of its nodes.
    owner : has the modules of the graph, which may be on the meta device.
    """
    for node in list(graph.nodes):
        if node.op == "call_method" and node.target in ANY:
            if not isinstance(node.args[1] if node.args[1:] else None, torch.dtype):
                node.target = ANY[node.target]
        elif node.target in STRIDED or (
            node.op == "call_module" and not _takes_any(owner, node, values)
        ):
            with graph.inserting_before(node):
                for given in node.all_input_nodes:
                    if isinstance(values.get(given), Tensor):
                        usual = graph.call_method("contiguous", (given,))
                        node.replace_input_with(given, usual)


def _takes_any(owner: nn.Module, node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Whether the module of a node works on channels that come last. Torch's and ours do."""
    module = owner.get_submodule(node.target)
    given = [values.get(n) for n in node.all_input_nodes]
    if is_known(module) or any(value is None for value in given):
        return True
    if not any(isinstance(value, Tensor) and value.ndim == 4 for value in given):
        return True

    def last(n: fx.Node) -> Any:
        value = values[n]
        is_map = isinstance(value, Tensor) and value.ndim == 4
        return value.contiguous(memory_format=LAST) if is_map else value

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), last)
    try:
        laid_out(copy.deepcopy(module), LAST)(*args, **kwargs)
    except Exception:  # whatever a module of somebody else's raises
        return False
    return True
