"""robust-stitching: have two neural networks learned the same thing?

Train networks, stitch the front of one to the end of another, compare their representations.
The commands in ``src/bin`` are thin; everything they do can be called from here.

    import robust_stitching as rs

    front = rs.network(mine, mean=(0.49, 0.48, 0.45), std=(0.2, 0.2, 0.2), dataset="cifar10")
    end = rs.load("snapshots/resnet18/CIFAR10/in0-gn0/model.pt")
    result = rs.stitch(front, end, "layer2", "layer2", "cifar10", epochs=2, init="ps_inv")

What stands in `library` is here, too, and imported when it is asked for: it needs torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "DonorScores",
    "UserError",
    "attack",
    "compare",
    "evaluate",
    "layers",
    "load",
    "load_data",
    "network",
    "save",
    "split",
    "stitch",
    "stitch_map",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.library"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
