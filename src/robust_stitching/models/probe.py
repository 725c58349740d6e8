"""What a network makes of images of its size, without computing it.

The meta device knows shapes only: nothing is computed and no weight is copied.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.basics.modes import evaluating


def skeleton(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose tensors are all on the meta device."""
    tensors = [*network.parameters(), *network.buffers()]
    for module in network.modules():
        tensors += [value for value in vars(module).values() if isinstance(value, Tensor)]
    return copy.deepcopy(network, {id(t): _on_meta(t) for t in tensors}).eval()


def _on_meta(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty


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
            f"{NEEDED[name]}."
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


def require_logits(network: nn.Module, num_classes: int) -> None:
    """Raise UserError unless `network` turns images of its size into one logit a class."""
    name = network.architecture["model"]
    size = network.input_shape[-1]
    try:
        found = _answer(network)
    except Exception as error:  # whatever a network of somebody else's raises
        raise UserError(
            f"{name} does not work on images of {size}×{size} pixels ({first_line(error)}); choose "
            "another network, or a dataset whose images have the size that it is made for."
        ) from error
    if not isinstance(found, Tensor) or found.shape != (2, num_classes):
        what = f"shape {tuple(found.shape[1:])}" if isinstance(found, Tensor) else "another kind"
        raise UserError(
            f"{name} answers with values of {what} instead of {num_classes} logits an image; "
            "choose another network."
        )


def _answer(network: nn.Module) -> Any:
    shape = (2, *network.input_shape)
    try:
        return skeleton(network)(torch.empty(shape, device="meta"))
    except Exception:  # some operations have no meta version: then it has to be computed
        device = next(network.parameters()).device
        with evaluating(network):
            return network(torch.zeros(shape, device=device))
