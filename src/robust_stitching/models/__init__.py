"""The networks, found by name: ``build("tiny10", num_classes=10, in_channels=3)``."""

from robust_stitching.models import (  # noqa: F401  importing registers them
    external,
    lenet,
    preact,
    resnet,
    rvit,
    tiny10,
    vgg,
)
from robust_stitching.models.answers import answering
from robust_stitching.models.placing import placed
from robust_stitching.models.registry import (
    Constants,
    Entry,
    Network,
    build,
    choices,
    entry,
    entry_of_folder,
    frame,
    is_name,
    names,
)

__all__ = [
    "Constants",
    "Entry",
    "Network",
    "answering",
    "build",
    "choices",
    "entry",
    "entry_of_folder",
    "frame",
    "is_name",
    "names",
    "placed",
]
