"""torchvision, also where its compiled operators do not fit the installed torch.

Only its Python parts are used here (datasets, image functions). Beside a CPU build of torch the
registry's torchvision cannot load its operators, and its import then fails on two names that it
only describes; giving those two a schema is enough.
"""

from functools import cache
from types import ModuleType

import torch


@cache
def torchvision() -> ModuleType:
    """The torchvision package with `datasets` and `transforms` imported."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _describe_missing_operators()
        import torchvision
    import torchvision.datasets
    import torchvision.transforms.functional

    return torchvision


def _describe_missing_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _keep_alive.append(library)


_keep_alive: list[torch.library.Library] = []  # a library's definitions die with it
