"""Tracing a network into a graph, with people's names for its nodes and a size for each."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.basics.modes import evaluating
from robust_stitching.models.probe import image_shape

CONSTANT = "_tensor_constant"
"""How fx names tensors that a network makes in its forward."""


IN_PLACE = {
    f"__i{name}__": getattr(operator, f"i{name}")
    for name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or")
}


class Proxy(fx.Proxy):
    """A symbol that also records what overwrites it: ``y += 1`` is no new ``y``, and ``y[0] = 1``
    is possible."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _overwrite(function: Callable) -> Callable:
    def overwrite(self: Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return overwrite


for _method, _function in IN_PLACE.items():
    setattr(Proxy, _method, _overwrite(_function))


class Tracer(fx.Tracer):
    """A tracer that remembers which node is the output of which module, by the module's path.

    A network may name modules and functions that are not to be looked into, in its attributes
    `untraced_modules` and `untraced_functions`.
    """

    def __init__(self, network: nn.Module):
        super().__init__(autowrap_functions=getattr(network, "untraced_functions", ()))
        self.untraced = getattr(network, "untraced_modules", ())
        self.found: dict[str, tuple[fx.Node, str]] = {}
        self.paths: set[str] = set()

    def trace(self, root: nn.Module, concrete_args=None) -> fx.Graph:
        self.paths = {path for path, _ in root.named_modules()}
        for name in [name for name in vars(root) if name.startswith(CONSTANT)]:
            delattr(root, name)  # of an earlier trace, which would be left behind at every one
        return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = not any(m.children()) or isinstance(m, self.untraced)
        return whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        out = super().call_module(m, forward, args, kwargs)
        if isinstance(out, fx.Proxy):
            self._remember(self.path_of_module(m), out.node, type(m).__name__)
        return out

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Proxy(node, self)

    def create_node(self, kind, target, args, kwargs, name=None, type_expr=None):
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind in ("call_function", "call_method"):
            function = target if isinstance(target, str) else target.__name__
            if target in IN_PLACE.values():
                function = function[1:]  # known as "add", whether or not it overwrites
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


class Sizes(fx.Interpreter):
    """Runs a graph and notes the shape of every node that is a tensor, and every whole number."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.numbers: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node):
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = tuple(value.shape)
        elif isinstance(value, int) and n.op != "output":
            self.numbers[n] = value
        return value


@dataclass(frozen=True)
class Trace:
    """What a network does, operation by operation; `found` is layer name to node and kind."""

    graph: fx.Graph
    found: dict[str, tuple[fx.Node, str]]


def trace(network: nn.Module) -> Trace:
    """What a network does in evaluation mode; UserError where it cannot be followed, or does not
    say what images it takes."""
    image_shape(network)
    tracer = Tracer(network)
    try:
        with evaluating(network):
            return Trace(tracer.trace(network), tracer.found)
    except Exception as error:  # whatever a network of somebody else's does to a symbol
        raise no_graph(network, first_line(error)) from error


def no_graph(network: nn.Module, reason: str) -> UserError:
    """What to raise for a network that cannot be written as a graph."""
    architecture = getattr(network, "architecture", None)
    known = architecture.get("model") if isinstance(architecture, dict) else None
    name = known or f"the network {type(network).__name__}"
    return UserError(
        f"{name} cannot be written as a graph of layers, which stitching needs ({reason}); "
        "change its forward, or choose another network."
    )


def replace_by_number(node: fx.Node, number: int) -> None:
    """Write `number` wherever `node` is used, so that nobody depends on where it came from."""

    def literal(n: fx.Node):
        return number if n is node else n

    for user in list(node.users):
        user.args = fx.node.map_arg(user.args, literal)
        user.kwargs = fx.node.map_arg(user.kwargs, literal)
