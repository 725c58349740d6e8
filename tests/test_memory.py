"""The memory of a process."""

import platform
import subprocess
import sys

import pytest

from conftest import REPOSITORY

MAPPED = """
import ctypes, sys
sys.path.insert(0, "src")
import torch
from robust_stitching.basics.memory import keep_freed
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in "arena ordblks smblks hblks".split()]
    _fields_ += [(f"rest{number}", ctypes.c_int) for number in range(6)]
mallinfo = ctypes.CDLL(None).mallinfo
mallinfo.restype = Info
if sys.argv[1:]:
    keep_freed()
before = mallinfo().hblks
held = torch.ones(5 * 2**20)
print(mallinfo().hblks - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_a_tensor_is_no_block_of_its_own_that_is_given_back_when_it_is_freed():
    def blocks(*arguments):
        command = [sys.executable, "-c", MAPPED, *arguments]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert blocks("keep") == 0 and blocks() == 1
