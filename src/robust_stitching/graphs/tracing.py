"""Tracing a network into a graph, with people's names for its nodes.

Its forward is run once with symbols, see `symbols`. What is true of their shapes is decided as it
comes up; modules without modules in them are single operations, with the modes that they have.
"""

import inspect
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.basics.modes import evaluating, untouched
from robust_stitching.basics.own_lines import line_of_forward, own_line
from robust_stitching.graphs.lending import lent, with_whole_numbers
from robust_stitching.graphs.norms import keeps_statistics, told_the_mode
from robust_stitching.graphs.paths import Path, Paths
from robust_stitching.graphs.symbols import (
    COMPILED,
    COUNTED,
    IN_MEMORY,
    IN_PLACE,
    Fact,
    NoGraph,
    NumberOfImages,
    Shape,
    Symbol,
    is_question,
    replaced,
    symbols_in,
)
from robust_stitching.graphs.values import MANY, Values
from robust_stitching.models.probe import image_shape, wanted_beside_images, with_own_buffers

CONSTANT = "_tensor_constant"
"""How fx names tensors that a network makes in its forward."""

CONTAINERS = (
    nn.Transformer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
)
"""Modules of torch that are looked into, beside `nn.Sequential`."""

COUNTS = (MANY, *range(3, 1025))
"""Numbers of images that a fact is asked for; up to two are proven."""

NAMED = range(1025, MANY)
"""And that it is asked for where it names them."""

HOLDING = (Tensor, tuple, list, dict)
"""What an operation gives that has to be computed."""

_call = nn.Module.__call__


class Tracer(fx.Tracer):
    """A tracer that remembers which node is the output of which module, by the module's path.

    A network may name modules and functions that are not to be looked into, in its attributes
    `untraced_modules` and `untraced_functions`.

    Attributes
    ----------
    named : layer name to its node and its kind.
    values : what nodes stand for.
    """

    def __init__(self, network: nn.Module):
        super().__init__(autowrap_functions=getattr(network, "untraced_functions", ()))
        self.untraced = getattr(network, "untraced_modules", ())
        self.named: dict[str, tuple[fx.Node, str]] = {}
        self.paths = Paths(network)
        self.values = Values(network)

    def trace(self, root: nn.Module, concrete_args=None) -> fx.Graph:
        for name in [name for name in vars(root) if name.startswith(CONSTANT)]:
            delattr(root, name)  # of an earlier trace, which would be left behind at every one
        # What is made without gradients can be told by those that are.
        with untouched(root, but=CONSTANT), lent(), torch.enable_grad():
            graph = super().trace(root, concrete_args)
        self.named = self.paths.with_all_names(self.named)
        return graph

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """The image alone is asked for; whatever else `forward` takes has its default. The hooks of
        the network are run, as nobody calls its `forward` alone."""
        wanted = wanted_beside_images(self.root)
        if wanted:
            raise NoGraph(f"it wants {' and '.join(wanted)} beside the images", self.root)
        first = next(iter(inspect.signature(self.root.forward).parameters), "x")
        image = self.create_proxy("placeholder", first, (), {})
        return (lambda image: _call(self.root, image)), [image]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, self.untraced) or not any(m.children()) or keeps_statistics(m):
            return True
        return not isinstance(m, CONTAINERS) and super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        if self.values.computing or m not in self.paths.modules:  # or one that a forward makes
            return forward(*args, **kwargs)
        with self.paths.inside(m) as path:
            out = super().call_module(m, forward, args, kwargs)
        if isinstance(out, fx.Proxy):
            self.paths.answer(m, self._remember(path, out.node, type(m).__name__))
        return out

    def getattr(self, attr, attr_val, parameter_proxy_cache):
        if self.values.computing:
            return attr_val
        self.paths.fetch(attr, attr_val)
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> Symbol:
        return Symbol(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, fx.Proxy):
            return a.node
        if isinstance(a, Tensor) and a.grad_fn is not None:
            a = a.detach()  # a constant, which could not be copied
        if isinstance(a, Shape):
            a = tuple(a)
        return super().create_arg(a)

    def create_proxy(self, kind, target, args, kwargs, *more, **named):
        symbols = symbols_in([args, kwargs])
        if is_question(kind, target, symbols):
            if kind == "call_method" and target in ("size", "__len__"):
                return self._size(*args, **kwargs)
            if kind == "call_method" and target in IN_MEMORY:
                usual = super().create_proxy("call_method", "contiguous", args[:1], {})
                args[0].node = usual.node  # whoever asked goes on with that
            return self._answer(
                lambda call, *values: call(kind, target, *values),
                (args, kwargs),
                lambda: self._record(kind, target, args, kwargs, *more, **named),
            )
        return self._record(kind, target, args, kwargs, *more, **named)

    def create_node(self, kind, target, args, kwargs, name=None, type_expr=None):
        if kind in ("call_module", "get_attr"):
            target = Path(target)
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind in ("call_function", "call_method"):
            function = target if isinstance(target, str) else _name_of(target)
            if target in IN_PLACE.values():
                function = function[1:]  # known as "add", whether or not it overwrites
            path = f"{self.paths.around}.{function}".lstrip(".")
            self._remember(path, node, function, module=False)
        return node

    def attribute(self, symbol: Symbol, name: str) -> Any:
        """What ``symbol.name`` is."""
        one, _ = self.values.of(symbol.node)
        if name == "device" and isinstance(one, Tensor):
            asked = super().create_proxy("call_function", getattr, (symbol, name), {})
            self.values.note(asked.node, self.values.device)
            return Fact(asked.node, self)
        if name == "shape" and isinstance(one, Tensor):
            return self._size(symbol)
        if name == "is_cuda":
            return self.values.device.type == "cuda"
        if callable(getattr(one, name)):
            return symbol._method(name)
        return self._answer(
            lambda call, value: getattr(value, name),
            (symbol,),
            lambda: self._record("call_function", getattr, (symbol, name), {}),
        )

    def length(self, symbol: Symbol) -> Any:
        """What ``len(symbol)`` is."""
        one, _ = self.values.of(symbol.node)
        if isinstance(one, Tensor):
            return self._size(symbol, 0)
        if not hasattr(one, "__len__"):  # whoever wants it takes the symbol for a tensor
            raise NoGraph(symbol.open)
        return len(one)

    def _size(self, symbol: Symbol, dim: int | None = None) -> Any:
        one, other = (tuple(value.shape) for value in self.values.of(symbol.node))
        if dim is not None:
            if one[dim] == other[dim]:
                return one[dim]
            asked = self._record("call_method", "size", (symbol, dim), {})
            return NumberOfImages(asked.node, self)
        if one == other:
            return torch.Size(one)
        return Shape(self._size(symbol, dim) for dim in range(len(one)))

    def _answer(self, ask, given: tuple, record) -> Any:
        """What is asked, where that is plain and the same for any number of images; else a symbol
        of what `record` writes down."""
        symbols = symbols_in(given)
        nodes = [symbol.node for symbol in symbols]

        def one_of(call: Any, known: Any) -> Any:
            return ask(call, *replaced(given, known))

        def same_for(n: int) -> bool:
            try:
                return self.values.of_facts(n, one_of, *nodes) == one
            except Exception:  # whatever arithmetic raises
                return False

        one, other = self.values.asked(one_of, *nodes)
        if not _holds_tensors(one) and type(one) is type(other) and one == other:
            # Of numbers of images also for many, and for as many as they are compared with.
            counted = any(type(symbol) is NumberOfImages for symbol in symbols)
            named = [n for n in tree_leaves(given) if type(n) is int and n in NAMED]
            numbers = (*COUNTS, *named) if counted else ()
            facts = all(issubclass(type(symbol), Fact) for symbol in symbols)
            if not facts or all(same_for(n) for n in numbers):
                return one
        symbol = record()
        if isinstance(one, int | float) and isinstance(symbol, Symbol):
            return NumberOfImages(symbol.node, self)
        return symbol

    def _record(self, kind, target, args, kwargs, *more, **named) -> Symbol:
        symbol = super().create_proxy(kind, target, args, kwargs, *more, **named)
        if target is operator.getitem or target is getattr:
            one, _ = self.values.of(symbol.node)
            # On the meta device there are no numbers that could have told it.
            if one is None or not (self.values.by_values or isinstance(one, HOLDING)):
                return self._plain(symbol)
        if kind.startswith("call") and not torch.is_grad_enabled() and not _overwrites(target):
            one, _ = self.values.of(symbol.node)
            if isinstance(one, Tensor):
                return super().create_proxy("call_method", "detach", (symbol,), {})
        return symbol

    def _remember(self, path: str, node: fx.Node, kind: str, module: bool = True) -> str:
        """Name a node: a module's first output by its path; all else gives way to modules."""
        name, again = path, 0
        while name in self.named or (name in self.paths and (again or not module)):
            again += 1
            name = f"{path}_{again}"
        self.named[name] = (node, kind)
        return name

    def _plain(self, symbol: Symbol) -> Any:
        """What a symbol stands for that is no tensor, without its node where nobody needs it."""
        one, other = self.values.of(symbol.node)
        if type(one) is not type(other) or one != other:
            return NumberOfImages(symbol.node, self)
        self.named = {name: held for name, held in self.named.items() if held[0] is not symbol.node}
        self.values.forget(symbol.node)
        self.graph.erase_node(symbol.node)
        return one


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


def _name_of(function: Any) -> str:
    owner = getattr(function, "__self__", None)
    named = owner if isinstance(owner, type) else function  # of autograd's functions, the class
    return getattr(named, "__name__", type(function).__name__)


def _overwrites(target: Any) -> bool:
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return name.endswith("_") or target in IN_PLACE.values() or target is operator.setitem


@dataclass(frozen=True)
class Trace:
    """What a network does, operation by operation.

    Attributes
    ----------
    named : layer name to node and kind.
    values : what the nodes stand for, which hold the network.
    moving : the batch norms that are functions, see `norms`.
    """

    graph: fx.Graph
    named: dict[str, tuple[fx.Node, str]]
    values: Values
    moving: set[fx.Node]


def trace(network: nn.Module) -> Trace:
    """What a network does in evaluation mode; UserError where it cannot be followed, or does not
    say what images it takes."""
    image_shape(network)
    try:
        with evaluating(network), torch.random.fork_rng(devices=()):
            tracer, graph = _traced(network)
            moving = told_the_mode(graph, lambda: _in_training(network))
            return Trace(graph, tracer.named, tracer.values, moving)
    except Exception as error:  # whatever a network of somebody else's does to a symbol
        raise no_graph(network, told(error, network)) from error


def _traced(network: nn.Module) -> tuple[Tracer, fx.Graph]:
    def run() -> tuple[Tracer, fx.Graph]:
        tracer = Tracer(network)
        return tracer, tracer.trace(network)

    return with_whole_numbers(run)


def _in_training(network: nn.Module) -> fx.Graph:
    """What a network does in training mode; a copy of it, which keeps statistics of its own."""
    copied = with_own_buffers(network)
    for module in copied.modules():
        module.training = True
    return _traced(copied)[1]


def told(error: Exception, network: nn.Module) -> str:
    """What another's error is, and where in whose code, as part of a sentence."""
    what = str(error) if isinstance(error, NoGraph) else first_line(error)
    if NumberOfImages.__name__ in what:  # in the words of Python, of whom a plain one was wanted
        what = COUNTED
    elif isinstance(error, RuntimeError) and (Symbol.__name__ in what or "INTERNAL ASSERT" in what):
        what = COMPILED  # in the words of C++, which takes nothing else
    forward = line_of_forward(getattr(error, "module", None) or network)
    line = own_line(error) or (forward and f"see its forward, {forward}")
    return f"{what}, {line}" if line else what


def no_graph(network: nn.Module, reason: str) -> UserError:
    """What to raise for a network that cannot be written as a graph."""
    architecture = getattr(network, "architecture", None)
    known = architecture.get("model") if isinstance(architecture, dict) else None
    name = known or f"the network {type(network).__name__}"
    return UserError(
        f"{name} cannot be written as a graph of layers, which stitching needs ({reason}); "
        "change its forward, or choose another network."
    )
