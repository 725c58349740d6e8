"""The memory of this process."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def used() -> int:
    """Bytes that this process holds now; where the system does not tell, 0."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0


LIMITS = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def available(device: "torch.device | str" = "cpu") -> int:
    """Bytes that a device still has for this process, within what its container may take; where the
    system does not tell, 0."""
    if str(device).startswith("cuda"):
        import torch  # who asks of no GPU goes without

        return torch.cuda.mem_get_info(device)[0]
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError):  # "max" where there is no limit
        most, now = (int(path.read_text()) for path in LIMITS)
        found.append(most - now)
    return max(0, min(found, default=0))


KEPT = 2**30
"""Bytes of freed memory that a process keeps at most."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `malloc.h`."""


def keep_freed() -> None:
    """Have this process keep the memory that it frees, for its next tensors.

    Else glibc gives what a step of a small network has freed back to the system, which has to clear
    it, page by page, for the next step. Where another library allocates, nothing happens.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        # Some versions take 32 MB at most for a block; where both are refused, each stays its own.
        if mallopt(MMAP_THRESHOLD, KEPT) or mallopt(MMAP_THRESHOLD, 2**25):
            mallopt(TRIM_THRESHOLD, KEPT)
