"""What becomes of images on their device: scaling, augmentation, and floats instead of bytes.

Augmentation is a pure function of the images and of uniform numbers. An epoch's numbers are drawn
at once, so that its images are the same wherever a run starts again.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from robust_stitching.data.source import Augmentation

DRAWS = 6
"""Uniform numbers that one image needs: flip, crop (2), angle, scale, shear."""

SCALED_AT_ONCE = 2**24
"""Numbers of the images that are floats at the same time while they are scaled."""


def augmented(images: Tensor, augmentation: Augmentation | None, draws: Tensor) -> Tensor:
    """uint8 images as floats in [0, 1], augmented where there is an augmentation.

    Parameters
    ----------
    images : uint8 Tensor of shape (N, C, H, W).
    draws : float Tensor of shape (N, DRAWS), uniform in [0, 1).
    """
    if augmentation is None:
        return as_float(images)
    padding = round(augmentation.crop * images.shape[-1])
    if padding:
        images = _crop(images, draws[:, 1:3], padding)
    if augmentation.flip:
        mirrored = draws[:, 0].lt(0.5).view(-1, 1, 1, 1)
        images = torch.where(mirrored, images.flip(-1), images)
    images = as_float(images)
    return _warp(images, augmentation, draws[:, 3:6]) if augmentation.affine else images


def _warp(images: Tensor, augmentation: Augmentation, draws: Tensor) -> Tensor:
    angle = torch.deg2rad((2 * draws[:, 0] - 1) * augmentation.degrees)
    smallest, largest = augmentation.scale
    scale = smallest + draws[:, 1] * (largest - smallest)
    shear = torch.tan(torch.deg2rad((2 * draws[:, 2] - 1) * augmentation.shear))
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    # Where an output pixel comes from: rotated back, unsheared, unscaled.
    rows = torch.stack([cos + shear * sin, sin - shear * cos, zero, -sin, cos, zero], dim=1)
    inverse = (rows / scale[:, None]).view(-1, 2, 3)
    grid = F.affine_grid(inverse, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp_(0, 1)


def _crop(images: Tensor, draws: Tensor, padding: int) -> Tensor:
    """One window of the old size out of each padded image."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, C, y, x, H, W)
    y, x = (draws * (2 * padding + 1)).long().unbind(dim=1)
    return windows[torch.arange(len(images), device=images.device), :, y, x]


def as_float(images: Tensor) -> Tensor:
    """uint8 to float in [0, 1]."""
    return images.float().div_(255)


def scaled(images: Tensor, size: int) -> Tensor:
    """uint8 images of size×size pixels, bilinear with antialiasing."""
    if images.shape[-2:] == (size, size):
        return images.contiguous()
    at_once = max(1, SCALED_AT_ONCE // (images.shape[1] * size**2))
    chunks = [
        F.interpolate(chunk.float(), size, mode="bilinear", antialias=True)
        .round_()
        .clamp_(0, 255)
        .byte()
        for chunk in images.split(at_once)
    ]
    return torch.cat(chunks)
