"""Work in a process of its own that is killed at a chosen moment, as by SIGKILL or a power cut."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

CHANGES = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}
"""The audit events (see `sys.addaudithook`) that come before something changes on the disk."""


def killed_before(
    change: int, folder: Path, work: Callable[[], object], kinds: set[str] = CHANGES
) -> bool:
    """Do `work` in a process that is killed right before its `change`-th change below `folder`.

    Returns whether there were so many; else the work was done. Whatever the work raises is shown
    and fails the test.
    """
    child = os.fork()
    if child == 0:
        _die_before(change, os.path.realpath(folder), kinds)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def done_elsewhere(folder: Path, work: Callable[[], object]) -> None:
    """Do `work` in a process of its own."""
    assert not killed_before(-1, folder, work)


def _die_before(change: int, folder: str, kinds: set[str]) -> None:
    seen = 0

    def look(event: str, args: tuple) -> None:
        nonlocal seen
        if event in kinds and args and str(args[0]).startswith(folder):
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
