"""Datasets by name or folder: ``load("digits")`` returns the training and the test split."""

from robust_stitching.data.sources import (
    SOURCES,
    Source,
    load,
    looks_like_a_path,
    source_of,
    usual_epsilon,
)
from robust_stitching.data.split import AnySplit, Split

__all__ = [
    "SOURCES",
    "AnySplit",
    "Source",
    "Split",
    "load",
    "looks_like_a_path",
    "source_of",
    "usual_epsilon",
]
