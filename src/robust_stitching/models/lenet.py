"""LeNet-5 with ReLU and max pooling (LeCun et al., 1998) for 32×32 images."""

from torch import Tensor, nn

from robust_stitching.models.layers import Normalize, relu
from robust_stitching.models.registry import Network, register


@register("lenet", published_normalised=True)
class LeNet(Network):
    """Two convolutions, three fully connected layers; 61,706 parameters for grey images."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.normalize = Normalize(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.relu1 = relu()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.relu2 = relu()
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.relu3 = relu()
        self.fc2 = nn.Linear(120, 84)
        self.relu4 = relu()
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalize(x)
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.relu3(self.fc1(x.flatten(1)))
        x = self.relu4(self.fc2(x))
        return self.fc3(x)
