"""The memory of this process."""

import os
from contextlib import suppress
from pathlib import Path


def used() -> int:
    """Bytes that this process holds now; where the system does not tell, 0."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0
