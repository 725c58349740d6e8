"""Residual networks for 32×32 images (He et al., 2016).

resnet_wK is ResNet-20 with K×16 channels; resnet18 has torchvision's blocks and names, but a
3×3 stem of stride 1 and no max pooling.
"""

from torch import Tensor, nn

from robust_stitching.models.layers import Add, Normalize, SpatialMean, relu
from robust_stitching.models.registry import Network, register


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a skip connection; `add` is a module so that the sum has a name."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = relu()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(in_channels, channels, stride)
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        skip = x if self.downsample is None else self.downsample(x)
        return self.relu(self.add(out, skip))


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """A 1×1 convolution with batch norm where the shape changes, nothing where it does not."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class ResNet(Network):
    """A 3×3 stem, groups `layer1`, `layer2`, … of residual blocks, spatial mean, linear layer.

    Parameters
    ----------
    widths : channels of each group (before the block's expansion); the first is the stem's, too.
    depths : blocks of each group; every group but the first halves the resolution.
    pool : the name of the spatial mean, by which one stitches at it.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        block: type[nn.Module] = BasicBlock,
        pool: str = "avgpool",
    ):
        super().__init__()
        self.normalize = Normalize(in_channels)
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = relu()
        channels = widths[0]
        self.groups = [f"layer{i}" for i in range(1, len(widths) + 1)]
        for group, width, depth in zip(self.groups, widths, depths, strict=True):
            strides = [1 if group == "layer1" else 2] + [1] * (depth - 1)
            blocks = []
            for stride in strides:
                blocks.append(block(channels, width, stride))
                channels = width * block.expansion
            self.add_module(group, nn.Sequential(*blocks))
        self.pool = pool
        self.add_module(pool, SpatialMean())
        self.fc = nn.Linear(channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation by fan out, as published."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(self.normalize(x))))
        for group in self.groups:
            x = self.get_submodule(group)(x)
        return self.fc(self.get_submodule(self.pool)(x))


for k in range(1, 6):
    register(
        f"resnet_w{k}",
        f"resnet20_w{k}",
        widths=(16 * k, 32 * k, 64 * k),
        depths=(3, 3, 3),
        pool="mean",
    )(ResNet)
register("resnet18", widths=(64, 128, 256, 512), depths=(2, 2, 2, 2))(ResNet)
