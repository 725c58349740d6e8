"""Where the numbers of a network lie: on which device, in which order."""

import torch
from torch import Tensor, nn

from robust_stitching.basics.modes import evaluating
from robust_stitching.models.layers import Normalize
from robust_stitching.models.probe import with_own_buffers

LAST, FIRST = torch.channels_last, torch.contiguous_format

ROUNDING = 1e-3
"""How far answers may be apart that are the same, of the largest of them."""


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` itself, moved to a device, in the layout in which convolutions are fastest there.

    That layout is one of tensors with four dimensions; all others stay as they are, and so does a
    network that was not written for it, see `settle_format`.
    """
    network.to(device)
    norms = (module for module in network.modules() if isinstance(module, Normalize))
    return laid_out(network, FIRST if any(norm.contiguous for norm in norms) else LAST)


def settle_format(network: nn.Module, normalize: Normalize) -> None:
    """Find out whether a network answers the same where channels come last, as the images of this
    library have them; where it does not, or fails, as with ``x.view(len(x), -1)`` behind a
    convolution, its first layer brings its images into the usual order, and its weights stay in
    that."""
    usual, last = (_answer(network, order) for order in (FIRST, LAST))
    if usual is None or (last is not None and _same(last, usual)):
        return
    normalize.contiguous = True
    laid_out(network, FIRST)


def laid_out(network: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """`network` itself, what has four dimensions in a memory format."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)
    return network


def _answer(network: nn.Module, memory_format: torch.memory_format) -> Tensor | None:
    """What a network answers in a memory format; None where it fails. That has to be computed: on
    the meta device some operations leave another order behind than they really do."""
    copied = laid_out(with_own_buffers(network), memory_format)
    like = next(copied.parameters(), torch.empty(0))
    images = torch.rand(2, *network.input_shape, generator=torch.Generator().manual_seed(0))
    images = images.to(like.device).contiguous(memory_format=memory_format)
    try:
        with evaluating(copied), torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(0)  # not that of a GPU, too
            answer = copied(images)
    except Exception:  # whatever a network of somebody else's raises
        return None
    return answer if isinstance(answer, Tensor) else None


def _same(one: Tensor, other: Tensor) -> bool:
    tolerance = ROUNDING * float(other.nan_to_num().abs().max())
    return torch.allclose(one, other, atol=tolerance, rtol=0, equal_nan=True)
