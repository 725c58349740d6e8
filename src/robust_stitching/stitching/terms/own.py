"""What the end network itself has where terms look."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robust_stitching.graphs.behind import SharedFront


class OwnActivations:
    """The activations of a network at the layers that anybody wants, computed once for images that
    several ask about one after the other."""

    def __init__(self, network: nn.Module):
        self.network = network
        self._layers: dict[str, None] = {}
        self._shared: SharedFront | None = None

    def want(self, layers: Sequence[str]) -> None:
        """Look at these layers, too."""
        self._layers |= dict.fromkeys(layers)
        self._shared = None

    def at(self, layers: Sequence[str], images: Tensor) -> Mapping[str, Tensor]:
        """Those of some of the layers, by name, without gradients."""
        if layers and self._shared is None:
            self._shared = SharedFront(self.network, list(self._layers)).to(images.device)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return {layer: self._shared.at(layer, images) for layer in layers}
