"""The proof that a graph is the network that it was traced from: the same logits for two sizes of a
batch, and the same gradient at the images.

Tracing sees operations alone. What else a forward does, in Python, with the state of torch, by
chance, would be lost, and whatever is cut and joined would be another network. Nothing is changed
by a proof: it runs a twin of the network, in evaluation mode, on images that are always the same.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from robust_stitching.basics.modes import without_tf32
from robust_stitching.basics.own_lines import is_known, line_of_forward
from robust_stitching.graphs.signature import signature
from robust_stitching.graphs.symbols import NoGraph
from robust_stitching.graphs.tracing import CONSTANT, trace
from robust_stitching.models.probe import with_own_buffers

SIZES = (1, 2)
"""Of batches: some networks look whether there is one image."""

ROUNDING = {"logits": 1e-4, "gradient at the images": 1e-3}
"""How far values may be apart, of the largest of them: one operation may be several in a graph."""

NOTHING = 1e-6
"""Values as small are rounding themselves."""

TINY = 1e-3
"""Weights below are filled: a branch that is as good as nothing would prove nothing."""


class Difference(NamedTuple):
    """What of a graph is not as the network has it."""

    what: str
    largest: float
    of: float
    images: int

    def __str__(self) -> str:
        number = f"{self.images} image" + ("s" if self.images > 1 else "")
        apart = f"{self.largest:.2g} of {self.of:.2g}"
        return f"the {self.what} of {number} would be others by up to {apart}"


def prove(network: nn.Module, graph: fx.Graph, named: Mapping[str, fx.Node]) -> None:
    """Raise `NoGraph` unless a graph, with the nodes of some layers, is what its network does."""
    filled = compared = twin(network, fill=True)
    with torch.random.fork_rng(devices=_gpus(network)), without_tf32():
        difference = _difference(filled, graph)
        if difference and _weights_decide(network, filled):
            compared = twin(network)
            difference = _difference(compared, graph)
        if difference is None:
            _require_alone(compared, graph)
            return
        if _by_chance(twin(network)):
            raise NoGraph(
                "its answers change by themselves in evaluation mode, as by a dropout that does "
                "not ask for the mode"
            )
        where, module = _where(filled, graph, named)
        raise NoGraph(f"{difference}{where}", module)


def _weights_decide(network: nn.Module, filled: nn.Module) -> bool:
    """Whether a network with other weights is another one, by what its forward reads of them in
    Python: then its graph is none of those weights."""
    if any(name.startswith(CONSTANT) for name in vars(network)):
        return True
    one, other = (signature(net, trace(net)) for net in (network, filled))
    return one != other


def twin(network: nn.Module, fill: bool = False) -> nn.Module:
    """A copy in evaluation mode that shares the weights, without gradients of their own, and has
    its own buffers; `fill` puts numbers into weights that are as good as zero."""
    generator = torch.Generator().manual_seed(1)
    made = with_own_buffers(network)
    for weight in made.parameters() if fill else ():
        some = weight.flatten()[:: max(1, weight.numel() // 1000)]
        if weight.is_floating_point() and len(some) and bool((some.abs() < TINY).all()):
            filled = torch.empty(weight.shape).normal_(0, 0.1, generator=generator)
            weight.data = filled.to(weight)
    return made


def _difference(network: nn.Module, graph: fx.Graph) -> Difference | None:
    """The first that there is between a network and its graph, run on the network's modules.

    The gradient is that of the first size that the network takes: some fail on a single image.
    """
    run = fx.Interpreter(network, graph=graph).run
    proven: list[int] = []
    for n in SIZES:
        images = _images(network, n)
        answers = _logits if proven else _logits_and_gradient
        try:
            own = answers(network, images, seed=1)
        except Exception:
            if n == SIZES[-1] and not proven:
                raise
            continue
        proven.append(n)
        again = answers(run, images, seed=2)
        for what in own:
            largest, of = _apart(own[what], again[what])
            if not largest <= ROUNDING[what] * max(of, NOTHING):
                return Difference(what, largest, of, n)
    return None


def _images(network: nn.Module, n: int) -> Tensor:
    like = next(network.parameters(), torch.empty(0))
    images = torch.rand(n, *network.input_shape, generator=torch.Generator().manual_seed(0))
    return images.to(like.device)


Answers = dict[str, Tensor]
Run = Callable[[Tensor], Tensor]


def _logits(run: Run, images: Tensor, seed: int) -> Answers:
    _seed(images.device, seed)
    with torch.no_grad():
        return {"logits": run(images.clone())}  # some networks overwrite what they are given


def _logits_and_gradient(run: Run, images: Tensor, seed: int) -> Answers:
    """The gradient is that of a projection of the logits in which none cancels another."""
    _seed(images.device, seed)
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        logits = run(images.clone())
        weights = torch.rand(logits.shape, generator=torch.Generator().manual_seed(2)) + 0.5
        if logits.requires_grad:
            (logits * weights.to(logits)).sum().backward()
    gradient = torch.zeros_like(images) if images.grad is None else images.grad
    return {"logits": logits.detach(), "gradient at the images": gradient}


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _gpus(network: nn.Module) -> list[torch.device]:
    devices = {weight.device for weight in network.parameters()}
    return [device for device in devices if device.type == "cuda"]


def _seed(device: torch.device, seed: int) -> None:
    """Of this device alone: `torch.manual_seed` is for all of them."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _apart(one: Tensor, other: Tensor) -> tuple[float, float]:
    """The largest difference of two tensors, and the largest of their values."""
    if one.shape != other.shape:
        return float("inf"), 0.0
    if one.numel() == 0:
        return 0.0, 0.0
    if not (one.is_floating_point() or one.is_complex()):
        one, other = one.double(), other.double()
    holes = ~one.isfinite()
    if not torch.equal(holes, ~other.isfinite()):
        return float("inf"), 0.0
    one, other = (value.masked_fill(holes, 0) for value in (one, other))
    return float((one - other).abs().max()), float(torch.maximum(one.abs(), other.abs()).max())


def _require_alone(network: nn.Module, graph: fx.Graph) -> None:
    """Raise `NoGraph` where a module, not looked into, answers by what others have kept of the
    images: whatever is cut between them would be answered by that of other images.

    Each is given again what it was given, from the last to the first, after other images, of which
    there are more.
    """
    modules = dict(network.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    if all(_keeps_nothing(modules[node.target]) for node in calls):
        return
    images = _images(network, SIZES[-1])
    more = 1 - _images(network, SIZES[-1] + 1)
    for others in (more, more * 0, more * 0 + 1, more / 10):
        noted = _Noting(network, graph)
        with torch.no_grad():
            noted.run(images.clone())
            with suppress(Exception):  # which some networks do not take
                network(others)
            for node in reversed(calls):
                module = modules[node.target]
                if not (_keeps_nothing(module) or _answers_again(module, noted, node)):
                    reason = f"its module '{node.target}' answers by what others have kept, too"
                    raise NoGraph(reason, module)


def _answers_again(module: nn.Module, noted: "_Noting", node: fx.Node) -> bool:
    """Whether a module gives what it gave before; what fails now does not."""
    args, kwargs = noted.given[node]
    try:
        again = module(*args, **kwargs)
    except Exception:  # whatever a module of somebody else's raises
        return False
    one, other = tree_leaves(noted.values[node]), tree_leaves(again)
    return len(one) == len(other) and all(map(_same, one, other))


def _keeps_nothing(module: nn.Module) -> bool:
    return is_known(module) and not (module._forward_hooks or module._forward_pre_hooks)


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor):
        return one == other if isinstance(one, int | float) else True
    largest, of = _apart(one, other)
    return largest <= ROUNDING["logits"] * max(of, NOTHING)


def _by_chance(network: nn.Module) -> bool:
    """Whether a network answers the same images in several ways."""
    images = _images(network, SIZES[-1])
    first, *others = (_logits(network, images, seed)["logits"] for seed in (1, 2, 3))
    return any(_apart(first, other)[0] > 0 for other in others)


def _where(
    network: nn.Module, graph: fx.Graph, named: Mapping[str, fx.Node]
) -> tuple[str, nn.Module]:
    """The first layer that a graph has otherwise, as part of a sentence, and the innermost module
    around it that somebody has written."""
    own: dict[str, Tensor] = {}

    def noting(name: str) -> Callable:
        def hook(module: nn.Module, given: Any, out: Any) -> None:
            if isinstance(out, Tensor):
                own.setdefault(name, out.clone())

        return hook

    modules = dict(network.named_modules())
    images = _images(network, SIZES[-1])
    noted = _Noting(network, graph)
    with torch.no_grad():
        _seed(images.device, 1)
        noted.run(images.clone())
        for name, module in modules.items():
            module.register_forward_hook(noting(name))
        network(images.clone())
    for name, value in own.items():
        again = noted.values.get(named.get(name))
        if isinstance(again, Tensor) and _apart(value, again)[0] > ROUNDING["logits"]:
            path = name.split(".")
            around = [modules[".".join(path[:i])] for i in range(len(path), -1, -1)]
            written = (module for module in around if line_of_forward(module))
            return f" from layer '{name}' on", next(written, network)
    return "", network


class _Noting(fx.Interpreter):
    """Runs a graph and keeps the value of every node, and copies of what modules are given."""

    def __init__(self, module: nn.Module, graph: fx.Graph):
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.values: dict[fx.Node, Any] = {}
        self.given: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module":
            self.given[n] = tree_map(_copied, self.fetch_args_kwargs_from_env(n))
        value = self.values[n] = super().run_node(n)
        return value
