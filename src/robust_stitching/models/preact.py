"""Pre-activation residual networks with Swish, as DeepMind published robust ones in PyTorch
(Gowal et al., 2020; Rebuffi et al., 2021), whose checkpoints load by these names.

Where a block halves the resolution, the image is padded at the right and at the bottom only: that
is what TensorFlow and JAX call SAME, in which these networks were first trained.
"""

from torch import Tensor, nn

from robust_stitching.models.layers import Add, Normalize, SpatialMean, he_initialise
from robust_stitching.models.registry import Network, register


def swish() -> nn.SiLU:
    """x·σ(x), never in place."""
    return nn.SiLU(inplace=False)


def padding(stride: int) -> nn.Module:
    """What stands before a 3×3 convolution without padding of its own."""
    return nn.ZeroPad2d((1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


class WideBlock(nn.Module):
    """Two 3×3 convolutions, each behind batch norm and Swish. Where the width changes, the skip
    connection is a 1×1 convolution of the activated input."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_channels)
        self.relu_0 = swish()
        self.pad = padding(stride)
        self.conv_0 = nn.Conv2d(in_channels, channels, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(channels)
        self.relu_1 = swish()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = None
        if in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu_0(self.batchnorm_0(x))
        out = self.relu_1(self.batchnorm_1(self.conv_0(self.pad(active))))
        skip = x if self.shortcut is None else self.shortcut(active)
        return self.add(skip, self.conv_1(out))


class BlockGroup(nn.Module):
    """Blocks of one width, as `block`; the first may halve the resolution."""

    def __init__(self, in_channels: int, channels: int, depth: int, stride: int):
        super().__init__()
        first = WideBlock(in_channels, channels, stride)
        self.block = nn.Sequential(
            first, *(WideBlock(channels, channels, 1) for _ in range(depth - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


@register("wide_resnet_34_10", published_normalised=True, depth=34, width=10)
@register("wide_resnet_28_10", published_normalised=True, depth=28, width=10)
class WideResNet(Network):
    """A 3×3 stem of 16 channels and three groups of (depth − 4)/6 blocks, `width` times as wide as
    in the first residual networks (Zagoruyko and Komodakis, 2016)."""

    def __init__(self, in_channels: int, num_classes: int, depth: int, width: int):
        super().__init__()
        widths = (16, 16 * width, 32 * width, 64 * width)
        blocks = (depth - 4) // 6
        self.normalize = Normalize(in_channels)
        self.init_conv = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            *(BlockGroup(widths[g], widths[g + 1], blocks, 1 if g == 0 else 2) for g in range(3))
        )
        self.batchnorm = nn.BatchNorm2d(widths[-1])
        self.relu = swish()
        self.avgpool = SpatialMean()
        self.logits = nn.Linear(widths[-1], num_classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.init_conv(self.normalize(x)))
        return self.logits(self.avgpool(self.relu(self.batchnorm(x))))


class PreActBlock(nn.Module):
    """Two 3×3 convolutions, each behind batch norm and Swish. Where the shape changes, the skip
    connection is a 3×3 convolution of the input as it came."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_channels)
        self.relu_0 = swish()
        self.pad = padding(stride)
        self.conv_2d_1 = nn.Conv2d(in_channels, channels, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(channels)
        self.relu_1 = swish()
        self.conv_2d_2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 3, stride, bias=False)
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_2d_1(self.pad(self.relu_0(self.batchnorm_0(x))))
        out = self.conv_2d_2(self.relu_1(self.batchnorm_1(out)))
        skip = x if self.shortcut is None else self.shortcut(self.pad(x))
        return self.add(out, skip)


@register("preactresnet18", published_normalised=True)
class PreActResNet(Network):
    """A 3×3 stem and four groups `layer_0` … `layer_3` of two blocks."""

    WIDTHS = (64, 128, 256, 512)

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.normalize = Normalize(in_channels)
        self.conv_2d = nn.Conv2d(in_channels, self.WIDTHS[0], 3, padding=1, bias=False)
        previous = self.WIDTHS[0]
        for g, width in enumerate(self.WIDTHS):
            first = PreActBlock(previous, width, 1 if g == 0 else 2)
            self.add_module(f"layer_{g}", nn.Sequential(first, PreActBlock(width, width, 1)))
            previous = width
        self.batchnorm = nn.BatchNorm2d(previous)
        self.relu = swish()
        self.avgpool = SpatialMean()
        self.logits = nn.Linear(previous, num_classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_2d(self.normalize(x))
        for g in range(len(self.WIDTHS)):
            x = self.get_submodule(f"layer_{g}")(x)
        return self.logits(self.avgpool(self.relu(self.batchnorm(x))))
