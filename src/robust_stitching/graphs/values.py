"""What the symbols of a trace stand for, as far as shapes tell, at two numbers of images.

Nothing is computed where that can be helped: the meta device knows shapes and types alone. Whatever
is a plain value there, and the same for both numbers of images, is a fact about the network.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from robust_stitching.models.probe import skeleton

BATCHES = (11, 13)
"""Two sizes of a batch by which to tell what grows with it; few tensors have them by chance."""

MANY = 40_320
"""Images, rarely more, whose number most small ones divide: what is true of few and of so many is
taken to be true of any number."""

META = torch.device("meta")


SHAPELESS = frozenset(
    (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.ReLU)
)
"""Modules that change no shape, for which torch takes long to find that out."""


class Scaled(nn.Module):
    """What they do to shapes, at a hundredth of the time."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid()


def bare(network: nn.Module) -> nn.Module:
    """The skeleton of a network, for nothing but shapes."""
    made = skeleton(network)
    for module in made.modules():
        if type(module) in SHAPELESS and not getattr(module, "inplace", False):
            module.__class__ = Scaled
    return made


class Values:
    """The value of every node of a graph that may still grow.

    Parameters
    ----------
    network : with an `input_shape`; it is not changed.

    Attributes
    ----------
    by_values : whether an operation had to be computed, with the weights as they were.
    device : where the network's own weights are.
    computing : whether operations are being run that are none of the trace.
    """

    def __init__(self, network: nn.Module):
        self.by_values, self.computing = False, False
        tensors = (*network.parameters(), *network.buffers())
        self.device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        self._network, self._owner = network, None
        self._known: list[dict[fx.Node, Any]] = [{}, {}]
        self._noted: dict[fx.Node, Any] = {}
        self._last: list[fx.Node | None] = [None, None]

    @property
    def owner(self) -> nn.Module:
        """The network's skeleton, or where operations have to be computed, itself."""
        if self._owner is None:
            self._owner = self._network if self.by_values else bare(self._network)
        return self._owner

    def note(self, node: fx.Node, value: Any) -> None:
        """Take it that `node` stands for `value`, whatever would be computed."""
        self._noted[node] = value

    def forget(self, node: fx.Node) -> None:
        """Let go of the node that was added last."""
        for known in self._known:
            known.pop(node, None)
        self._last = [node.prev if last is node else last for last in self._last]

    def of(self, node: fx.Node) -> tuple[Any, Any]:
        """What a node stands for, for the first and the second of `BATCHES`."""
        if any(node not in known for known in self._known):
            self._anywhere(self._catch_up, node.graph)
        return self._known[0][node], self._known[1][node]

    def first_of_all(self, graph: fx.Graph) -> Mapping[fx.Node, Any]:
        """What all nodes of a graph stand for, for the first of `BATCHES`."""
        self._anywhere(self._catch_up, graph, 1)
        return self._known[0]

    def asked(self, ask: Callable[[Any, Mapping[fx.Node, Any]], Any], *nodes: fx.Node) -> list[Any]:
        """What ``ask(call, values)`` gives for both, where ``call(op, target, args, kwargs)`` runs
        an operation, and all of `nodes` have values."""
        for node in nodes:
            self.of(node)
        return self._anywhere(lambda: [ask(self._call, known) for known in self._known])

    def of_facts(
        self, n: int, ask: Callable[[Any, Mapping[fx.Node, Any]], Any], *nodes: fx.Node
    ) -> Any:
        """What ``ask(call, values)`` gives for n images, where all nodes stand for facts."""
        known = {node: self._of_fact(n, node) for node in nodes}
        return self._anywhere(lambda: ask(self._call, known))

    def _of_fact(self, n: int, node: fx.Node) -> Any:
        """Computed from others, where it is; a size of a tensor grows with the batch."""
        one, other = self.of(node)
        if not isinstance(one, int | float):
            return one
        if any(isinstance(self.of(given)[0], Tensor) for given in node.all_input_nodes):
            grows = (other - one) * (n - BATCHES[0]) // (BATCHES[1] - BATCHES[0])
            return one + grows if grows else one
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda g: self._of_fact(n, g))
        return self._call(node.op, node.target, args, kwargs)

    def anywhere(self, run: Callable[..., Any], *args: Any) -> Any:
        """``run(owner, device, *args)``, where `owner` has all that a graph of the network uses, on
        the meta device, or where an operation does not exist there, computing."""
        if not self.by_values:
            for name, value in vars(self._network).items():
                if isinstance(value, Tensor) and name not in vars(self.owner):
                    setattr(self.owner, name, value.to(META))  # that tracing made
            # The second for what is made without saying where, which takes longer.
            for where in (nullcontext(), META):
                with suppress(Exception), where:
                    return run(self.owner, META, *args)
            self.by_values, self._owner = True, None
        return run(self._network, self.device, *args)

    def _anywhere(self, run: Callable[..., Any], *args: Any) -> Any:
        before, self.computing = self.computing, True
        try:
            with torch.no_grad():
                try:
                    return run(*args)
                except Exception:
                    if self.by_values:
                        raise
                self.by_values, self._owner = True, None
                self._known, self._last = [{}, {}], [None, None]
                return run(*args)
        finally:
            self.computing = before

    def _catch_up(self, graph: fx.Graph, sides: int = 2) -> None:
        """Run what was added to a graph since; in its order, since some of it may overwrite."""
        for side in range(sides):
            last, known, n = self._last[side], self._known[side], BATCHES[side]
            node = next(iter(graph.nodes)) if last is None else last.next
            while node.op not in ("root", "output"):
                known[node] = self._value(node, known, n)
                self._last[side], node = node, node.next

    def _value(self, node: fx.Node, known: dict[fx.Node, Any], n: int) -> Any:
        if node in self._noted:
            return self._noted[node]
        if node.op == "placeholder":
            device = self.device if self.by_values else META
            return torch.zeros(n, *self._network.input_shape, device=device)
        if node.op == "get_attr":
            return self._attribute(node.target)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        return self._call(node.op, node.target, args, kwargs)

    def _call(self, op: str, target: Any, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        args, kwargs = tuple(args), dict(kwargs)
        if getattr(target, "__module__", None) != "_operator":  # ``==`` compares what there is
            args, kwargs = tree_map(self._placed, (args, kwargs))
        if "device" in kwargs and not self.by_values:
            kwargs["device"] = META
        if op == "call_module":
            made = self.owner.get_submodule(target)(*args, **kwargs)
        elif op == "call_method":
            made = getattr(args[0], target)(*args[1:], **kwargs)
        else:
            made = target(*args, **kwargs)
        return made if isinstance(made, torch.device) else tree_map(self._placed, made)

    def _attribute(self, target: str) -> Any:
        *path, name = target.split(".")
        for root in (self.owner, self._network):  # which has what tracing made
            owner = root.get_submodule(".".join(path))
            if hasattr(owner, name):
                return self._placed(getattr(owner, name))
        raise AttributeError(target)

    def _placed(self, value: Any) -> Any:
        """A value as it is where operations are run."""
        if self.by_values:
            return value
        if isinstance(value, torch.device):
            return META
        return value.to(META) if isinstance(value, Tensor) and not value.is_meta else value
