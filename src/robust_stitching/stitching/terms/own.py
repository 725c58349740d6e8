"""What the end network itself has where terms look."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robust_stitching.basics.modes import evaluating
from robust_stitching.graphs import graph


class OwnActivations:
    """The activations of a network at the layers that anybody wants, computed once for images that
    several ask about one after the other."""

    def __init__(self, network: nn.Module):
        self.network = network
        self._layers: dict[str, None] = {}
        self._piece: nn.Module | None = None
        self._seen: tuple[Tensor, int] | None = None
        self._values: Mapping[str, Tensor] = {}

    def want(self, layers: Sequence[str]) -> None:
        """Look at these layers, too."""
        self._layers |= dict.fromkeys(layers)
        self._piece = self._seen = None

    def at(self, layers: Sequence[str], images: Tensor) -> Mapping[str, Tensor]:
        """Those of some of the layers, by name, without gradients."""
        if not layers:
            return {}
        if self._piece is None:
            self._piece = graph.features(self.network, list(self._layers))
        if self._seen is None or self._seen[0] is not images or self._seen[1] != images._version:
            with evaluating(self._piece), torch.autocast(images.device.type, enabled=False):
                values = self._piece(images)
            self._values = dict(zip(self._layers, values, strict=True))
            self._seen = images, images._version
        return self._values
