"""Stands in for `robust_stitching.runs.grid` in processes that have this folder on PYTHONPATH."""

import sys
from importlib.abc import MetaPathFinder
from importlib.util import spec_from_file_location
from pathlib import Path


class Stub(MetaPathFinder):
    """Finds `grid.py` of this folder in the place of that module."""

    def find_spec(self, name, path, target=None):
        if name == "robust_stitching.runs.grid":
            return spec_from_file_location(name, Path(__file__).with_name("grid.py"))
        return None


sys.meta_path.insert(0, Stub())
