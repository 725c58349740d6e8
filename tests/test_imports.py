"""What is heavy is imported by those who need it alone."""

import subprocess
import sys

from conftest import REPOSITORY

HEAVY = ("torchvision", "timm", "sklearn", "scipy", "pandas")
WATCHED = """
import sys
sys.path.insert(0, "src")
from robust_stitching.command_line import find_transform
try:
    find_transform.main(sys.argv[1:])
finally:
    print("imported:", *sys.modules.keys() & {heavy})
"""


def imported(*args) -> set[str]:
    command = [sys.executable, "-c", WATCHED.format(heavy=set(HEAVY)), *map(str, args)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("imported:").split())


def test_a_stitch_of_digits_needs_none_of_them(lenets, tmp_path):
    stitch = (*lenets, "conv2", "conv2", "digits", "-e", 1, "--debug", "--no-robustness")
    assert imported(*stitch, "-o", tmp_path, "--run-name", "a") == set()
    masked = (*stitch, "-o", tmp_path, "--run-name", "b", "--mask", "hungarian")
    assert imported(*masked) == {"scipy"}
