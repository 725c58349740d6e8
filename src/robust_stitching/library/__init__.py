"""What a researcher calls from Python, on networks and images that live in memory or in files.

``import robust_stitching as rs`` has all of these functions as its own. They print nothing, change
no network that they are given, and keep no file unless they are asked to. What is to be doubted of
their numbers is a warning of Python's.
"""

from robust_stitching.basics.errors import UserError
from robust_stitching.library.actions import attack, compare, evaluate
from robust_stitching.library.images import load_data, split
from robust_stitching.library.networks import layers, load, network, save
from robust_stitching.library.stitches import stitch, stitch_map, write_report
from robust_stitching.stitching.once import DonorScores

__all__ = [
    "DonorScores",
    "UserError",
    "attack",
    "compare",
    "evaluate",
    "layers",
    "load",
    "load_data",
    "network",
    "save",
    "split",
    "stitch",
    "stitch_map",
    "write_report",
]
