"""Networks of other libraries: ``torchvision:<name>``, and ``timm:<name>`` where timm is installed.

Their layers keep the names that their library's users know; only ``normalize`` stands before them.
"""

import re
from collections.abc import Mapping
from functools import cache, partial
from types import ModuleType
from typing import Any

from torch import nn

from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.data.vision import torchvision
from robust_stitching.models.adopting import adopted
from robust_stitching.models.registry import Entry, State, no_options, register_library

COLOUR = 3
OF_FIXED_SIZE = {"vit_": "image_size", "maxvit_": "input_size"}
"""torchvision's families whose constructor wants to know the size of the images, and as what."""

INCEPTIONS = ("googlenet", "inception_v3")
"""Networks with classifiers in the middle, and with weights that were ported from elsewhere."""

AUXILIARIES = ("aux1.", "aux2.", "AuxLogits.")
"""Those classifiers, used in training only and left out here."""

DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
"""``norm.1``, as the layers of DenseNet were called when its weights were published."""

PUBLISHED_FOR, PUBLISHED_CLASSES = "imagenet", 1000
"""The dataset that these libraries publish weights for, and how many classes it has."""


@register_library("torchvision")
def torchvision_entry(name: str) -> Entry:
    """The entry of a torchvision classifier. They take colour; grey images are spread over it."""
    models = torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        see = "torchvision.models.list_models() lists all."
        raise unknown("torchvision network", name, known, see)
    published = models.get_model_weights(name).DEFAULT.transforms()
    return Entry(
        f"torchvision:{name}",
        partial(_from_torchvision, name),
        published_normalised=True,
        options_of=_transforms_input if name in INCEPTIONS else no_options,
        renamed=_todays_names,
        published_constants={PUBLISHED_FOR: (tuple(published.mean), tuple(published.std))},
        remarks=_without_transform if name in INCEPTIONS else lambda options: [],
        external=True,
    )


def _from_torchvision(
    name: str, in_channels: int, num_classes: int, image_size: int, **options: Any
) -> nn.Module:
    options["num_classes"] = num_classes
    for family, option in OF_FIXED_SIZE.items():
        if name.startswith(family):
            options[option] = (image_size,) * 2 if option == "input_size" else image_size
    if name in INCEPTIONS:
        options |= {"aux_logits": False, "init_weights": True}
    network = torchvision().models.get_model(name, weights=None, **options)
    return adopted(network, COLOUR)


@register_library("timm")
def timm_entry(name: str) -> Entry:
    """The entry of a timm network, where timm is installed."""
    timm = _timm()
    if not timm.is_model(name):
        known = timm.list_models()
        raise unknown("timm network", name, known, "timm.list_models() lists all.")
    published = timm.get_pretrained_cfg(name)
    constants = published and (tuple(published.mean), tuple(published.std))
    return Entry(
        f"timm:{name}",
        partial(_from_timm, name),
        published_normalised=True,
        renamed=_todays_names,
        published_constants={PUBLISHED_FOR: constants} if constants else {},
        external=True,
    )


def _from_timm(name: str, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    make = partial(
        _timm().create_model,
        name,
        pretrained=False,
        num_classes=num_classes,
        in_chans=in_channels,
    )
    try:
        network = make(img_size=image_size)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        network = make()  # convolutional networks take any size and know no such option
    network = adopted(network, in_channels)
    from timm.models import get_notrace_functions, get_notrace_modules

    network.untraced_modules = tuple(get_notrace_modules())
    network.untraced_functions = tuple(get_notrace_functions())
    return network


@cache
def _timm() -> ModuleType:
    torchvision()  # which timm imports, and which may need help
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"timm networks need the package timm, which cannot be imported ({error}); "
            "install it by pip install -r requirements-timm.txt."
        ) from error
    return timm


def _transforms_input(state: State, dataset: str | None) -> dict[str, Any]:
    """Whether published weights expect torchvision's ``transform_input``, which turns images that
    were normalised with ImageNet's constants into (x − 0.5) / 0.5: the weights for ImageNet came
    from elsewhere and do. Weights for anything else are taken as torchvision makes the network."""
    head = state.get("fc.weight", ())
    ported = dataset == PUBLISHED_FOR or len(head) == PUBLISHED_CLASSES
    return {"transform_input": True} if ported else {}


def _without_transform(options: Mapping[str, Any]) -> list[str]:
    if options.get("transform_input"):
        return []
    return [
        "taken for trained without torchvision's transform_input; if it was tuned from the weights "
        "for ImageNet, behind ImageNet's constants, mean and std are 0.5 here."
    ]


def _todays_names(state: State) -> State:
    """Under the names that the networks have now, without what is only of use in training."""
    return {
        DENSE_LAYER.sub(r"\1\2.", name): value
        for name, value in state.items()
        if not name.startswith(AUXILIARIES)
    }
