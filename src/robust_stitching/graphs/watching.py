"""Following the numbers of an image through a network, to know which axis of an activation holds
what.

A network is run once with every operation watched, and the places of its numbers are handed on from
operation to operation: a reshape or a permutation moves them, whatever it is called, a matrix
product or a convolution gives new channels to old positions, what works number by number leaves
them where they are. So no name of a module or function has to be trusted. Where places get lost,
they are lost for all that follows, until another operand still has them (a residual sum) or a
convolution lays its maps out anew.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from robust_stitching.graphs.following import Call, followed
from robust_stitching.graphs.places import Arrangement, Places, arrangement, places_of
from robust_stitching.graphs.transform import StitchingLayer

NO_NUMBERS = "it has no floating point numbers, of which alone maps are made"
PRECISION = "its numbers are {}, but maps are made of float32"
NOT_FOLLOWED = "no image can be followed through the operations before it"


class ValuesNeeded(Exception):
    """The meta device has none."""


def arrangements(
    module: nn.Module, graph: fx.Graph, images: Tensor
) -> dict[fx.Node, Arrangement | str]:
    """How the value of every node of a graph lies that is a tensor, or why that is not known.

    Parameters
    ----------
    module : which has the modules and tensors of the graph.

    Raises
    ------
    ValuesNeeded : where `images` are on the meta device and an operation that moves numbers by
        other numbers could not be followed there.
    """
    watch = Watch(images)
    seen: dict[fx.Node, tuple[Places | None, torch.Size]] = {}
    whole: dict[fx.Node, str] = {}
    lost: list[fx.Node] = []

    class Interpreter(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            watch.failed = False
            value = super().run_node(n)
            if watch.failed and not _orders_answers(n):
                lost.append(n)
            if n.op == "call_module" and _mixes_all(module.get_submodule(n.target)):
                watch.lay_out(value)
            if isinstance(value, Tensor) and n.op != "output":
                if not value.is_floating_point():
                    whole[n] = NO_NUMBERS
                elif value.dtype != images.dtype:
                    whole[n] = PRECISION.format(str(value.dtype).removeprefix("torch."))
                else:
                    seen[n] = watch.places(value), value.shape
            return value

    with watch:
        Interpreter(module, graph=graph).run(images)
    if lost and images.device.type == "meta":
        raise ValuesNeeded
    # Not while operations are watched, which takes longer than they do.
    return whole | {
        node: NOT_FOLLOWED if places is None else arrangement(places, shape)
        for node, (places, shape) in seen.items()
    }


def _mixes_all(module: nn.Module) -> bool:
    """Whether a module gives maps, or vectors, each number of which is made of all of an image."""
    flat = isinstance(module, StitchingLayer) and module.form.flatten
    return flat and not module.target.prefix


def _orders_answers(node: fx.Node) -> bool:
    """Whether nothing but the output uses an operation that is no module: nobody cuts there."""
    return node.op != "call_module" and all(user.op == "output" for user in node.users)


class Watch(TorchDispatchMode):
    """While it is entered, the places of every tensor that is computed from `images` are noted.

    Attributes
    ----------
    failed : whether an operation could not be followed for want of values, as on the meta device.
    """

    def __init__(self, images: Tensor):
        super().__init__()
        self._known = WeakIdKeyDictionary()
        self._known[images] = places_of(images)
        self.failed = False

    def places(self, value: Any) -> Places | None:
        """Of a tensor, as far as they are known."""
        return self._known.get(value) if isinstance(value, Tensor) else None

    def lay_out(self, value: Tensor) -> None:
        """Take a tensor for maps (N, C, H, W), or vectors (N, C)."""
        self._known[value] = places_of(value)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(tensor in self._known for tensor in tensors):
            self._note(Call(func, args, kwargs, out, tensors, self.places))
        return out

    def _note(self, call: Call) -> None:
        try:
            found = followed(call)
        except (RuntimeError, ValueError, IndexError, TypeError):
            self.failed, found = True, [None]
        for value, places in zip(call.outs, found, strict=False):
            if places is not None:
                self._known[value] = places.reduced()
            else:
                self._known.pop(value, None)  # changed in place, in a way that was not followed
