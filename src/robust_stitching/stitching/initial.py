"""The first values of a stitching map that need no data."""

import math
from functools import partial

import torch
from torch import Tensor

from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.basics.seeds import generator_for
from robust_stitching.graphs.transform import HIDDEN
from robust_stitching.plans import Transform
from robust_stitching.plans.parts import AFFINE, FROM_DATA, INITS, MLP

SQUARE_INITS = ("perm", "eye", "procrustes", "ones-zeros", "zeros")


def first_values(plan: Transform, inputs: int, outputs: int, seed: int) -> tuple[Tensor, ...]:
    """What `StitchingLayer.set` takes of a map that a plan asks for, for every `INITS` but those
    `FROM_DATA`. Two layers that are not random are the linear map of these values."""
    if plan.map == AFFINE:
        return channel_values(plan.init, outputs, seed)
    if plan.map == MLP and plan.init == "random":
        return random_layers(inputs, outputs, seed)
    return initial_values(plan.init, inputs, outputs, seed, plan.low_rank)


def channel_values(kind: str, channels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scales and biases, both of shape (channels,).

    random : uniform in ±1, as torch initialises a linear layer of one input, both of them;
    eye, ones-zeros : scales of one; zeros : all zero; biases are zero.
    """
    if kind == "random":
        generator = generator_for(seed, "init")
        return _uniform(generator, 1, channels), _uniform(generator, 1, channels)
    fill = torch.zeros if kind == "zeros" else torch.ones
    return fill(channels), torch.zeros(channels)


def random_layers(inputs: int, outputs: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The parts of `TwoLayers`, both layers uniform in ±1/√inputs of their own."""
    hidden, generator = HIDDEN * outputs, generator_for(seed, "init")
    first, last = 1 / math.sqrt(inputs), 1 / math.sqrt(hidden)
    return (
        _uniform(generator, last, outputs, hidden),
        _uniform(generator, last, outputs),
        _uniform(generator, first, hidden, inputs),
        _uniform(generator, first, hidden),
    )


def _uniform(generator: torch.Generator, bound: float, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator) * 2 * bound - bound


def initial_values(
    kind: str, inputs: int, outputs: int, seed: int, rank: int | None = None
) -> tuple[Tensor, Tensor]:
    """Matrix (outputs, inputs) and bias (outputs,) of every `INITS` but those `FROM_DATA`.

    random : uniform in ±1/√inputs, as torch initialises a linear layer; with a rank, a product of
        two uniform factors whose entries have the same variance.
    perm : a random permutation; eye : the identity; zeros : all zero; ones-zeros : weights one.
    Every bias but the random one is zero.

    Raises
    ------
    UserError : for an unknown kind, or one that needs a square matrix where this is none.
    """
    if kind not in INITS or kind in FROM_DATA:
        raise unknown("initialisation", kind, INITS)
    require_square(kind, inputs, outputs)
    generator = generator_for(seed, "init")
    uniform = partial(_uniform, generator)
    bias = torch.zeros(outputs)
    if kind == "random":
        bound = 1 / math.sqrt(inputs)
        if rank is None:
            matrix = uniform(bound, outputs, inputs)
        else:
            matrix = uniform(math.sqrt(3 / rank), outputs, rank) @ uniform(bound, rank, inputs)
        bias = uniform(bound, outputs)
    elif kind == "perm":
        matrix = torch.eye(inputs)[torch.randperm(inputs, generator=generator)]
    elif kind == "eye":
        matrix = torch.eye(inputs)
    elif kind == "ones-zeros":
        matrix = torch.ones(outputs, inputs)
    else:
        matrix = torch.zeros(outputs, inputs)
    return matrix, bias


def require_square(kind: str, inputs: int, outputs: int) -> None:
    """Raise UserError where an initialisation needs as many inputs as outputs and they differ."""
    if kind in SQUARE_INITS and inputs != outputs:
        raise UserError(
            f"init={kind!r} needs equally many channels on both sides, but the front layer has "
            f"{inputs} and the end layer {outputs}; use init='random' or init='ps_inv'."
        )
