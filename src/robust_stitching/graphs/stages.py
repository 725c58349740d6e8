"""The stages of a network: between two of them weights mix channels, within one they do not."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor, fx, nn

from robust_stitching.graphs.graph import Graph, graph_of, needed

MOVED = ("flatten", "view", "reshape", "permute", "transpose", "contiguous")
"""What changes no value, but where it lies."""


def stages(network: nn.Module) -> list[str]:
    """A clean cut for each stage of a network, in the order of computation.

    Of clean cuts with no matrix or kernel between them (convolution, batch norm, ReLU, pooling) the
    last is taken, or, where the positions are pooled away, the last that has some. The images
    themselves, normalised or not, and the logits are no stage.
    """
    graph = graph_of(network)
    names: dict[fx.Node, list[str]] = {}
    for name, layer in graph.layers.items():
        if layer.clean:
            names.setdefault(graph.node(name), []).append(name)
    runs: list[list[fx.Node]] = [[]]
    for before, node in pairwise([graph.input, *(n for n in graph.graph.nodes if n in names)]):
        if _mixes(network, needed([node], stop=before) - {before}):
            runs.append([])
        runs[-1].append(node)
    if not _mixes(network, needed([graph.output], stop=runs[-1][-1]) - {runs[-1][-1]}):
        runs.pop()  # the logits
    return [_called(names[_last(graph, names, run)]) for run in runs[1:]]


def depths(network: nn.Module, layers: Sequence[str]) -> list[float]:
    """How deep layers lie in a network: 0 is the first of its `stages`, 1 the last; between two of
    them, before the first and behind the last, it is as many operations as have been done of those
    that lead from one to the next. Of a network with fewer than two stages, 0 is the image and 1
    the answer."""
    graph = graph_of(network)
    places = {node: number for number, node in enumerate(graph.graph.nodes)}
    known = [places[graph.node(name)] for name in stages(network)]
    steps = len(known) - 1
    first, last = (-1 / steps, 1 + 1 / steps) if steps > 0 else (0, 1)
    anchors = [places[graph.input], *known, places[graph.output]]
    here = [places[graph.node(layer)] for layer in layers]
    return np.interp(here, anchors, np.linspace(first, last, len(anchors))).tolist()


def _mixes(network: nn.Module, nodes: set[fx.Node]) -> bool:
    """Whether weights that are no vector stand in some operations."""
    return any(weight.ndim > 1 for node in nodes for weight in _weights(network, node))


def _weights(network: nn.Module, node: fx.Node) -> Sequence[Tensor]:
    if node.op == "call_module":
        return list(network.get_submodule(node.target).parameters())
    if node.op == "get_attr":
        owner, _, name = node.target.rpartition(".")
        value = getattr(network.get_submodule(owner), name, None)
        return [value] if isinstance(value, nn.Parameter) else []
    return []


def _last(graph: Graph, names: dict[fx.Node, list[str]], run: Sequence[fx.Node]) -> fx.Node:
    """The last of a run that has positions, or the last; not one that only moves values."""
    run = [n for n in run if graph.layers[names[n][0]].kind not in MOVED] or run
    spread = [n for n in run if len(graph.layers[names[n][0]].shape) > 1]
    return (spread or run)[-1]


def _called(names: Sequence[str]) -> str:
    """Of the names of one activation that of the innermost module that people would call a block:
    ``layer1.2`` for ``layer1.2.relu_1``, ``layer1.2`` and ``layer1``."""
    around = [name for name in names if any(other.startswith(f"{name}.") for other in names)]
    return max(around or names, key=lambda name: name.count("."))
