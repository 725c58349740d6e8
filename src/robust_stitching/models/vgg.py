"""VGG with batch norm (Simonyan and Zisserman, 2015) for small images: three narrow fully connected
layers behind the mean over space."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from robust_stitching.models.layers import Normalize, SpatialMean, he_initialise, relu
from robust_stitching.models.registry import Network, State, register

WIDTHS = (64, 128, 256, 512, 512)
HIDDEN = (256, 128)
BIASED = "features.conv1_1.bias"


class VGG(Network):
    """Five blocks of 3×3 convolutions, each with batch norm and ReLU, and a max pooling.

    Parameters
    ----------
    depths : convolutions of each block.
    bias : whether the convolutions have one: published checkpoints come with and without.
    """

    def __init__(
        self, in_channels: int, num_classes: int, depths: tuple[int, ...], bias: bool = True
    ):
        super().__init__()
        self.normalize = Normalize(in_channels)
        features: OrderedDict[str, nn.Module] = OrderedDict()
        previous = in_channels
        for b, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True), start=1):
            for i in range(1, depth + 1):
                features[f"conv{b}_{i}"] = nn.Conv2d(previous, width, 3, padding=1, bias=bias)
                features[f"bn{b}_{i}"] = nn.BatchNorm2d(width)
                features[f"relu{b}_{i}"] = relu()
                previous = width
            features[f"maxpool{b}"] = nn.MaxPool2d(2)
        features["avgpool"] = SpatialMean()
        self.features = nn.Sequential(features)
        classifier: OrderedDict[str, nn.Module] = OrderedDict()
        for i, width in enumerate(HIDDEN, start=1):
            classifier[f"fc{i}"] = nn.Linear(previous, width)
            classifier[f"relu{i}"] = relu()
            classifier[f"dropout{i}"] = nn.Dropout(0.5)
            previous = width
        classifier[f"fc{len(HIDDEN) + 1}"] = nn.Linear(previous, num_classes)
        self.classifier = nn.Sequential(classifier)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(self.normalize(x)))


def _options_of(state: State, dataset: str | None) -> dict[str, Any]:
    return {"bias": BIASED in state}


register("vgg11", options_of=_options_of, depths=(1, 1, 2, 2, 2))(VGG)
register("vgg13", options_of=_options_of, depths=(2, 2, 2, 2, 2))(VGG)
register("vgg16", options_of=_options_of, depths=(2, 2, 3, 3, 3))(VGG)
register("vgg19", options_of=_options_of, depths=(2, 2, 4, 4, 4))(VGG)
