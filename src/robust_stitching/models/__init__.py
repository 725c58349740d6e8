"""The networks, found by name: ``build("tiny10", num_classes=10, in_channels=3)``."""

from robust_stitching.models import lenet, resnet, tiny10  # noqa: F401  importing registers them
from robust_stitching.models.registry import Network, build, entry, names

__all__ = ["Network", "build", "entry", "names"]
