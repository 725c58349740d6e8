"""The networks, found by name: ``build("tiny10", num_classes=10, in_channels=3)``.

A file of this package registers what it has, and is all that a new network needs.
"""

from importlib import import_module
from pkgutil import iter_modules

from robust_stitching.models.adopting import normalisation_of, says_what_it_is
from robust_stitching.models.answers import answering
from robust_stitching.models.own import asked_for, at_a_size, example, rebuilt
from robust_stitching.models.placing import placed, settle_format
from robust_stitching.models.probe import require_trainable, takes
from robust_stitching.models.registry import (
    Constants,
    Entry,
    Network,
    build,
    choices,
    entry,
    entry_of_folder,
    frame,
    is_name,
    names,
)

__all__ = [
    "Constants",
    "Entry",
    "Network",
    "answering",
    "asked_for",
    "at_a_size",
    "build",
    "choices",
    "entry",
    "entry_of_folder",
    "example",
    "frame",
    "is_name",
    "names",
    "normalisation_of",
    "placed",
    "rebuilt",
    "require_trainable",
    "says_what_it_is",
    "settle_format",
    "takes",
]

for module in iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")
