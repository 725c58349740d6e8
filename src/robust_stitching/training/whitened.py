"""Training of a linear map in coordinates in which its inputs are white.

Channels of a network correlate and differ in size, and a step along the gradient of W goes far in a
few directions and nowhere in most. With P the inverse square root of the covariance of the inputs
and m their mean, y = W x + b is y = V P (x − m) + c: W = V P, b = c − W m, and V and c are what the
optimiser steps in. No V is kept: a step of V is one of W, and the map stays W and b all the time.
"""

from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching.plans import Optimisation
from robust_stitching.training.optimisation import optimizer_for


class Whitened:
    """An optimiser of W and b that steps in V and c; weight decay acts on W and b.

    With A = [W b] = U M, the gradient of U is that of A times Mᵀ, and a step ΔU moves A by ΔU M.

    Parameters
    ----------
    weight : W, of shape (rows, C).
    bias : b, of shape (rows,).
    matrix : M (C + 1, C + 1), with P in its upper left, −P m beside it and (0, 1) below.
    config : which optimiser, with which weight decay.

    Attributes
    ----------
    param_groups : those of the optimiser of U; their learning rate counts.
    """

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter, matrix: Tensor, config: Optimisation
    ):
        self.weight, self.bias = weight, bias
        self.matrix = matrix.to(weight)
        self.decay = config.weight_decay
        self._step = nn.Parameter(torch.cat([weight, bias[:, None]], dim=1).detach())
        self._inner = optimizer_for([self._step], config, weight_decay=0.0)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self._inner.param_groups

    def zero_grad(self) -> None:
        self.weight.grad = self.bias.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move W and b by one step of the optimiser of U, which starts at 0 each time: without
        weight decay of its own it does not see where U is."""
        gradient = torch.cat([self.weight.grad, self.bias.grad[:, None]], dim=1)
        if self.decay:
            gradient += self.decay * torch.cat([self.weight, self.bias[:, None]], dim=1)
        self._step.zero_()
        self._step.grad = gradient @ self.matrix.T
        self._inner.step()
        moved = self._step @ self.matrix
        self.weight += moved[:, :-1]
        self.bias += moved[:, -1]

    def state_dict(self) -> dict[str, Any]:
        return self._inner.state_dict() | {"matrix": self.matrix}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.matrix.copy_(state["matrix"])
        self._inner.load_state_dict({k: v for k, v in state.items() if k != "matrix"})
