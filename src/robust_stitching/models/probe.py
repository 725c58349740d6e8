"""What a network makes of images of its size, without computing it.

The meta device knows shapes only: nothing is computed and no weight is copied.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching.basics.copying import copy_of
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.modes import evaluating
from robust_stitching.basics.own_lines import with_line
from robust_stitching.models.answers import Place, parts, place_of_logits


def skeleton(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose tensors are all on the meta device."""
    tensors = [*network.parameters(), *network.buffers()]
    for module in network.modules():
        tensors += [value for value in vars(module).values() if isinstance(value, Tensor)]
    return _evaluated(copy_of(network, {id(t): _on_meta(t) for t in tensors}))


def with_own_buffers(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares the numbers of the weights, which need no gradient."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters()}
    return _evaluated(copy_of(network, shared))


def _evaluated(network: nn.Module) -> nn.Module:
    network.eval()  # which need not return it
    return network


def _on_meta(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty


FAILURES = (Exception, SystemExit)
"""What a network of somebody else's may raise: some code leaves by `sys.exit`."""

NEEDED = {
    "input_shape": "the (C, H, W) of its images, as in network.input_shape = (3, 32, 32)",
    "architecture": "what it is called at least, as in network.architecture = {'model': 'mine'}",
}


def attribute(network: nn.Module, name: str) -> Any:
    """One of the attributes of a network that are `NEEDED`; UserError where it has none."""
    try:
        return getattr(network, name)
    except AttributeError as error:
        raise UserError(
            f"the network {type(network).__name__} has no attribute '{name}'; give it "
            f"{NEEDED[name]}; `robust_stitching.network` finds out what it can."
        ) from error


def image_shape(network: nn.Module) -> tuple[int, ...]:
    """Of one image that a network takes, (C, H, W), as its `input_shape` says.

    Raises
    ------
    UserError : where it says nothing, or something that is no shape.
    """
    shape = attribute(network, "input_shape")
    numbers = shape if isinstance(shape, tuple | list) else ()
    if not numbers or not all(isinstance(n, int) and n > 0 for n in numbers):
        raise UserError(
            f"the input_shape of the network {type(network).__name__} is {shape!r}; give it "
            f"{NEEDED['input_shape']}."
        )
    return tuple(numbers)


def require_logits(network: nn.Module, num_classes: int | None) -> int:
    """How many logits `network` gives for an image of its size; UserError unless they are as many
    as asked for, and for None unless they are two at least."""
    name = network.architecture["model"]
    size = network.input_shape[-1]
    try:
        returned = answer(network, network.input_shape)
    except FAILURES as error:  # whatever a network of somebody else's raises
        raise UserError(
            f"{name} does not work on images of {size}×{size} pixels ({with_line(error)}); choose "
            "another network, or images of the size that it is made for (`image_size`)."
        ) from error
    shape = tuple(returned.shape) if isinstance(returned, Tensor) else None
    if shape is None or len(shape) != 2 or shape[1] != (num_classes or max(2, shape[1])):
        wanted = f"{num_classes} logits" if num_classes else "one logit a class"
        raise UserError(
            f"{name} answers with {_described(returned)} instead of {wanted} an image; choose "
            "another network, or have it return its logits alone."
        )
    return shape[1]


def _described(value: Any) -> str:
    """What a network returns for a batch, of one image."""
    if isinstance(value, Tensor):
        return f"values of shape {tuple(value.shape[1:])}"
    named = parts(value)
    if any(isinstance(name, str) for name in named):
        kind = "dictionary" if isinstance(value, Mapping) else type(value).__name__
        return f"a {kind} of " + ", ".join(f"'{k}', {_described(v)}" for k, v in named.items())
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of " + " and ".join(map(_described, value))
    return f"another kind ({type(value).__name__})"


def wanted_beside_images(network: nn.Module) -> list[str]:
    """What `forward` cannot do without, after its first input."""
    inputs = list(inspect.signature(network.forward).parameters.values())
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    first = next((p for p in inputs if p.kind is not p.KEYWORD_ONLY), None)
    asked = [p for p in inputs if p is not first and p.kind not in open_ended]
    return [p.name for p in asked if p.default is p.empty]


def require_trainable(network: nn.Module) -> None:
    """Raise UserError unless `network` answers in training mode as it does otherwise, and with a
    gradient at its weights."""
    name = network.architecture["model"]
    twin = copy_of(network)
    twin.train()
    like = next(twin.parameters(), torch.empty(0))
    try:
        returned = twin(torch.rand(2, *network.input_shape).to(like.device))
    except FAILURES as error:  # whatever a network of somebody else's raises
        raise UserError(f"{name} fails in training mode ({with_line(error)}).") from error
    classes = network.architecture.get("num_classes")
    if not isinstance(returned, Tensor) or returned.shape != (2, classes or returned.shape[-1]):
        raise UserError(
            f"{name} answers with {_described(returned)} in training mode; have it return its "
            "logits alone there, too."
        )
    if not returned.requires_grad:
        raise UserError(
            f"{name} has no weights that can be trained: its answers have no gradient; let its "
            "parameters require one."
        )


def takes(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether a network can be shown images of shape (C, H, W)."""
    return failure_at(network, shape) is None


def failure_at(network: nn.Module, shape: tuple[int, int, int]) -> str | None:
    """What goes wrong where a network is shown images of shape (C, H, W), in words."""
    try:
        answer(network, shape)
    except FAILURES as error:  # whatever a network of somebody else's raises
        return with_line(error)
    return None


def logits_at(network: nn.Module, shape: tuple[int, int, int], num_classes: int | None) -> Place:
    """Where a network has its logits in what it returns, see `answers.place_of_logits`; None also
    where it takes no such images."""
    try:
        return place_of_logits(answer(network, shape), num_classes)
    except FAILURES:  # whatever a network of somebody else's raises
        return None


def channels_taken(network: nn.Module, size: int, first: int) -> int:
    """How many channels the images of a network have: `first` if it takes those, else colour, else
    grey; where it takes none at this size, what its first convolution says."""
    for channels in dict.fromkeys((first, 3, 1)):
        if takes(network, (channels, size, size)):
            return channels
    layers = (m for m in network.modules() if isinstance(m, nn.modules.conv._ConvNd))
    return next((layer.in_channels for layer in layers), first)


def answer(network: nn.Module, image_shape: tuple[int, ...]) -> Any:
    """What a network returns for two images; raises what it raises."""
    shape = (2, *image_shape)
    try:
        return skeleton(network)(torch.empty(shape, device="meta"))
    except FAILURES:  # some operations have no meta version: then it has to be computed
        device = next(network.parameters()).device
        with evaluating(network):
            return network(torch.zeros(shape, device=device))
