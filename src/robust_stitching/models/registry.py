"""One registry of networks: a decorator, the name is the key.

Networks of other libraries are asked for as ``library:name`` (see `external`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching.basics.errors import UserError, first_line, unknown
from robust_stitching.basics.files import slug
from robust_stitching.models.adopting import normalisation_of
from robust_stitching.models.placing import settle_format
from robust_stitching.models.probe import require_logits, skeleton

State = Mapping[str, Tensor]
Constants = tuple[tuple[float, ...], tuple[float, ...]]
OptionsOf = Callable[[State, str | None], dict[str, Any]]

IMAGE_SIZE = 32
"""Height and width of the images that most networks here were designed for."""

MOST_CLASSES = 2**20
"""More than any network is known to tell apart; a damaged file may ask for any number."""


class Network(nn.Module):
    """A classifier of images in [0, 1], shape (N, C, size, size), into logits (N, classes).

    Attributes
    ----------
    architecture : plain values from which `build` makes the same network again, without weights.
    input_shape : (C, H, W) of one image.
    """

    architecture: dict[str, Any]
    input_shape: tuple[int, int, int]


def no_options(state: State, dataset: str | None) -> dict[str, Any]:
    """Most networks have none to read off their weights."""
    return {}


@dataclass(frozen=True, eq=False)
class Entry:
    """What is known of a network by its name.

    Attributes
    ----------
    name : the first of its names, under which its files are kept.
    make : ``make(in_channels=..., num_classes=..., image_size=..., **options)`` returns the
        network, which has a `normalize`.
    published_normalised : whether published checkpoints without a mean and a deviation expect
        images normalised with their dataset's constants; if not, they take them as they are.
    options_of : reads further options of `make` off a published state dict, and the key of the
        dataset that it was made for, if that is known.
    renamed : a published state dict under our names, where publishers use others as well.
    image_size : height and width of its images, unless `build` is told otherwise.
    constants : mean and deviation that belong to the network, whatever its dataset.
    published_constants : those that its weights were published with, by the key of the dataset
        that they are for, where they are not the dataset's.
    remarks : what a reader has to know of published weights that were read with these options.
    external : whether others wrote it, who promise nothing about the sizes of images and answers.
    code : the hash of the user's code that makes it, see `own`; None for all others.
    files : where that code lies: the file of the function, then those that it imports beside it.
    fixed : which of the arguments of `make` change nothing, since its weights have those sizes.
    """

    name: str
    make: Callable[..., nn.Module]
    published_normalised: bool = False
    options_of: OptionsOf = no_options
    renamed: Callable[[State], State] = lambda state: state
    image_size: int = IMAGE_SIZE
    constants: Constants | None = None
    published_constants: Mapping[str, Constants] = field(default_factory=dict)
    remarks: Callable[[Mapping[str, Any]], list[str]] = lambda options: []
    external: bool = False
    code: str | None = None
    files: tuple[Path, ...] = ()
    fixed: frozenset[str] = frozenset()

    @property
    def folder(self) -> str:
        """The name as a folder of snapshots: ``torchvision_resnet18``."""
        return slug(self.name)

    def constants_for(self, channels: int) -> Constants | None:
        """The network's own mean and deviation, where it has some for so many channels."""
        own = self.constants
        return own if own is not None and len(own[0]) == channels else None


_REGISTRY: dict[str, Entry] = {}
_LIBRARIES: dict[str, Callable[[str], Entry]] = {}


def register(
    *names: str,
    published_normalised: bool = False,
    options_of: OptionsOf = no_options,
    renamed: Callable[[State], State] = lambda state: state,
    image_size: int = IMAGE_SIZE,
    constants: Constants | None = None,
    **fixed: Any,
) -> Callable:
    """Put a network class into the registry under `names`, built with the arguments `fixed`."""
    known_as = names[0]

    def decorate(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def made(*, image_size: int, **options: Any) -> nn.Module:
            """None of our own networks has weights that depend on the size of its images."""
            return make(**fixed, **options)

        for name in names:
            if name in _REGISTRY:
                raise ValueError(f"the model name '{name}' is taken twice")
        for name in names:
            _REGISTRY[name] = Entry(
                known_as,
                made,
                published_normalised or constants is not None,
                options_of,
                renamed,
                image_size,
                constants,
            )
        return make

    return decorate


def register_library(name: str) -> Callable:
    """Let the decorated function find the entry of ``<name>:<network>`` by the network's name."""

    def decorate(find: Callable[[str], Entry]) -> Callable[[str], Entry]:
        _LIBRARIES[name] = find
        return find

    return decorate


def names() -> list[str]:
    """Every network's first name, in the order of registration."""
    return list(dict.fromkeys(entry.name for entry in _REGISTRY.values()))


def choices() -> str:
    """What can be built, in words."""
    libraries = ", ".join(f"{library}:<name>" for library in _LIBRARIES)
    return f"{', '.join(names())}, or {libraries}"


def is_name(text: str) -> bool:
    """Whether `text` means a network by its name rather than a file."""
    return text in _REGISTRY or text.partition(":")[0] in _LIBRARIES


def entry(name: str) -> Entry:
    """The registry's entry for `name`; UserError with the choices when there is none."""
    if name in _REGISTRY:
        return _REGISTRY[name]
    library, colon, theirs = name.partition(":")
    if colon and library in _LIBRARIES:
        return _LIBRARIES[library](theirs)
    raise unknown("model", name, names(), f"Choose from {choices()}.")


def entry_of_folder(folder: str) -> Entry:
    """The entry whose files are kept in folders of this name; UserError where there is none."""
    library, underscore, theirs = folder.partition("_")
    if underscore and library in _LIBRARIES:
        return _LIBRARIES[library](theirs)
    return entry(folder)


def build(
    model: str | Entry,
    *,
    num_classes: int | None,
    in_channels: int,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    **options: Any,
) -> Network:
    """A network with fresh weights.

    Parameters
    ----------
    model : its name, or its entry.
    num_classes : how many answers it gives; None for one that has its own number, see
        `Entry.fixed`.
    image_size : height and width of its images; the network's own default if left out.
    mean, std : of the training images, per channel, in [0, 1]; the network's own constants, or
        the identity, if left out.
    seed : of the initialisation; the global random state is left as it was.

    Raises
    ------
    UserError : for an unknown name, or one that cannot take images of that size.
    """
    model = model if isinstance(model, Entry) else entry(model)
    size = image_size or model.image_size
    network = _made(
        model,
        seed,
        in_channels=in_channels,
        num_classes=num_classes or 2,
        image_size=size,
        **options,
    )
    _, normalize = normalisation_of(network)
    channels = len(normalize.mean)
    normalize.set(*(model.constants_for(channels) or (None, None)))
    normalize.set(mean, std)
    network.architecture = {
        "model": model.name,
        **({"code": model.code} if model.code else {}),
        "num_classes": num_classes,
        "in_channels": channels,
        **({} if size == model.image_size else {"image_size": size}),
        **options,
    }
    network.input_shape = (channels, size, size)
    if model.external or size != model.image_size:
        network.architecture["num_classes"] = require_logits(network, num_classes)
    if model.external:
        settle_format(network, normalize)
    return network


def frame(
    entry: Entry,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int | None = None,
    **options: Any,
) -> nn.Module:
    """The modules that `build` would make, on the meta device: names and shapes without weights."""
    size = image_size or entry.image_size
    sizes = {"in_channels": in_channels, "num_classes": num_classes, "image_size": size, **options}
    try:
        with torch.device("meta"):
            return entry.make(**sizes)
    except Exception:  # some constructors calculate with what they make
        return skeleton(_made(entry, 0, **sizes))


def _made(entry: Entry, seed: int, *, num_classes: int, image_size: int, **sizes: Any) -> nn.Module:
    if num_classes > MOST_CLASSES:
        raise UserError(
            f"{entry.name} for {num_classes:,} classes is more than can be; {MOST_CLASSES:,} is "
            "the limit."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return entry.make(num_classes=num_classes, image_size=image_size, **sizes)
        except (RuntimeError, ValueError, AssertionError) as error:
            if not entry.external:
                raise
            raise UserError(
                f"{entry.name} cannot be made for images of {image_size}×{image_size} pixels "
                f"({first_line(error)}); choose another network."
            ) from error
