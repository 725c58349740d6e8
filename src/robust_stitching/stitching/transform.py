"""The stitching layer: a linear map from the channels of one network to those of another."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching.data.split import generator_for
from robust_stitching.errors import UserError, unknown

INITS = ("random", "perm", "eye", "ps_inv", "ones-zeros", "zeros")
SQUARE_INITS = ("perm", "eye", "ones-zeros", "zeros")


class ChannelMap(nn.Module):
    """y = W x + b at every position: a 1×1 convolution on maps, a linear layer on vectors.

    Where the two activations differ in their positions (another resolution, a map against a
    vector or tokens), the input is resized first, see `resize`.

    Parameters
    ----------
    in_shape, out_shape : of one activation: (C, H, W), (tokens, C) or (C,).

    Attributes
    ----------
    weight : of shape (C_out, C_in).
    bias : of shape (C_out,).
    """

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]):
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        inputs, outputs = channels(in_shape), channels(out_shape)
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    @property
    def resizes(self) -> bool:
        """Whether activations are resized before they are mapped."""
        return positions(self.in_shape) != positions(self.out_shape)

    def forward(self, x: Tensor) -> Tensor:
        x = resize(x, self.out_shape)
        if x.ndim == 4:
            return F.conv2d(x, self.weight[:, :, None, None], self.bias)
        return F.linear(x, self.weight, self.bias)

    def set(self, weight: Tensor, bias: Tensor) -> None:
        """Take over values of the same shapes."""
        with torch.no_grad():
            self.weight.copy_(weight)
            self.bias.copy_(bias)

    def values(self) -> tuple[Tensor, Tensor]:
        """Copies of weight and bias, on the CPU."""
        return self.weight.detach().cpu().clone(), self.bias.detach().cpu().clone()


def initial_values(kind: str, inputs: int, outputs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weight (outputs, inputs) and bias (outputs,) of every `INITS` but "ps_inv".

    random : uniform in ±1/√inputs, as torch initialises a linear layer.
    perm : a random permutation; eye : the identity; zeros : all zero; ones-zeros : weights one.
    Every bias but the random one is zero.

    Raises
    ------
    UserError : for an unknown kind, or one that needs a square matrix where this is none.
    """
    if kind not in INITS or kind == "ps_inv":
        raise unknown("initialisation", kind, INITS)
    if kind in SQUARE_INITS and inputs != outputs:
        raise UserError(
            f"--init {kind} needs equally many channels on both sides, but the front layer has "
            f"{inputs} and the end layer {outputs}; use --init random or ps_inv."
        )
    generator = generator_for(seed)
    bias = torch.zeros(outputs)
    if kind == "random":
        bound = 1 / math.sqrt(inputs)
        weight = torch.rand(outputs, inputs, generator=generator) * 2 * bound - bound
        bias = torch.rand(outputs, generator=generator) * 2 * bound - bound
    elif kind == "perm":
        weight = torch.eye(inputs)[torch.randperm(inputs, generator=generator)]
    elif kind == "eye":
        weight = torch.eye(inputs)
    elif kind == "ones-zeros":
        weight = torch.ones(outputs, inputs)
    else:
        weight = torch.zeros(outputs, inputs)
    return weight, bias


def channels(shape: tuple[int, ...]) -> int:
    """How many channels an activation of this shape has: the first of a map, else the last."""
    return shape[0] if len(shape) == 3 else shape[-1]


def positions(shape: tuple[int, ...]) -> tuple[int, int]:
    """Its grid of positions, (height, width); a vector has one.

    Tokens count as a square grid where their number is a square, else as one row.
    """
    if len(shape) == 3:
        return shape[1], shape[2]
    if len(shape) == 1:
        return 1, 1
    side = math.isqrt(shape[0])
    return (side, side) if side * side == shape[0] else (1, shape[0])


def resize(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Activations (N, …) laid out at the positions of `shape`, with their own channels.

    Averaged over areas where the grid shrinks, bilinear where it grows.
    """
    own, target = positions(x.shape[1:]), positions(shape)
    if own == target and x.ndim == len(shape) + 1:
        return x
    grid = x.transpose(1, 2) if x.ndim == 3 else x
    grid = grid.reshape(len(x), grid.shape[1], *own)
    if target[0] <= own[0] and target[1] <= own[1]:
        grid = F.adaptive_avg_pool2d(grid, target)
    else:
        grid = F.interpolate(grid, target, mode="bilinear", align_corners=False)
    if len(shape) == 3:
        return grid
    return grid.flatten(2).transpose(1, 2) if len(shape) == 2 else grid.flatten(1)


def rows(x: Tensor) -> Tensor:
    """Activations (N, …) as one row of channels a position: (N·positions, C)."""
    return x.movedim(1, -1).flatten(0, -2) if x.ndim == 4 else x.flatten(0, -2)
