"""The threat model: which images count as the same, and how to move among them."""

from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-12
NORMS = ("linf", "l2")


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
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be above 0, not {self.epsilon}")
        if self.norm not in NORMS:
            raise ValueError(f"the norm must be one of {', '.join(NORMS)}, not '{self.norm}'")

    def project(self, x: Tensor, images: Tensor) -> Tensor:
        """The allowed images closest to `x`, around `images` of the same shape (N, C, H, W).

        For l2: onto the ball, then into [0, 1], which cannot leave the ball.
        """
        change = x - images
        if self.norm == "linf":
            change = change.clamp(-self.epsilon, self.epsilon)
        else:
            change = change * (self.epsilon / (_length(change) + TINY)).clamp(max=1)
        return (images + change).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest step of length 1 along `gradient`: its sign, or its unit vector."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / (_length(gradient) + TINY)

    def uniform_start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A uniformly random point of each ball, clipped to [0, 1] (Madry et al., 2018)."""
        if self.norm == "linf":
            change = 2 * _random(torch.rand, images, generator) - 1
        else:
            change = self.direction(_random(torch.randn, images, generator))
            dimensions = images[0].numel()
            share = torch.rand(len(images), 1, 1, 1, generator=generator).to(images.device)
            change = change * share ** (1 / dimensions)
        return (images + self.epsilon * change).clamp(0, 1)

    def boundary_start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A random point whose change has norm epsilon before it is clipped to [0, 1]
        (Croce and Hein, 2020): where APGD starts."""
        if self.norm == "linf":
            change = 2 * _random(torch.rand, images, generator) - 1
            change = change / (change.abs().amax(dim=(1, 2, 3), keepdim=True) + TINY)
        else:
            change = self.direction(_random(torch.randn, images, generator))
        return (images + self.epsilon * change).clamp(0, 1)

    def distance(self, x: Tensor, images: Tensor) -> Tensor:
        """How far each image of `x` is from its original, of shape (N,)."""
        change = (x - images).flatten(1)
        return change.abs().amax(dim=1) if self.norm == "linf" else change.norm(dim=1)


def _length(change: Tensor) -> Tensor:
    return change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _random(draw, images: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers from a CPU generator, the same whatever the device."""
    return draw(images.shape, generator=generator).to(images)
