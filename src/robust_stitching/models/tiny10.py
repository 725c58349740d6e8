"""Tiny-10, the small all-convolutional network of the stitching literature
(Kornblith et al., 2019, appendix; Csiszárik et al., 2021)."""

from torch import Tensor, nn

from robust_stitching.models.layers import Normalize, SpatialMean, relu
from robust_stitching.models.registry import Network, register

CHANNELS = (16, 16, 32, 32, 32, 64, 64, 64)
STRIDED = (3, 6)


@register("tiny10", options_of=lambda state, dataset: {"bias": "conv1.bias" in state})
class Tiny10(Network):
    """Eight convolutions without padding, each with batch norm and ReLU, then a spatial mean.

    `bias` says whether the convolutions have one: published checkpoints come with and without.
    """

    def __init__(self, in_channels: int, num_classes: int, bias: bool = True):
        super().__init__()
        self.normalize = Normalize(in_channels)
        previous = in_channels
        for i, channels in enumerate(CHANNELS, start=1):
            conv = nn.Conv2d(
                previous,
                channels,
                kernel_size=1 if i == len(CHANNELS) else 3,
                stride=2 if i in STRIDED else 1,
                bias=bias,
            )
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(channels))
            self.add_module(f"relu{i}", relu())
            previous = channels
        self.mean = SpatialMean()
        self.fc = nn.Linear(previous, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalize(x)
        for i in range(1, len(CHANNELS) + 1):
            for kind in ("conv", "bn", "relu"):
                x = self.get_submodule(f"{kind}{i}")(x)
        return self.fc(self.mean(x))
