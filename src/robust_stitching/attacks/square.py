"""Square Attack (Andriushchenko et al., 2020): random search in squares that only asks for logits.

No gradient can be hidden from it. `queries` counts every image that is shown to the network, the
start included. The size of the squares follows the authors' schedule, stretched to the number of
queries; their share of the image starts at 0.8, as in AutoAttack.
"""

import math

import torch
from torch import Tensor, nn

from robust_stitching.attacks.draws import Draws, draws_from
from robust_stitching.attacks.loop import Attacked, attack
from robust_stitching.attacks.losses import cross_entropy, margin
from robust_stitching.attacks.threat import TINY, Source, Threat
from robust_stitching.basics.labels import are_attributes

SHARE = 0.8  # of the image that the first squares cover
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # after so many of 10,000 queries
TILES = 5  # along a side, in the first image of the l2 attack
LEAST_L2 = 3  # pixels of the side of its squares


def square(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    queries: int,
    generator: Source,
) -> Attacked:
    """Random search for a wrong answer: the largest max_{i≠y} z_i − z_y, or, of attributes, the
    largest cross-entropy."""
    search = RandomSearch(threat, queries, draws_from(generator, len(images)))
    loss = cross_entropy if are_attributes(labels) else margin
    start = search.start(images)
    steps = queries - 1
    return attack(network, images, labels, loss, search, start, steps, gradients=False)


def share_at(query: int, queries: int) -> float:
    """Which share of the image the squares of a query cover, 0 the first after the start."""
    of_ten_thousand = int(10_000 * query / queries)
    return SHARE / 2 ** sum(of_ten_thousand > halving for halving in HALVINGS)


class RandomSearch:
    """Algorithm 1 of the paper: the best image so far, changed in one square, which is kept where
    the loss rises. Every image has squares of its own."""

    def __init__(self, threat: Threat, queries: int, draws: Draws):
        self.threat, self.queries, self.draws = threat, queries, draws
        self.change = self._recolour if threat.norm == "linf" else self._move
        self.query = 0
        self.best: Tensor | None = None
        self.best_loss: Tensor | None = None

    def start(self, images: Tensor) -> Tensor:
        """Stripes one pixel wide; for l2 tiles of `bumps`."""
        n, channels, height, width = images.shape
        if self.threat.norm == "linf":
            stripes = _signs(self.draws.rand(channels, 1, width)).to(images)
            return (images + self.threat.epsilon * stripes).clamp(0, 1)
        side = max(min(height, width) // TILES, 1)
        rows, columns = height // side, width // side
        signs = _signs(self.draws.rand(channels, rows, columns)).to(images)
        bump = bumps(side, images)
        turned = self.draws.rand(rows, columns).to(images) < 0.5
        tiles = torch.where(turned[..., None, None], bump.T, bump)  # (n, rows, columns, side, side)
        tiles = signs[..., None, None] * tiles[:, None]
        tiles = tiles.transpose(-3, -2).reshape(n, channels, rows * side, columns * side)
        change = torch.zeros_like(images)
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        change[..., top : top + rows * side, left : left + columns * side] = tiles
        return (images + self.threat.epsilon * self.threat.direction(change)).clamp(0, 1)

    def next(self, x: Tensor, images: Tensor, loss: Tensor, gradient: None = None) -> Tensor:
        if self.best is None:
            self.best, self.best_loss = x, loss
        else:
            better = loss > self.best_loss
            self.best = torch.where(better.view(-1, 1, 1, 1), x, self.best)
            self.best_loss = torch.where(better, loss, self.best_loss)
        changed = self.change(self.best, images, share_at(self.query, self.queries))
        self.query += 1
        return changed

    def last(self, x: Tensor, loss: Tensor) -> Tensor:
        if self.best is None:
            return x
        return torch.where((loss > self.best_loss).view(-1, 1, 1, 1), x, self.best)

    def keep(self, rows: Tensor) -> None:
        self.draws = self.draws.among(rows)
        if self.best is not None:
            here = rows.to(self.best.device)
            self.best, self.best_loss = self.best[here], self.best_loss[here]

    def _recolour(self, best: Tensor, images: Tensor, share: float) -> Tensor:
        """Algorithm 2: one square at the edge of the ball, up or down in each channel."""
        _, channels, height, width = images.shape
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        drawn = self.draws.rand(2 + channels).to(images)
        inside = _window(drawn[:, 0], drawn[:, 1], side, images)
        signs = _signs(drawn[:, 2:])[..., None, None]
        return torch.where(inside, images + self.threat.epsilon * signs, best).clamp(0, 1)

    def _move(self, best: Tensor, images: Tensor, share: float) -> Tensor:
        """Algorithm 3: the change in one square is taken away, and what that leaves of the radius
        goes into another, along the change that is there and a random bump."""
        _, channels, height, width = images.shape
        side = max(round(math.sqrt(share * height * width)), LEAST_L2)
        side = min(side + 1 - side % 2, height, width)
        drawn = self.draws.rand(5 + channels).to(images)
        one = _window(drawn[:, 0], drawn[:, 1], side, images)
        two = _window(drawn[:, 2], drawn[:, 3], side, images)
        change = best - images
        free = (self.threat.epsilon**2 - _squares(change, (1, 2, 3))).clamp(min=0) / channels
        signs = _signs(drawn[:, 5:])[..., None, None]
        bump = self._placed(drawn[:, 0], drawn[:, 1], drawn[:, 4], side, images)
        there = torch.where(one, change, 0)
        new = signs * bump + there / (_squares(there, (2, 3)).sqrt() + TINY)
        free = free + _squares(torch.where(one | two, change, 0), (2, 3))
        new = new / (_squares(new, (2, 3)).sqrt() + TINY) * free.sqrt()
        change = torch.where(one, new, torch.where(two, 0, change))
        return self.threat.project(images + change, images)

    def _placed(
        self, down: Tensor, across: Tensor, turn: Tensor, side: int, images: Tensor
    ) -> Tensor:
        """`bumps` in the window that starts at shares (N,) of the way, or turned by 90 degrees
        where `turn` is below a half, of shape (N, 1, H, W)."""
        height, width = images.shape[2:]
        rows, columns = (
            (torch.arange(n, device=images.device) - _first(where, side, n)[:, None])
            for where, n in ((down, height), (across, width))
        )
        bump = bumps(side, images)
        bump = torch.where((turn < 0.5).view(-1, 1, 1), bump.T, bump)
        picked = torch.arange(len(bump), device=images.device).view(-1, 1, 1)
        down_by, across_by = rows.clamp(0, side - 1), columns.clamp(0, side - 1)
        placed = bump[picked, down_by[:, :, None], across_by[:, None, :]][:, None]
        return torch.where(_window(down, across, side, images), placed, 0)


def bumps(side: int, like: Tensor) -> Tensor:
    """η of the paper (equation 2), of shape (side, side) and norm 1: a pyramid in its upper half,
    another below with the other sign, each with a peak that falls off as 1/k² by rings."""
    upper = side // 2
    eta = torch.zeros(side, side, dtype=like.dtype, device=like.device)
    if side == 1:
        return eta + 1
    eta[:upper], eta[upper:] = _pyramid(upper, side, like), -_pyramid(side - upper, side, like)
    return eta / eta.norm()


def _pyramid(height: int, width: int, like: Tensor) -> Tensor:
    """Σ_{k=0}^{M} 1/(n + 1 − k)² at each pixel, n half of the longer side, M how many rings it is
    away from the outermost one; norm 1."""
    n = max(height, width) // 2
    rings = [
        (torch.arange(length, device=like.device) - length // 2).abs() for length in (height, width)
    ]
    ring = torch.maximum(rings[0][:, None], rings[1][None, :])
    steps = torch.arange(n + 1, device=like.device)
    terms = 1 / (n + 1 - steps).to(like) ** 2
    pyramid = terms.cumsum(dim=0)[n - ring]
    return pyramid / pyramid.norm()


def _signs(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0).to(uniform)


def _first(where: Tensor, side: int, length: int) -> Tensor:
    """The first pixel of windows that lie at a share (N,) of all their places along a side."""
    return (where * (length - side + 1)).floor().clamp(max=length - side).long()


def _window(down: Tensor, across: Tensor, side: int, images: Tensor) -> Tensor:
    """Which pixels lie in the windows that start at shares (N,) of the way, (N, 1, H, W)."""
    marks = []
    for where, length in ((down, images.shape[2]), (across, images.shape[3])):
        first = _first(where, side, length)[:, None]
        pixels = torch.arange(length, device=images.device)
        marks.append((pixels >= first) & (pixels < first + side))
    return (marks[0][:, :, None] & marks[1][:, None, :])[:, None]


def _squares(change: Tensor, dims: tuple[int, ...]) -> Tensor:
    return change.square().sum(dim=dims, keepdim=True)
