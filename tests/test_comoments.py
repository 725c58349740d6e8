"""Co-moments of a batch at many pairs of layers: the sums that resized maps would give."""

import pytest
import torch

from robust_stitching.graphs.layout import Layout, paired_rows
from robust_stitching.similarity import Moments
from robust_stitching.stitching.comoments import Side, take_in

GRIDS = [
    ((4, 4), (9, 9)), ((9, 9), (4, 4)), ((5, 5), (5, 5)), ((4, 9), (9, 4)), ((1, 1), (6, 6)),
    ((28, 28), (30, 30)), ((6, 4), (6, 8)),
]  # fmt: skip


@pytest.mark.parametrize(("own", "goal"), GRIDS)
def test_they_are_those_of_rows_at_the_positions_of_the_end(own, goal):
    """Growing maps are never grown; shrinking ones, and others, are resized: the sums are equal.
    Large means cancel nothing."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, *own, generator=g) * 2 + torch.arange(3.0)[:, None, None] * 50
    y = torch.randn(20, 5, *goal, generator=g) + 7
    source, target = Layout(3, own), Layout(5, goal)
    found, expected = Moments(3, 5), Moments(3, 5)
    for start in range(0, 20, 7):  # the last batch is smaller
        some, others = x[start : start + 7], y[start : start + 7]
        front, end = Side({"x": some}, {"x": source}), Side({"y": others}, {"y": target})
        take_in({("x", "y"): found}, front, end)
        expected.update(*paired_rows(some.double(), source, others.double(), target))
    assert found.n == expected.n
    for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert float((ours - theirs).abs().max()) <= 1e-12 * float(theirs.abs().max())
