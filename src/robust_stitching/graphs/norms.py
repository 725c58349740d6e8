"""Norms that keep statistics of what passes: while a transform is trained they move, or are frozen.

A graph is that of a network in evaluation mode. A batch norm that is a module keeps its mode to
itself, whoever wrote it; ``F.batch_norm(x, …, training=self.training)`` is told it, and becomes a
module where networks are joined.
"""

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robust_stitching.models.layers import STATISTICS


class BatchNorm(nn.Module):
    """`torch.nn.functional.batch_norm` in the mode of the module, whatever it is told."""

    def forward(self, x: Tensor, *given: Any, **named: Any) -> Tensor:
        arguments = _arguments((x, *given), named)
        return F.batch_norm(**arguments | {"training": self.training})


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a module has statistics that move in training mode."""
    return isinstance(module, _BatchNorm | BatchNorm) or STATISTICS in module._buffers


def told_the_mode(graph: fx.Graph, in_training: Callable[[], fx.Graph]) -> set[fx.Node]:
    """The batch norms of a graph that are functions and told to train in training mode.

    Parameters
    ----------
    in_training : makes the graph of the network in training mode, which is asked for where there
        are such functions at all.
    """
    norms = _functions_in(graph)
    if not norms:
        return set()
    again: list[fx.Node] = []
    with suppress(Exception):  # some networks cannot be followed while they train
        again = _functions_in(in_training())
    told = [_arguments(node.args, node.kwargs) for node in norms]
    trained = [_arguments(node.args, node.kwargs) for node in again]
    names = [str(one.get(STATISTICS)) for one in told]
    if names != [str(one.get(STATISTICS)) for one in trained]:
        return set()
    pairs = zip(norms, told, trained, strict=True)
    return {n for n, one, other in pairs if other.get("training") and not one.get("training")}


def _functions_in(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.target is F.batch_norm]


def _arguments(args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    return inspect.signature(F.batch_norm).bind(*args, **kwargs).arguments
