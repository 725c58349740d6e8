"""The threat model: which images count as the same, and how to move among them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_stitching.attacks.draws import Draws, draws_from
from robust_stitching.plans.parts import NORMS

TINY = 1e-12
LARGEST = 1e6  # of radii: far beyond any image, far below what float32 can hold

Source = torch.Generator | Draws
"""Where random numbers come from: a generator for the batch as a whole, or `Draws`."""


@dataclass(frozen=True)
class Threat:
    """All images in [0, 1] within `epsilon` of the original.

    Attributes
    ----------
    epsilon : radius in pixel space, above 0.
    norm : "linf" or "l2", of the whole image.
    """

    epsilon: float
    norm: str = "linf"

    def __post_init__(self):
        if not 0 < self.epsilon <= LARGEST:
            raise ValueError(f"epsilon must be above 0 and at most 1e6, not {self.epsilon}")
        if self.norm not in NORMS:
            raise ValueError(f"the norm must be one of {', '.join(NORMS)}, not '{self.norm}'")

    def whole(self, pixels: int) -> "Threat":
        """The smallest ball that has every image of so many pixels, wherever it is centred."""
        return Threat(1.0 if self.norm == "linf" else math.sqrt(pixels), self.norm)

    def project(self, x: Tensor, images: Tensor) -> Tensor:
        """The allowed images closest to `x`, around `images` of the same shape (N, C, H, W).

        For l2: onto the ball, then into [0, 1], which cannot leave the ball.
        """
        change = x - images
        if self.norm == "linf":
            change.clamp_(-self.epsilon, self.epsilon)
        else:
            change *= (self.epsilon / (_length(change) + TINY)).clamp(max=1)
        return change.add_(images).clamp_(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest step of length 1 along `gradient`: its sign, or its unit vector, however
        small it is; zero where it is zero."""
        if self.norm == "linf":
            return gradient.sign()
        largest = gradient.flatten(1).abs().amax(dim=1).view(-1, 1, 1, 1)
        scaled = gradient / torch.where(largest > 0, largest, 1)
        return scaled / _length(scaled).clamp(min=TINY)

    def uniform_start(self, images: Tensor, source: Source) -> Tensor:
        """A uniformly random point of each ball, clipped to [0, 1] (Madry et al., 2018)."""
        draws = draws_from(source, len(images))
        if self.norm == "linf":
            change = 2 * draws.rand(*images.shape[1:]).to(images) - 1
        else:
            change = self.direction(draws.randn(*images.shape[1:]).to(images))
            dimensions = images[0].numel()
            change = change * draws.rand(1, 1, 1).to(images) ** (1 / dimensions)
        return (images + self.epsilon * change).clamp(0, 1)

    def boundary_start(self, images: Tensor, source: Source) -> Tensor:
        """A random point whose change has norm epsilon before it is clipped to [0, 1]
        (Croce and Hein, 2020): where APGD starts."""
        draws = draws_from(source, len(images))
        if self.norm == "linf":
            change = 2 * draws.rand(*images.shape[1:]).to(images) - 1
            change = change / (change.abs().amax(dim=(1, 2, 3), keepdim=True) + TINY)
        else:
            change = self.direction(draws.randn(*images.shape[1:]).to(images))
        return (images + self.epsilon * change).clamp(0, 1)

    def distance(self, x: Tensor, images: Tensor) -> Tensor:
        """How far each image of `x` is from its original, of shape (N,)."""
        change = (x - images).flatten(1)
        return change.abs().amax(dim=1) if self.norm == "linf" else change.norm(dim=1)


def _length(change: Tensor) -> Tensor:
    return change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
