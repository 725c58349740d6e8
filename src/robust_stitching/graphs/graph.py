"""Networks as graphs: the names of their layers, cutting them and joining the pieces.

A layer name is a module path (``conv1``, ``layer1.0.add``); a container's name means its output; a
module called again gets ``_1``, ``_2``. Operations that are no modules carry their function's name
behind the path of the module that calls them (``flatten``).
"""

import copy
import threading
import weakref
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from robust_stitching.basics.errors import UserError, first_line, unknown
from robust_stitching.basics.modes import evaluating
from robust_stitching.graphs.inplace import Lookout, only_overwrites, without_overwriting
from robust_stitching.graphs.layout import Layout
from robust_stitching.graphs.places import Arrangement
from robust_stitching.graphs.signature import signature
from robust_stitching.graphs.tracing import Sizes, Trace, no_graph, replace_by_number, trace
from robust_stitching.graphs.watching import arrangements
from robust_stitching.models.probe import skeleton

BATCHES = (11, 13)
"""Two sizes of a batch by which to tell what grows with it; few tensors have them by chance."""

FEW = 2
"""Images enough to tell what differs between them."""


@dataclass(frozen=True)
class Layer:
    """One place where a network can be cut.

    Attributes
    ----------
    name : as users write it.
    kind : the class of the module, or the function.
    layout : what the activation of one image holds.
    clean : whether everything that follows depends on the image through this activation alone.
        At any other layer a skip connection jumps over the cut and lets the image pass by.
    """

    name: str
    kind: str
    layout: Layout
    clean: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the activation of one image: (C, H, W), (tokens, C) or (C,), see `Layout`."""
        return self.layout.shape


class Graph:
    """A traced network, in evaluation mode.

    It keeps neither the network nor its weights, so that copies can share it; nobody may change it.

    Parameters
    ----------
    network : with an `input_shape` of (C, H, W); it is not changed.
    traced : of the network, where it has been traced already.

    Attributes
    ----------
    graph : of its operations.
    input, output : the nodes where it begins and ends.
    by_values : whether an operation had to be computed, with the weights as they were; else the
        graph is true of all weights of these shapes.
    layers : name to `Layer`, in the order of computation.
    refused : name of any other activation to why it is no layer, as the end of a sentence.
    answer_shape : of the network's answer to one image, (classes,).
    batch_sizes : the nodes whose value is the number of images.
    arrangements : the nodes of layers to how their values lie. Whoever asks for a layer gets it as
        (N, *layer.shape), however the network has it.

    Raises
    ------
    UserError : when the network cannot be written as a graph.
    """

    def __init__(self, network: nn.Module, traced: Trace | None = None):
        traced = traced or trace(network)
        self.graph, self.by_values = traced.graph, False
        nodes = {name: node for name, (node, _) in traced.found.items()}
        lookouts = self._run_anywhere(network, self._look_out_on)
        if any(lookout.found for lookout in lookouts):
            self.graph, first = without_overwriting(self.graph, lookouts)
            nodes = {name: first[node] for name, node in nodes.items()}
        (self.input,) = (n for n in self.graph.nodes if n.op == "placeholder")
        (self.output,) = (n for n in self.graph.nodes if n.op == "output")
        if not isinstance(self.output.args[0], fx.Node):
            raise no_graph(network, "it answers with more than one tensor")
        shapes = self._measure(network)
        self.answer_shape = tuple(shapes[self.output.args[0]][1:])
        clean = self._clean_cuts()
        self.arrangements: dict[fx.Node, Arrangement] = {}
        self._nodes: dict[str, fx.Node] = {}
        self.layers: dict[str, Layer] = {}
        self.refused: dict[str, str] = {}
        found = self._run_anywhere(network, self._arrangements_on)
        for name, (_, kind) in traced.found.items():
            node = nodes[name]
            if only_overwrites(node):
                self.refused[name] = "it only overwrites a part of another one"
            elif isinstance(found.get(node), Arrangement):
                self._nodes[name], self.arrangements[node] = node, found[node]
                self.layers[name] = Layer(name, kind, found[node].layout, node in clean)
            elif node in found:
                self.refused[name] = found[node]
        self.graph.owning_module = None  # the last that ran it, with its modules

    def node(self, layer: str, role: str = "layer") -> fx.Node:
        """The node whose value is the activation of `layer`, which errors call by its role.

        Raises
        ------
        UserError : for an unknown name, with the closest ones, and for an activation whose channels
            and positions are not known.
        """
        if layer in self.refused:
            raise UserError(
                f"the {role} '{layer}' is no activation of channels at positions: "
                f"{self.refused[layer]}; choose another, as `layer_info` lists them."
            )
        if layer not in self._nodes:
            raise unknown(
                role, layer, self.layers, f"`layer_info` lists all {len(self.layers)} layers."
            )
        return self._nodes[layer]

    def _measure(self, network: nn.Module) -> dict[fx.Node, tuple[int, ...]]:
        """The shape of every tensor for `BATCHES[0]` images. Numbers that a network reads off
        shapes become constants, but for those that depend on how many images there are."""
        first, *others = self._run_anywhere(network, self._sizes_on)
        self.batch_sizes = set()
        for other in others:
            for node, n in first.numbers.items():
                again = other.numbers.get(node)
                if (n, again) == BATCHES:
                    self.batch_sizes.add(node)
                elif n == again:
                    replace_by_number(node, n)
        return first.shapes

    def _run_anywhere(
        self, network: nn.Module, run: Callable[[nn.Module, torch.device | str], Any]
    ) -> Any:
        """Run the graph by ``run(network, device)`` on the meta device, where nothing is computed,
        or, where an operation does not exist there, computing."""
        try:
            return run(skeleton(network), "meta")
        except Exception:
            self.by_values = True
            like = next(network.parameters(), torch.empty(0))
            try:
                with evaluating(network):
                    return run(network, like.device)
            except Exception as error:
                raise no_graph(network, first_line(error)) from error

    def _look_out_on(self, network: nn.Module, device: torch.device | str) -> list[Lookout]:
        """What overwrites what, in evaluation and, where nothing is computed, in training mode."""
        found = []
        for training in (False, True) if device == "meta" else (False,):
            for module in network.modules():
                module.training = training  # whatever its own `train` would leave out
            found.append(Lookout(fx.GraphModule(network, self.graph)))
            found[-1].run(torch.zeros(FEW, *network.input_shape, device=device))
        return found

    def _sizes_on(self, network: nn.Module, device: torch.device | str) -> list[Sizes]:
        """For both numbers of images; for one, where the network asks for no number."""
        module = fx.GraphModule(network, self.graph)
        found: list[Sizes] = []
        for n in BATCHES:
            if not found or found[0].numbers:
                found.append(Sizes(module))
                found[-1].run(torch.zeros(n, *network.input_shape, device=device))
        return found

    def _arrangements_on(
        self, network: nn.Module, device: torch.device | str
    ) -> dict[fx.Node, Arrangement | str]:
        """How the value of every node lies, or why that is not known."""
        module = fx.GraphModule(network, self.graph)
        return arrangements(module, torch.zeros(FEW, *network.input_shape, device=device))

    def _clean_cuts(self) -> set[fx.Node]:
        """The nodes that every path from the image to the output passes: the output's dominators
        (Cooper, Harvey and Kennedy, 2001; a graph's nodes are in topological order). How many
        images there are is no information about them."""
        above: dict[fx.Node, fx.Node | None] = {self.input: None}
        depth = {self.input: 0}
        for node in self.graph.nodes:
            inputs = [n for n in node.all_input_nodes if n in above and n not in self.batch_sizes]
            if not inputs:
                continue
            common = inputs[0]
            for other in inputs[1:]:
                while common is not other:
                    if depth[common] >= depth[other]:
                        common = above[common]
                    else:
                        other = above[other]
            above[node], depth[node] = common, depth[common] + 1
        found, node = set(), self.output
        while node is not None:
            found.add(node)
            node = above.get(node)
        return found


_graphs: weakref.WeakValueDictionary[Hashable, Graph] = weakref.WeakValueDictionary()
_last: weakref.WeakKeyDictionary[nn.Module, Graph] = weakref.WeakKeyDictionary()
_one_at_a_time = threading.Lock()


def graph_of(network: nn.Module) -> Graph:
    """The graph of a network as it is now, made once for it, its copies and all that are alike.

    Tracing shows what `forward` does now, whatever it reads in Python, and is done each time: it
    takes a twentieth of the time of a graph, whose rest, how the values of every operation lie,
    follows from the trace and the shapes of the weights. Where that is not so (`Graph.by_values`),
    nothing is remembered. A graph is forgotten with the last network that it belongs to.
    """
    with _one_at_a_time:
        traced = trace(network)
        wanted = signature(network, traced)
        found = _graphs.get(wanted) or Graph(network, traced)
        if not found.by_values:
            _graphs[wanted] = _last[network] = found
        return found


def needed(
    targets: Sequence[fx.Node], stop: fx.Node | None = None, known: Collection[fx.Node] = ()
) -> set[fx.Node]:
    """All that `targets` are computed from, themselves included, not looking behind `stop` and
    what is `known`."""
    seen: set[fx.Node] = set()
    waiting = list(targets)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            if node is not stop and node not in known:
                waiting.extend(node.all_input_nodes)
    return seen


def layout_of(network: nn.Module, layer: str, role: str = "layer") -> Layout:
    """What one image's activation holds at `layer`, which errors call by its role."""
    traced = graph_of(network)
    traced.node(layer, role)
    return traced.layers[layer].layout


def features(network: nn.Module, layers: Sequence[str]) -> nn.Module:
    """A network that returns the activations of `layers` as a tuple; "output" names the logits.

    It shares its modules with `network` and contains none that these layers do not need.
    """
    traced = graph_of(network)
    wanted = [
        traced.output.args[0] if layer == "output" else traced.node(layer) for layer in layers
    ]
    piece = fx.Graph()
    copied = _copy(traced, needed(wanted), piece, {}, prefix="")
    piece.output(tuple(_canonical(traced, node, copied[node], piece) for node in wanted))
    return fx.GraphModule(network, piece)


def join(
    front: nn.Module, front_layer: str, end: nn.Module, end_layer: str, transform: nn.Module
) -> fx.GraphModule:
    """One graph: `front` up to its layer, `transform`, `end` from its layer on.

    Copies of the networks are used, only those of their modules that the graph needs, under
    ``front.``, ``transform`` and ``end.``. Where a skip connection of `end` jumps over the cut, the
    part of `end` that feeds it stays, fed by the image.

    Raises
    ------
    UserError : for an unknown layer, or one from which the output of `end` does not follow.
    """
    head, tail = graph_of(front), graph_of(end)
    cut, resume = head.node(front_layer), tail.node(end_layer)
    kept = needed([tail.output], stop=resume, known=tail.batch_sizes)
    if resume not in kept:
        raise UserError(
            f"the output of the end model does not depend on layer '{end_layer}'; choose another."
        )
    parts = nn.Module()
    parts.front, parts.transform, parts.end = copy.deepcopy(front), transform, copy.deepcopy(end)

    joined = fx.Graph()
    image = joined.placeholder(head.input.name)
    copied = _copy(head, needed([cut]), joined, {head.input: image}, prefix="front.")
    mapped = joined.call_module("transform", (_canonical(head, cut, copied[cut], joined),))
    mapped = tail.arrangements[resume].restored(mapped, _calls_in(joined))
    seeds = {tail.input: image, resume: mapped}
    if tail.batch_sizes & kept:
        images = joined.call_method("size", (mapped, 0))
        seeds |= dict.fromkeys(tail.batch_sizes, images)
    copied = _copy(tail, kept - {tail.output}, joined, seeds, prefix="end.")
    joined.output(copied[tail.output.args[0]])
    return fx.GraphModule(parts, joined)


def _canonical(source: Graph, node: fx.Node, copied: fx.Node, into: fx.Graph) -> fx.Node:
    """The copy of `node`, as (N, *shape of its layer)."""
    arranged = source.arrangements.get(node)  # none of an output that is no layer
    return arranged.canonical(copied, _calls_in(into)) if arranged else copied


def _calls_in(graph: fx.Graph) -> Callable[..., fx.Node]:
    return lambda node, method, *args: graph.call_method(method, (node, *args))


def _copy(
    source: Graph,
    nodes: set[fx.Node],
    into: fx.Graph,
    copied: dict[fx.Node, fx.Node],
    prefix: str,
) -> dict[fx.Node, fx.Node]:
    """Copy `nodes` behind what `into` holds, their modules found under `prefix`; returns old to
    new. Nodes that `copied` already knows are not copied."""
    for node in source.graph.nodes:
        if node in nodes and node not in copied:
            copied[node] = into.node_copy(node, copied.__getitem__)
            if node.op in ("call_module", "get_attr"):
                copied[node].target = prefix + node.target
    return copied
