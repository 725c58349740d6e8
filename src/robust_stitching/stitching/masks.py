"""Masks: which channel of the front each channel of the end may be made from.

All but the identity leave at most one entry in a row. Correlations are Pearson's, over all
positions of all training images.
"""

import torch
from torch import Tensor

from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.basics.seeds import generator_for
from robust_stitching.plans.parts import MASKS, NO_MASK, PERMUTED
from robust_stitching.similarity import Moments


def correlations(moments: Moments) -> Tensor:
    """Pearson's correlation of every end channel (rows) with every front channel (columns), in
    float64; 0 for a channel that is constant."""
    x, y = (
        torch.where(living, squares.diagonal().rsqrt(), 0.0)
        for living, squares in zip(moments.alive(), (moments.xx, moments.yy), strict=True)
    )
    return y[:, None] * moments.xy.T * x


def check_mask(kind: str, inputs: int, outputs: int) -> None:
    """Raise UserError for a permutation between unequal numbers of channels."""
    if kind == PERMUTED and inputs != outputs:
        raise UserError(
            f"mask={kind!r} needs equally many channels on both sides, but the front layer has "
            f"{inputs} and the end layer {outputs}; use mask='semi-match' or mask='hungarian'."
        )


def mask_of(
    kind: str, inputs: int, outputs: int, seed: int, moments: Moments | None = None
) -> Tensor | None:
    """A bool mask (outputs, inputs); None for the identity, which lets every entry be.

    semi-match : each end channel keeps the front channel that it correlates with most (Li et al.,
        2016, "semi-matching"); abs-semi-match : most in absolute value. Front channels may be kept
        by several or by none; constant ones only where all are.
    hungarian : the one-to-one assignment with the largest sum of correlations; end channels that
        are left over, where the front has fewer, keep none.
    random-permutation : a random one-to-one assignment, the control of the others.

    Parameters
    ----------
    moments : of front (x) and end (y) activations, for the masks `FROM_CORRELATIONS`.

    Raises
    ------
    UserError : for an unknown kind, or a permutation between unequal numbers of channels.
    """
    if kind not in MASKS:
        raise unknown("mask", kind, MASKS)
    if kind == NO_MASK:
        return None
    mask = torch.zeros(outputs, inputs, dtype=torch.bool)
    if kind == PERMUTED:
        check_mask(kind, inputs, outputs)
        order = torch.randperm(inputs, generator=generator_for(seed, "mask"))
        mask[torch.arange(outputs), order] = True
        return mask
    correlation = correlations(moments).cpu()
    if kind == "hungarian":
        from scipy.optimize import linear_sum_assignment  # slow to import, and used by this alone

        chosen, partners = map(torch.from_numpy, linear_sum_assignment(correlation, maximize=True))
    else:
        correlation = correlation.abs() if kind == "abs-semi-match" else correlation
        living = moments.alive()[0].cpu()
        chosen, partners = torch.arange(outputs), correlation.where(living, -2.0).argmax(dim=1)
    mask[chosen, partners] = True
    return mask
