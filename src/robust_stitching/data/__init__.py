"""Datasets by name or folder: ``load("digits")`` returns the training and the test split.

Small ones are in memory (`Split`), large ones are streamed (`StreamedSplit`); whoever uses a split
need not know which (`AnySplit`). What is known of datasets without their images is here at once;
what holds images waits until it is asked for, since it imports torch.
"""

from importlib import import_module
from typing import Any

from robust_stitching.data.source import Source
from robust_stitching.data.sources import (
    SOURCES,
    in_words,
    looks_like_a_path,
    source_of,
    usual_epsilon,
    usual_size,
    without_files,
)

_WITH_TORCH = {
    "AnySplit": "split",
    "Split": "split",
    "StreamedSplit": "streamed",
    "Unreadable": "decoding",
    "load": "loading",
    "names_of": "loading",
    "notes_of": "split",
}
"""Name to the module here that has it."""

__all__ = [
    "SOURCES",
    "Source",
    "in_words",
    "looks_like_a_path",
    "source_of",
    "usual_epsilon",
    "usual_size",
    "without_files",
    *_WITH_TORCH,
]


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
