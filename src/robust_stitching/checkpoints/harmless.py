"""What may stand beside tensors in a file of somebody else's: values that cannot run code.

Settings and results are kept beside weights by nearly everybody, and often as an
`argparse.Namespace` or as numbers of numpy, which torch's loader refuses as it does code.
"""

import argparse
import pathlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch

NUMBERS = ("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64",
           "Float16", "Float32", "Float64")  # fmt: skip
"""The kinds of numpy's numbers; its arrays of Python objects stay out."""


def allowed() -> AbstractContextManager[None]:
    """A context in which torch's loader of weights takes these values, too."""
    parts = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]  # what makes one, an array
    kinds = [np.ndarray, np.dtype, *(getattr(np.dtypes, f"{name}DType") for name in NUMBERS)]
    named: list[tuple[Callable, str]] = [
        (part, f"numpy.{core}.multiarray.{part.__name__}")
        for part in parts
        for core in ("core", "_core")  # before and since numpy 2
    ]
    paths = [pathlib.PosixPath, pathlib.PurePosixPath]
    return torch.serialization.safe_globals([argparse.Namespace, *paths, *kinds, *named])
