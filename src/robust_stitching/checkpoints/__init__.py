"""Networks in files: layout, format, loading with care.

A checkpoint holds tensors and plain values only, says what it is, and is loaded with
``weights_only=True``: a file cannot run code.
"""

from robust_stitching.checkpoints.checkpoint import Checkpoint, name_of
from robust_stitching.checkpoints.loading import FORMAT, classes_of, in_memory, is_ours, load, save
from robust_stitching.checkpoints.storage import fingerprint, read, write

__all__ = [
    "FORMAT",
    "Checkpoint",
    "classes_of",
    "fingerprint",
    "in_memory",
    "is_ours",
    "load",
    "name_of",
    "read",
    "save",
    "write",
]
