"""Networks as graphs: the names of their layers, cutting them and joining the pieces.

A layer name is a module path (``conv1``, ``layer1.0.add``); a container's name means its output; a
module called again gets ``_1``, ``_2``. Operations that are no modules carry their function's name
behind the path of the module that calls them (``flatten``).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from robust_stitching.errors import UserError, unknown


@dataclass(frozen=True)
class Layer:
    """One place where a network can be cut.

    Attributes
    ----------
    name : as users write it.
    kind : the class of the module, or the function.
    shape : of the activation of one image: (C, H, W), (tokens, C) or (C,).
    clean : whether everything that follows depends on the image through this activation alone.
        At any other layer a skip connection jumps over the cut and lets the image pass by.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    clean: bool


class _Tracer(fx.Tracer):
    """A tracer that remembers which node is the output of which module, by the module's path."""

    def __init__(self):
        super().__init__()
        self.found: dict[str, tuple[fx.Node, str]] = {}
        self.paths: set[str] = set()

    def trace(self, root: nn.Module, concrete_args=None) -> fx.Graph:
        self.paths = {path for path, _ in root.named_modules()}
        return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or not any(m.children())

    def call_module(self, m, forward, args, kwargs):
        out = super().call_module(m, forward, args, kwargs)
        if isinstance(out, fx.Proxy):
            self._remember(self.path_of_module(m), out.node, type(m).__name__)
        return out

    def create_node(self, kind, target, args, kwargs, name=None, type_expr=None):
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind in ("call_function", "call_method"):
            function = target if isinstance(target, str) else target.__name__
            path = f"{self.scope.module_path}.{function}".lstrip(".")
            self._remember(path, node, function, module=False)
        return node

    def _remember(self, path: str, node: fx.Node, kind: str, module: bool = True) -> None:
        """Name a node: a module's first output by its path; all else gives way to modules."""
        name, again = path, 0
        while name in self.found or (name in self.paths and (again or not module)):
            again += 1
            name = f"{path}_{again}"
        self.found[name] = (node, kind)


class Graph:
    """A traced network.

    Parameters
    ----------
    network : with an `input_shape` of (C, H, W); it is not changed.

    Attributes
    ----------
    layers : name to `Layer`, in the order of computation.
    """

    def __init__(self, network: nn.Module):
        tracer = _Tracer()
        self.network = network
        self.graph = tracer.trace(network)
        (self.input,) = (n for n in self.graph.nodes if n.op == "placeholder")
        (self.output,) = (n for n in self.graph.nodes if n.op == "output")
        self._measure_shapes()
        self._nodes: dict[str, fx.Node] = {}
        self.layers: dict[str, Layer] = {}
        for name, (node, kind) in tracer.found.items():
            shape = _shape(node)
            if shape is not None:
                self._nodes[name] = node
                self.layers[name] = Layer(name, kind, shape, not self._leaks(node))

    def node(self, layer: str, role: str = "layer") -> fx.Node:
        """The node whose value is the activation of `layer`, which errors call by its role.

        Raises
        ------
        UserError : for an unknown name, with the closest ones.
        """
        if layer not in self._nodes:
            raise unknown(
                role, layer, self.layers, f"layer_info.py lists all {len(self.layers)} layers."
            )
        return self._nodes[layer]

    def _measure_shapes(self) -> None:
        """Note every node's shape, on the meta device, where nothing is computed or copied."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        weightless = {id(t): _like_on_meta(t) for t in tensors}
        skeleton = copy.deepcopy(self.network, weightless).eval()
        images = torch.empty(2, *self.network.input_shape, device="meta")
        ShapeProp(fx.GraphModule(skeleton, self.graph)).propagate(images)

    def _leaks(self, cut: fx.Node) -> bool:
        """Whether the output can be reached from the image without passing `cut`."""
        return self.input in needed([self.output], stop=cut)


def _like_on_meta(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a node's value for one image; None where it is no batch of activations."""
    value = node.meta.get("tensor_meta")
    if not isinstance(value, TensorMetadata) or len(value.shape) < 2 or value.shape[0] != 2:
        return None
    return tuple(value.shape[1:])


def needed(targets: Sequence[fx.Node], stop: fx.Node | None = None) -> set[fx.Node]:
    """All that `targets` are computed from, themselves included, not looking behind `stop`."""
    seen: set[fx.Node] = set()
    waiting = list(targets)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            if node is not stop:
                waiting.extend(node.all_input_nodes)
    return seen


def shape_of(network: nn.Module, layer: str, role: str = "layer") -> tuple[int, ...]:
    """The shape of one image's activation at `layer`, which errors call by its role."""
    traced = Graph(network)
    traced.node(layer, role)
    return traced.layers[layer].shape


def features(network: nn.Module, layers: Sequence[str]) -> nn.Module:
    """A network that returns the activations of `layers` as a tuple; "output" names the logits.

    It shares its modules with `network` and contains none that these layers do not need.
    """
    traced = Graph(network)
    wanted = [
        traced.output.args[0] if layer == "output" else traced.node(layer) for layer in layers
    ]
    piece = fx.Graph()
    copied = _copy(traced, needed(wanted), piece, {}, prefix="")
    piece.output(tuple(copied[node] for node in wanted))
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
    head, tail = Graph(front), Graph(end)
    cut, resume = head.node(front_layer), tail.node(end_layer)
    kept = needed([tail.output], stop=resume)
    if resume not in kept:
        raise UserError(
            f"the output of the end model does not depend on layer '{end_layer}'; choose another."
        )
    parts = nn.Module()
    parts.front, parts.transform, parts.end = copy.deepcopy(front), transform, copy.deepcopy(end)

    joined = fx.Graph()
    image = joined.placeholder(head.input.name)
    copied = _copy(head, needed([cut]), joined, {head.input: image}, prefix="front.")
    mapped = joined.call_module("transform", (copied[cut],))
    seeds = {tail.input: image, resume: mapped}
    copied = _copy(tail, kept - {tail.output}, joined, seeds, prefix="end.")
    joined.output(copied[tail.output.args[0]])
    return fx.GraphModule(parts, joined)


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
