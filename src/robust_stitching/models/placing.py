"""Where the numbers of a network lie: on which device, in which order."""

import torch
from torch import nn


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` itself, moved to a device, in the layout in which convolutions are fastest there.

    That layout is one of tensors with four dimensions; all others stay as they are.
    """
    network.to(device)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return network
