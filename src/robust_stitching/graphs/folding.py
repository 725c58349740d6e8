"""A network as it is in evaluation mode, with batch norms folded into the convolutions before them.

Attacks and comparisons run a network many times while its weights stand still; a convolution
followed by a batch norm is then one convolution. The view shares everything else with the network,
so it costs next to no memory, and `refresh` brings it up to date after a training step.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from robust_stitching.basics.modes import attackable, without_tf32
from robust_stitching.graphs.graph import FRONT, graph_of

ROUNDING = 0.01  # of the norm of what is compared


class FoldedConv(nn.Module):
    """conv(x) scaled and shifted as the batch norm `bn` does in evaluation mode."""

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d):
        super().__init__()
        self._sources = (conv, bn)  # in a tuple they are no children: nothing is registered twice
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the weights and statistics as they are now."""
        conv, bn = self._sources
        scale = (bn.running_var + bn.eps).rsqrt()
        shift = -bn.running_mean
        if conv.bias is not None:
            shift = shift + conv.bias
        if bn.affine:
            scale = scale * bn.weight
        self.weight = conv.weight * scale.view(-1, 1, 1, 1)
        self.bias = shift * scale + (bn.bias if bn.affine else 0)

    def forward(self, x: Tensor) -> Tensor:
        conv, _ = self._sources
        return F.conv2d(
            x, self.weight, self.bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )


class Folded(nn.Module):
    """A view of `network`, a network with an `input_shape`, that gives its logits in evaluation
    mode, whatever mode it is in, provided that the view itself is in evaluation mode."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.body, self._convs = _folded(network, graph_of(network).graph)

    def refresh(self) -> "Folded":
        """The same view, up to date with the network's weights and statistics."""
        for conv in self._convs:
            conv.refresh()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def folded(piece: fx.GraphModule) -> fx.GraphModule:
    """The same graph in evaluation mode, with the weights as they are now. What it gives stays what
    it is but for rounding: a convolution that something else looks at is not folded."""
    return _folded(piece, piece.graph)[0]


def view_of(network: nn.Module) -> nn.Module:
    """What to attack in place of `network`: a folded view, or, where that is not the same function
    of an image, the network itself.

    Tracing does not see what a network does with values in Python, nor the gradients that a
    `torch.autograd.Function` makes up, as of a rounding that is passed straight through.
    """
    try:
        view = Folded(network)
        with attackable(network), attackable(view), without_tf32():
            answers = [_answer_and_gradient(f, samples(network)) for f in (network, view)]
    except Exception:  # a network of somebody else's, as a graph or as it is, may raise anything
        return network
    same = all(map(alike, *answers))
    return view if same else network


def samples(network: nn.Module, n: int = 2) -> Tensor:
    """Images in [0, 1] such as a network takes, one with black parts, as many data sets have."""
    like = next(network.parameters(), torch.empty(0))
    images = torch.rand(n, *network.input_shape, generator=torch.Generator().manual_seed(0))
    images[1] *= images[1] > 0.5
    return images.to(device=like.device, dtype=like.dtype)


def _answer_and_gradient(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, and the gradient of a sum of them that lets none cancel another."""
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        logits = network(images.clone())  # some networks overwrite what they are given
        weights = torch.linspace(1, 2, logits[0].numel(), dtype=logits.dtype, device=logits.device)
        (logits.flatten(1) * weights).sum().backward()  # checkpoints know no `autograd.grad`
    return logits.detach(), images.grad


def alike(one: Tensor, other: Tensor, rounding: float = ROUNDING) -> bool:
    """Whether two tensors are the same but for rounding, and for single units that it turns on."""
    holes = ~one.isfinite()
    if not torch.equal(holes, ~other.isfinite()):
        return False
    difference = (one - other).masked_fill(holes, 0).norm()
    return bool(difference <= rounding * one.masked_fill(holes, 0).norm())


def _folded(network: nn.Module, traced: fx.Graph) -> tuple[fx.GraphModule, list[FoldedConv]]:
    """A graph of a network's modules, folded, and the convolutions that stand for two of them."""
    traced = copy.deepcopy(traced)
    parts: dict[str, nn.Module] = {}
    for node in list(traced.nodes):
        pair = _foldable(network, node)
        if pair is not None:
            conv = node.args[0]
            parts[conv.target] = FoldedConv(*pair)
            node.replace_all_uses_with(conv)
            traced.erase_node(node)
    convs = list(parts.values())
    for node in traced.nodes:
        if node.op in ("call_module", "get_attr") and node.target not in parts:
            owner, _, name = node.target.rpartition(".")
            parts[node.target] = getattr(network.get_submodule(owner), name)
    for node in traced.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = FRONT + node.target
    return fx.GraphModule({FRONT + path: part for path, part in parts.items()}, traced), convs


def _foldable(network: nn.Module, node: fx.Node) -> tuple[nn.Conv2d, nn.BatchNorm2d] | None:
    """The convolution and the batch norm that `node` ends, where nothing else sees what is between
    them and neither is called twice."""
    if node.op != "call_module" or not isinstance(node.args[0], fx.Node):
        return None
    before = node.args[0]
    if before.op != "call_module" or len(before.users) != 1:
        return None
    conv, bn = network.get_submodule(before.target), network.get_submodule(node.target)
    fits = type(conv) is nn.Conv2d and type(bn) is nn.BatchNorm2d and bn.track_running_stats
    hooks = [*_hooks(conv), *_hooks(bn)]  # which may make weights at every pass
    if not fits or hooks or conv.padding_mode != "zeros":
        return None
    calls = [other.target for other in node.graph.nodes if other.op == "call_module"]
    once = calls.count(before.target) == 1 and calls.count(node.target) == 1
    return (conv, bn) if once else None


def _hooks(module: nn.Module) -> list[Callable]:
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
