"""Interruptions: what Ctrl-C, a termination and a closed terminal have in common."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn


def interrupting() -> list[signal.Signals]:
    """The signals that mean that somebody wants us to stop.

    Of SIGINT and SIGHUP those that nobody told us to ignore, as shells do for what runs in their
    background and nohup does for what outlives its terminal.
    """
    signals = [signal.SIGTERM]
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)  # not every system has both
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signals.append(number)
    return signals


def raise_interruptions() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does."""
    for number in interrupting():
        if number != signal.SIGINT:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def interruptions_noted() -> Iterator[Callable[[], bool]]:
    """Note the first interruption instead of acting on it in the middle of something; the second
    acts at once. Outside the main thread Python lets nobody ask for signals."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    noted = False
    before = {}

    def note(number: int, frame: object) -> None:
        nonlocal noted
        noted = True
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        for number in interrupting():
            handler = signal.getsignal(number)
            if handler is not None:  # not from Python, so that Python could not put it back
                before[number] = handler
                signal.signal(number, note)
        yield lambda: noted
    finally:
        restore()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let an interruption wait until the end of the block; the second acts at once."""
    with interruptions_noted() as interrupted:
        yield
    if interrupted():
        raise KeyboardInterrupt
