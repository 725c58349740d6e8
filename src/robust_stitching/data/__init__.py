"""Datasets by name or folder: ``load("digits")`` returns the training and the test split.

Small ones are in memory (`Split`), large ones are streamed (`StreamedSplit`); whoever uses a split
need not know which (`AnySplit`).
"""

from robust_stitching.data.decoding import Unreadable
from robust_stitching.data.sources import (
    SOURCES,
    Source,
    load,
    looks_like_a_path,
    names_of,
    source_of,
    usual_epsilon,
    usual_size,
)
from robust_stitching.data.split import AnySplit, Split
from robust_stitching.data.streamed import StreamedSplit

__all__ = [
    "SOURCES",
    "AnySplit",
    "Source",
    "Split",
    "StreamedSplit",
    "Unreadable",
    "load",
    "looks_like_a_path",
    "names_of",
    "source_of",
    "usual_epsilon",
    "usual_size",
]
