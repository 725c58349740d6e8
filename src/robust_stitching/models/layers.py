"""The small modules that networks share. Each has a name, so that one can stitch behind it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

STATISTICS = "running_mean"
"""The buffer by which a module that keeps statistics is known, whose name is that of torch."""


class Normalize(nn.Module):
    """(x − mean) / std per channel: the first layer of every network, so that images stay in [0, 1]
    everywhere else. A grey image given to a colour network is spread over its channels here.

    Attributes
    ----------
    contiguous : whether it also brings images into the usual order in memory, for networks that
        were written for that.
    """

    contiguous = False

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def set(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Take the constants, one a channel, or one for all; None leaves what is there."""
        for buffer, values in ((self.mean, mean), (self.std, std)):
            if values is not None:
                buffer.copy_(torch.as_tensor(values, dtype=buffer.dtype).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        return x.contiguous() if self.contiguous else x


class Add(nn.Module):
    """The sum at the end of a residual block."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class SpatialMean(nn.Module):
    """(N, C, H, W) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def relu() -> nn.ReLU:
    """Never in place: that would rewrite the activation of the layer before."""
    return nn.ReLU(inplace=False)


def he_initialise(network: nn.Module) -> None:
    """Normal weights of variance 2/fan-out in every convolution, biases 0 (He et al., 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
