"""Residual networks (He et al., 2016).

resnet_wK is ResNet-20 with K×16 channels; resnet18 to resnet152 have torchvision's blocks and
names, but for images of 32×32 a 3×3 stem of stride 1 and no max pooling. imagenetrn50 has both.
"""

from typing import Any

from torch import Tensor, nn

from robust_stitching.models.layers import Add, Normalize, SpatialMean, he_initialise, relu
from robust_stitching.models.registry import Network, State, register


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


class Bottleneck(nn.Module):
    """A 1×1, a 3×3 and a widening 1×1 convolution, and a skip connection. The 3×3 one has the
    stride, as in torchvision ("ResNet v1.5").

    The last batch norm starts at weight 0, so that every block starts as its skip connection (Goyal
    et al., 2017). Else these networks start with gradients of a norm in the hundreds, of which
    clipping leaves nothing to learn by: resnet50 on 16×16 digits stood at 15% after 36 steps of the
    default settings, and stands at 84%.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        nn.init.zeros_(self.bn3.weight)
        self.relu = relu()
        self.downsample = shortcut(in_channels, out_channels, stride)
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
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
    """A stem, groups `layer1`, `layer2`, … of residual blocks, spatial mean, linear layer.

    Parameters
    ----------
    widths : channels of each group (before the block's expansion); the first is the stem's, too.
    depths : blocks of each group; every group but the first halves the resolution.
    pool : the name of the spatial mean, by which one stitches at it.
    large : a 7×7 stem of stride 2 and a max pooling, for large images, instead of a 3×3 stem.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        block: type[nn.Module] = BasicBlock,
        pool: str = "avgpool",
        large: bool = False,
    ):
        super().__init__()
        self.normalize = Normalize(in_channels)
        kernel, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(
            in_channels, widths[0], kernel, stride, padding=kernel // 2, bias=False
        )
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = relu()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else None
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
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(self.normalize(x))))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for group in self.groups:
            x = self.get_submodule(group)(x)
        return self.fc(self.get_submodule(self.pool)(x))


def renamed(state: State) -> State:
    """Under torchvision's names what others call `shortcut` and `linear`."""
    names = {name: name.replace(".shortcut.", ".downsample.") for name in state}
    if "fc.weight" not in state:
        names |= {f"linear.{part}": f"fc.{part}" for part in ("weight", "bias")}
    return {names[name]: value for name, value in state.items()}


def _wide(k: int) -> dict[str, Any]:
    """What makes the ResNet-20 for CIFAR of that width."""
    widths = (16 * k, 32 * k, 64 * k)
    return {"renamed": renamed, "widths": widths, "depths": (3, 3, 3), "pool": "mean"}


register("resnet_w1", "resnet20_w1", **_wide(1))(ResNet)
register("resnet_w2", "resnet20_w2", **_wide(2))(ResNet)
register("resnet_w3", "resnet20_w3", **_wide(3))(ResNet)
register("resnet_w4", "resnet20_w4", **_wide(4))(ResNet)
register("resnet_w5", "resnet20_w5", **_wide(5))(ResNet)

WIDTHS = (64, 128, 256, 512)
RESNET50 = {"widths": WIDTHS, "depths": (3, 4, 6, 3), "block": Bottleneck}
register("resnet18", renamed=renamed, widths=WIDTHS, depths=(2, 2, 2, 2))(ResNet)
register("resnet34", renamed=renamed, widths=WIDTHS, depths=(3, 4, 6, 3))(ResNet)
register("resnet50", renamed=renamed, **RESNET50)(ResNet)
register("resnet101", renamed=renamed, **RESNET50 | {"depths": (3, 4, 23, 3)})(ResNet)
register("resnet152", renamed=renamed, **RESNET50 | {"depths": (3, 8, 36, 3)})(ResNet)
register(
    "engstromrn50",
    renamed=renamed,
    # as in the package by which these networks were published (Engstrom et al., 2019)
    constants=((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    **RESNET50,
)(ResNet)
register(
    "imagenetrn50",
    image_size=224,
    constants=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    large=True,
    **RESNET50,
)(ResNet)
