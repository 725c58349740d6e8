"""Small networks, data and attacks that tests are sure about, and ways to hide a gradient."""

import torch
from torch import nn

from robust_stitching.attacks import Attacked
from robust_stitching.data import Split
from robust_stitching.evaluation.suites import Attack


class Linear(nn.Module):
    """Right on images of `classes` classes that shine in their own row."""

    input_shape = (1, 8, 8)

    def __init__(self, classes=4):
        super().__init__()
        self.classes = classes

    def forward(self, x):
        return x[:, 0, : self.classes].mean(dim=2)


def rows(classes=4, n=40):
    labels = torch.arange(n) % classes
    images = torch.full((n, 1, 8, 8), 60, dtype=torch.uint8)
    images[torch.arange(n), 0, labels] = 200
    return Split("Rows", images, labels, tuple("abcd"[:classes]))


def planted(fooled, on_what_is_left=False, seen=None):
    """An attack that fools the images of some places, and notes which it is given."""

    def run(network, images, labels, draws):
        if seen is not None:
            seen.extend(draws.places.tolist())
        found = Attacked.nothing(images, labels)
        found.fooled.copy_(torch.isin(draws.places, torch.tensor(list(fooled))))
        found.step.copy_(torch.where(found.fooled, 1, -1))
        return found

    return Attack(run, 1, on_what_is_left=on_what_is_left)


class Altered(nn.Module):
    """A network of which `change(network, x)` is asked instead."""

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change, self.input_shape = network, change, network.input_shape

    def forward(self, x):
        return self.change(self.network, x)


def scaled_by(network, scale):
    """`network` with its logits times `scale`."""
    return Altered(network, lambda network, x: scale * network(x))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def rounded(x, steps):
    return (x * steps).round() / steps


def with_nan(network, x):
    return network(x) + 0 * x.sqrt().flatten(1).sum(dim=1, keepdim=True)
