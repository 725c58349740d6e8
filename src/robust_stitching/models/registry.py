"""One registry of networks: a decorator, the name is the key."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching.errors import unknown

IMAGE_SIZE = 32


class Network(nn.Module):
    """A classifier of images in [0, 1], shape (N, C, H, W), into logits of shape (N, classes).

    Attributes
    ----------
    architecture : plain values from which `build` makes the same network again, without weights.
    input_shape : (C, H, W) of one image.
    """

    architecture: dict[str, Any]
    input_shape: tuple[int, int, int]


@dataclass(frozen=True)
class Entry:
    """What the registry knows of a name.

    Attributes
    ----------
    name : the first of its names, under which its files are kept.
    make : ``make(in_channels=..., num_classes=..., **options)`` returns the network.
    published_normalised : whether published checkpoints without a mean and a deviation expect
        images normalised with their dataset's constants; if not, they take them as they are.
    options_of : reads further options of `make` off a published state dict.
    """

    name: str
    make: Callable[..., nn.Module]
    published_normalised: bool
    options_of: Callable[[Mapping[str, Tensor]], dict[str, Any]]


_REGISTRY: dict[str, Entry] = {}


def register(
    *names: str,
    published_normalised: bool = False,
    options_of: Callable[[Mapping[str, Tensor]], dict[str, Any]] = lambda state: {},
    **fixed: Any,
) -> Callable:
    """Put a network class into the registry under `names`, built with the arguments `fixed`."""
    known_as = names[0]

    def decorate(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        for name in names:
            if name in _REGISTRY:
                raise ValueError(f"the model name '{name}' is taken twice")
        for name in names:
            _REGISTRY[name] = Entry(
                known_as,
                lambda **options: make(**fixed, **options),
                published_normalised,
                options_of,
            )
        return make

    return decorate


def names() -> list[str]:
    """Every network's first name, in the order of registration."""
    return list(dict.fromkeys(entry.name for entry in _REGISTRY.values()))


def entry(name: str) -> Entry:
    """The registry's entry for `name`; UserError with the choices when there is none."""
    if name not in _REGISTRY:
        raise unknown("model", name, names())
    return _REGISTRY[name]


def build(
    model: str,
    *,
    num_classes: int,
    in_channels: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    image_size: int = IMAGE_SIZE,
    **options: Any,
) -> Network:
    """A network with fresh weights.

    Parameters
    ----------
    mean, std : of the training images, per channel, in [0, 1]; the identity if left out.
    seed : of the initialisation; the global random state is left as it was.
    image_size : pixels of an image's side.

    Raises
    ------
    UserError : for an unknown name.
    """
    found = entry(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = found.make(in_channels=in_channels, num_classes=num_classes, **options)
    network.normalize.set(mean, std)
    network.architecture = {
        "model": found.name,
        "num_classes": num_classes,
        "in_channels": in_channels,
        **options,
    }
    if image_size != IMAGE_SIZE:
        network.architecture["image_size"] = image_size
    network.input_shape = (in_channels, image_size, image_size)
    return network
