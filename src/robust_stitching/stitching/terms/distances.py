"""How far activations of the stitched network are from those of the end network itself."""

import torch
from torch import Tensor


def relative_distance(mapped: Tensor, own: Tensor) -> Tensor:
    """‖Â − A‖_F / ‖A‖_F of two activations (n, …), over the whole batch."""
    with torch.autocast(own.device.type, enabled=False):
        mapped, own = mapped.float(), own.float()
        return (mapped - own).norm() / own.norm().clamp(min=torch.finfo(own.dtype).tiny)


def squared_distance(mapped: Tensor, own: Tensor) -> Tensor:
    """Mean over images of ‖Â − A‖² of two activations (n, …)."""
    with torch.autocast(own.device.type, enabled=False):
        return (mapped.float() - own.float()).square().flatten(1).sum(dim=1).mean()
