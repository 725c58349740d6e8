"""Where the numbers of a network lie: on which device, in which order."""

import torch
from torch import Tensor, nn

from robust_stitching.basics.modes import evaluating
from robust_stitching.models.layers import Normalize
from robust_stitching.models.probe import with_own_buffers

LAST, FIRST = torch.channels_last, torch.contiguous_format


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` itself, moved to a device, in the layout in which convolutions are fastest there.

    That layout is one of tensors with four dimensions; all others stay as they are, and so does a
    network that was not written for it, see `settle_format`.
    """
    network.to(device)
    norms = (module for module in network.modules() if isinstance(module, Normalize))
    return laid_out(network, FIRST if any(norm.contiguous for norm in norms) else LAST)


def settle_format(network: nn.Module, normalize: Normalize) -> None:
    """Find out whether a network works on channels that come last, as the images of this library
    have them; where it does not, as with ``x.view(len(x), -1)`` behind a convolution, its first
    layer brings its images into the usual order, and its weights stay in that."""
    if _works(network, LAST) or not _works(network, FIRST):
        return
    normalize.contiguous = True
    laid_out(network, FIRST)


def laid_out(network: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """`network` itself, what has four dimensions in a memory format."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)
    return network


def _works(network: nn.Module, memory_format: torch.memory_format) -> bool:
    """Whether a network can be run in a memory format. That has to be computed: on the meta device
    some operations leave another order behind than they really do."""
    copied = laid_out(with_own_buffers(network), memory_format)
    like = next(copied.parameters(), torch.empty(0))
    images = torch.zeros(2, *network.input_shape, device=like.device)
    try:
        with evaluating(copied):
            return isinstance(copied(images.contiguous(memory_format=memory_format)), Tensor)
    except Exception:  # whatever a network of somebody else's raises
        return False
