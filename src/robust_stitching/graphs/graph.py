"""Networks as graphs: the names of their layers, cutting them and joining the pieces.

A layer name is a module path (``conv1``, ``layer1.0.add``); a container's name means its output; a
module called again gets ``_1``, ``_2``. Operations that are no modules carry their function's name
behind the path of the module that calls them (``flatten``).
"""

import threading
import weakref
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from robust_stitching.basics.copying import copy_of
from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.basics.modes import evaluating, untouched
from robust_stitching.graphs.asking import ask_the_images
from robust_stitching.graphs.formats import in_any_format
from robust_stitching.graphs.inplace import (
    Lookout,
    may_overwrite,
    overwrites_a_part,
    was_overwritten,
    without_overwriting,
)
from robust_stitching.graphs.layout import Layout
from robust_stitching.graphs.norms import BatchNorm
from robust_stitching.graphs.places import Arrangement
from robust_stitching.graphs.proof import prove
from robust_stitching.graphs.signature import signature, written
from robust_stitching.graphs.symbols import NoGraph
from robust_stitching.graphs.tracing import CONSTANT, Trace, no_graph, told, trace
from robust_stitching.graphs.values import META
from robust_stitching.graphs.watching import arrangements

LOGITS = ""
"""The name of what the network itself gives; no layer has it."""

FRONT = "front."
"""Where a piece has the modules of its network, as a stitched network those of its front: at the
root of an `fx.GraphModule` some names are taken."""

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
    asking : the nodes that ask the images how many there are and where they lie, see `asking`.
    moving : the nodes of batch norms that are functions, told to train in training mode, to the
        names of their layers.
    arrangements : the nodes of layers to how their values lie. Whoever asks for a layer gets it as
        (N, *layer.shape), however the network has it.

    Raises
    ------
    UserError : when the network cannot be written as a graph.
    """

    def __init__(self, network: nn.Module, traced: Trace | None = None):
        traced = traced or trace(network)
        try:
            first, arranged = self._run_through(network, traced)
        except Exception as error:  # whatever a network of somebody else's raises
            raise no_graph(network, told(error, network)) from error
        self.by_values = traced.values.by_values
        (self.input,) = (n for n in self.graph.nodes if n.op == "placeholder")
        (self.output,) = (n for n in self.graph.nodes if n.op == "output")
        names = {node: name for name, (node, _) in reversed(traced.named.items())}
        self.moving = {first[node]: names[node] for node in traced.moving}
        clean = self._clean_cuts()
        self.arrangements: dict[fx.Node, Arrangement] = {}
        self._nodes: dict[str, fx.Node] = {}
        self.layers: dict[str, Layer] = {}
        self.refused: dict[str, str] = {}
        for name, (old, kind) in traced.named.items():
            node = first[old]
            if overwrites_a_part(node):
                self.refused[name] = "it overwrites a part of another one"
            elif isinstance(arranged.get(node), Arrangement):
                self._nodes[name], self.arrangements[node] = node, arranged[node]
                self.layers[name] = Layer(name, kind, arranged[node].layout, node in clean)
            elif node in arranged:
                self.refused[name] = arranged[node]
        self._proven: set[Hashable] = set()
        self.prove(network)

    def _run_through(
        self, network: nn.Module, traced: Trace
    ) -> tuple[dict[fx.Node, fx.Node], dict[fx.Node, Arrangement | str]]:
        """Make the graph of a trace; returns the nodes of that to its own, and how those lie."""
        values, anywhere = traced.values, traced.values.anywhere
        with evaluating(network), untouched(network, but=CONSTANT):
            one_of_each = values.first_of_all(traced.graph)
            self.answer_shape = _answer_shape(traced.graph, one_of_each)
            lookouts = anywhere(_lookouts, traced.graph, one_of_each)
            self.graph, first = without_overwriting(traced.graph, lookouts)
            old = {new: node for node, new in first.items()}
            self.asking = ask_the_images(
                self.graph, lambda new: values.of(old[new]) if new in old else (None, None)
            )
            one_of_each = {first[node]: value for node, value in one_of_each.items()}
            in_any_format(self.graph, one_of_each, values.owner)
            return first, anywhere(_arranged, self.graph)

    def prove(self, network: nn.Module) -> None:
        """Compare it with a network, once for all that are `written` the same; not with one on the
        meta device, which computes nothing, nor with one that is a graph itself.

        Raises
        ------
        UserError : where it is not the graph of the network, with what differs.
        """
        if isinstance(network, fx.GraphModule):
            return
        code = written(network)
        on_meta = any(weight.is_meta for weight in network.parameters())
        if code not in self._proven and not on_meta:
            try:
                prove(network, self.graph, self._nodes)
            except Exception as error:  # whatever a network of somebody else's raises
                raise no_graph(network, told(error, network)) from error
            self._proven.add(code)

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

    def _clean_cuts(self) -> set[fx.Node]:
        """The nodes that every path from the image to the output passes: the output's dominators
        (Cooper, Harvey and Kennedy, 2001; a graph's nodes are in topological order). How many
        images there are is no information about them."""
        above: dict[fx.Node, fx.Node | None] = {self.input: None}
        depth = {self.input: 0}
        for node in self.graph.nodes:
            inputs = [n for n in node.all_input_nodes if n in above and n not in self.asking]
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
        passed, node = set(), self.output
        while node is not None:
            passed.add(node)
            node = above.get(node)
        return passed


def _answer_shape(graph: fx.Graph, values: Mapping[fx.Node, Any]) -> tuple[int, ...]:
    """What the network answers to one image."""
    (output,) = (n for n in graph.nodes if n.op == "output")
    answers = output.args[0]
    one = values[answers] if isinstance(answers, fx.Node) else None
    if not isinstance(one, Tensor):
        raise NoGraph("it answers with more than one tensor")
    return tuple(one.shape[1:])


def _lookouts(
    owner: nn.Module, device: torch.device, graph: fx.Graph, values: Mapping[fx.Node, Any]
) -> list[Lookout]:
    """What overwrites what, in evaluation and, where nothing is computed, in training mode; nothing
    in a mode in which nothing does."""
    called = [owner.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"]
    modes = [False] if any(map(was_overwritten, values.values())) else []
    modes += [True] if device == META and any(map(may_overwrite, called)) else []
    made = []
    before = {module: module.training for module in owner.modules()}
    for training in modes:
        for module in before:
            module.training = training  # whatever its own `train` would leave out
        made.append(Lookout(owner, graph))
        made[-1].run(torch.zeros(FEW, *owner.input_shape, device=device))
    for module, training in before.items():
        module.training = training
    return made


def _arranged(
    owner: nn.Module, device: torch.device, graph: fx.Graph
) -> dict[fx.Node, Arrangement | str]:
    """How the value of every node lies, or why that is not known."""
    return arrangements(owner, graph, torch.zeros(FEW, *owner.input_shape, device=device))


_graphs: weakref.WeakValueDictionary[Hashable, Graph] = weakref.WeakValueDictionary()
_last: weakref.WeakKeyDictionary[nn.Module, Graph] = weakref.WeakKeyDictionary()
_one_at_a_time = threading.Lock()


def graph_of(network: nn.Module) -> Graph:
    """The graph of a network as it is now, made once for it, its copies and all that are alike.

    Tracing shows what `forward` does now, whatever it reads in Python, and is done each time: it
    takes a twentieth of the time of a graph, whose rest, how the values of every operation lie,
    follows from the trace and the shapes of the weights; where that is not so (`Graph.by_values`),
    nothing is remembered. That it computes the same is proven again where the code, or what that
    may read, is another. A graph is forgotten with the last network that it belongs to.
    """
    with _one_at_a_time:
        traced = trace(network)
        wanted = signature(network, traced)
        graph = _graphs.get(wanted) or Graph(network, traced)
        graph.prove(network)
        if not graph.by_values:
            _graphs[wanted] = _last[network] = graph
        return graph


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


def features(network: nn.Module, layers: Sequence[str], moving: bool = False) -> fx.GraphModule:
    """A network that returns the activations of `layers` as a tuple.

    `LOGITS` names the logits; "output" does, too, where no layer is called that.

    It contains no module that these layers do not need, under `FRONT`, and shares them with
    `network`; but where `moving`, it has copies, and its batch norms that are functions have a
    mode, as in `join`.
    """
    traced = graph_of(network)
    owner, parts = copy_of(network) if moving else None, nn.Module()
    parts.front = owner or network
    logits = {LOGITS, "output"} - traced.layers.keys() - traced.refused.keys()
    wanted = [traced.output.args[0] if layer in logits else traced.node(layer) for layer in layers]
    piece = fx.Graph()
    copied = _copy(traced, needed(wanted), piece, {}, prefix=FRONT, owner=owner)
    piece.output(tuple(_canonical(traced, node, copied[node], piece) for node in wanted))
    return fx.GraphModule(parts, piece)


def behind(piece: fx.GraphModule, module: str) -> fx.GraphModule:
    """A part of a graph, which takes images and what `module`, that the graph calls once, would be
    given for them: nothing is left of what that alone is computed from. It shares its modules."""
    (called,) = (n for n in piece.graph.nodes if n.target == module)
    (image,) = (n for n in piece.graph.nodes if n.op == "placeholder")
    (output,) = (n for n in piece.graph.nodes if n.op == "output")
    (given,) = called.all_input_nodes
    left = fx.Graph()
    copied = {image: left.placeholder("images"), given: left.placeholder("given")}
    kept = needed([output], stop=given)
    for node in piece.graph.nodes:
        if node in kept and node not in copied:
            copied[node] = left.node_copy(node, copied.__getitem__)
    return fx.GraphModule(piece, left)


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
    kept = needed([tail.output], stop=resume, known=tail.asking)
    if resume not in kept:
        raise UserError(
            f"the output of the end model does not depend on layer '{end_layer}'; choose another."
        )
    parts = nn.Module()
    parts.front, parts.transform, parts.end = copy_of(front), transform, copy_of(end)

    joined = fx.Graph()
    image = joined.placeholder(head.input.name)
    copied = _copy(
        head, needed([cut]), joined, {head.input: image}, prefix=FRONT, owner=parts.front
    )
    mapped = joined.call_module("transform", (_canonical(head, cut, copied[cut], joined),))
    # As many as images, and where they are; so those who ask that need not see an image.
    asked, seeds = needed([*kept & tail.asking]), {tail.input: mapped}
    asking = _copy(tail, asked, joined, seeds, prefix="end.", owner=parts.end)
    mapped = tail.arrangements[resume].restored(mapped, _calls_in(joined))
    seeds = asking | {tail.input: image, resume: mapped}
    copied = _copy(tail, kept - {tail.output}, joined, seeds, prefix="end.", owner=parts.end)
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
    owner: nn.Module | None = None,
) -> dict[fx.Node, fx.Node]:
    """Copy `nodes` behind what `into` holds, their modules found under `prefix`; returns old to
    new. Nodes that `copied` already knows are not copied. An owner of the modules gets some for
    batch norms that are functions, which then have a mode."""
    for node in source.graph.nodes:
        if node in nodes and node not in copied:
            new = copied[node] = into.node_copy(node, copied.__getitem__)
            if node.op in ("call_module", "get_attr"):
                new.target = prefix + node.target
            elif owner is not None and node in source.moving:
                path, _, name = source.moving[node].rpartition(".")
                around = owner.get_submodule(path)
                around.add_module(name, BatchNorm().train(around.training))
                new.op, new.target = "call_module", prefix + source.moving[node]
    return copied
