"""The memory of a process."""

import platform
import subprocess
import sys

import pytest

from conftest import REPOSITORY

FAULTS = """
import resource, sys
sys.path.insert(0, "src")
import torch
from robust_stitching.basics.memory import keep_freed
if sys.argv[1:]:
    keep_freed()
def step():
    held = [torch.ones(2**21) for _ in range(8)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_what_is_freed_is_kept_for_the_next_step():
    def faults(*arguments):
        command = [sys.executable, "-c", FAULTS, *arguments]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < faults() / 2
