"""The datasets that are known by name: each file in this folder says all about one, or a few.

A file belongs to them by lying here. Its `SOURCES` are a tuple of `Source`.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from robust_stitching.basics.errors import unknown
from robust_stitching.data.source import Source

FOLDER_SIZE, FOLDER_EPSILON = 32, 8 / 255
"""Pixels of an image's side, and the l-inf radius, in a folder where nobody chooses others."""


def _collected() -> dict[str, Source]:
    """The sources of all files by their keys: first those without files of their own, then those
    that are downloaded, then those that have to be brought."""
    modules = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
    sources = [source for module in modules for source in module.SOURCES]
    sources.sort(key=lambda source: (source.root is not None, not source.downloaded))
    taken = [word for source in sources for word in {source.key, source.name.lower()}]
    twice = sorted({word for word in taken if taken.count(word) > 1})
    if twice:
        raise ValueError(f"two datasets are called {' and '.join(twice)}")
    return {source.key: source for source in sources}


SOURCES: dict[str, Source] = _collected()


def source_of(name: str) -> str:
    """The key of `SOURCES` for a dataset's key or its name in paths ("MNIST"), in any case.

    Raises
    ------
    UserError : when there is none, with the closest.
    """
    for key, source in SOURCES.items():
        if name.lower() in (key, source.name.lower()):
            return key
    raise unknown(
        "dataset", name, SOURCES, f"Choose from {', '.join(SOURCES)} or give an existing folder."
    )


def looks_like_a_path(dataset: str) -> bool:
    """Whether a dataset is meant as a folder: it has a separator, or is no name but exists."""
    known = dataset.lower() in SOURCES
    return os.sep in dataset or (not known and dataset != "" and Path(dataset).is_dir())


def without_files() -> str:
    """The key of the first dataset that needs no files, which everybody can try."""
    return next(key for key, source in SOURCES.items() if source.root is None)


def usual_epsilon(dataset: str) -> float:
    """The l-inf radius at which robustness on a dataset, or a folder, is usually reported."""
    return SOURCES[dataset].epsilon if dataset in SOURCES else FOLDER_EPSILON


def usual_size(dataset: str) -> int:
    """Pixels of an image's side in a dataset, or a folder, where nobody chooses another."""
    return SOURCES[dataset].image_size if dataset in SOURCES else FOLDER_SIZE


def in_words(usual: Callable[[str], float]) -> str:
    """A default as people read it: "0.3 on digits and mnist, 4/255 on imagenet, else 8/255".

    Parameters
    ----------
    usual : `usual_epsilon` or `usual_size`.
    """
    keys, otherwise = defaultdict(list), usual("")  # no dataset's key: what folders have
    for key in SOURCES:
        keys[usual(key)].append(key)
    keys.pop(otherwise, None)
    own = [f"{_number(value)} on {_together(named)}" for value, named in keys.items()]
    return ", ".join([*own, f"else {_number(otherwise)}"])


def _together(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _number(value: float) -> str:
    levels = round(value * 255)
    return f"{levels}/255" if value < 1 and abs(levels - value * 255) < 1e-9 else f"{value:g}"
