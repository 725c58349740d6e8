"""The kinds of stitching maps, from the least capacity to the most: a scale and a bias a channel,
linear, two linear layers with a ReLU between.

Each can be any map of the one before it.
"""

import torch
from torch import Tensor, nn

from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.layout import Layout
from robust_stitching.graphs.transform import HIDDEN, Form, LinearMap, StitchingLayer, mixed
from robust_stitching.plans.parts import AFFINE, LINEAR, MLP


class ChannelAffine(StitchingLayer):
    """y_c = s_c x_c + b_c of every channel c, of which there are as many on both sides.

    Attributes
    ----------
    weight : the scales s, of shape (rows,).
    """

    mask = None

    def __init__(self, source: Layout, target: Layout, form: Form):
        super().__init__(source, target, form)
        require_equal(self.rows, self.columns)
        self.weight = nn.Parameter(torch.zeros(self.rows))
        self.bias = nn.Parameter(torch.zeros(self.rows))

    @property
    def multipliers(self) -> Tensor:
        return self.weight

    def mapped(self, x: Tensor) -> Tensor:
        scale, bias = self.weight, self.bias
        if x.ndim == 4:
            scale, bias = scale[:, None, None], bias[:, None, None]
        return x * scale + bias

    @torch.no_grad()
    def set(self, scale: Tensor, bias: Tensor) -> None:
        """Take over scales and biases, both of shape (rows,)."""
        self.weight.copy_(scale)
        self.bias.copy_(bias)

    def parts(self) -> tuple[Tensor, ...]:
        return self.weight, self.bias


def require_equal(rows: int, columns: int) -> None:
    """Raise UserError where channels have no counterpart each on the other side."""
    if rows != columns:
        raise UserError(
            f"map={AFFINE!r} needs equally many channels on both sides, but the front layer has "
            f"{columns} and the end layer {rows}; use map={LINEAR!r}, or cut where they are "
            "equally many."
        )


class TwoLayers(StitchingLayer):
    """y = V relu(U x + c) + b, with `HIDDEN` hidden units for each channel, or unit, of y.

    Attributes
    ----------
    weight : V, of shape (rows, hidden).
    hidden_weight, hidden_bias : U (hidden, columns) and c (hidden,).
    """

    mask = None

    def __init__(self, source: Layout, target: Layout, form: Form):
        super().__init__(source, target, form)
        hidden = HIDDEN * self.rows
        self.hidden_weight = nn.Parameter(torch.zeros(hidden, self.columns))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.weight = nn.Parameter(torch.zeros(self.rows, hidden))
        self.bias = nn.Parameter(torch.zeros(self.rows))

    @property
    def multipliers(self) -> Tensor:
        return torch.cat([self.hidden_weight.flatten(), self.weight.flatten()])

    def mapped(self, x: Tensor) -> Tensor:
        hidden = mixed(x, self.hidden_weight, self.hidden_bias)
        return mixed(hidden.relu(), self.weight, self.bias)

    @torch.no_grad()
    def set(self, *values: Tensor) -> None:
        """Take over V, b, U and c, or be the linear map of a matrix (rows, columns) and a bias."""
        values = values if len(values) > 2 else as_two_layers(*values)
        for own, value in zip(self.parts(), values, strict=True):
            own.copy_(value)

    def parts(self) -> tuple[Tensor, ...]:
        return self.weight, self.bias, self.hidden_weight, self.hidden_bias


def as_two_layers(matrix: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """V, b, U and c with V relu(U x + c) + b = z for z = W x + bias: hidden units z and −z, since
    relu(z) − relu(−z) is z."""
    one = torch.eye(len(matrix)).to(matrix)
    return (
        torch.cat([one, -one], dim=1),
        torch.zeros_like(bias),
        torch.cat([matrix, -matrix]),
        torch.cat([bias, -bias]),
    )


KINDS: dict[str, type[StitchingLayer]] = {
    AFFINE: ChannelAffine,
    LINEAR: LinearMap,
    MLP: TwoLayers,
}


def layer_between(source: Layout, target: Layout, form: Form | None = None) -> StitchingLayer:
    """The stitching layer of a form; a full linear one if that is left out."""
    form = form or Form()
    return KINDS[form.kind](source, target, form)
