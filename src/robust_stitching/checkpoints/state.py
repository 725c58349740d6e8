"""The state of work under way, kept in a file from which a later call goes on."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.basics.signals import interruptions_noted
from robust_stitching.checkpoints.storage import read, write

PATIENCE = 10.0
"""Seconds between two states at least, so that short steps are not spent on writing."""

DAMAGE = (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError)
"""What is raised by taking up a state that is another one's, or was changed."""

SHARE = 0.05
"""Of the time that writing may take."""


class StateFile:
    """A state in a file; None as the path keeps nothing.

    It is written where the last one is old enough, and when there is an interruption, which waits
    for the end of a step.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._next = time.monotonic() + PATIENCE
        self._interrupted: Callable[[], bool] = lambda: False

    def read(self) -> Any:
        """What was kept; None where there is nothing."""
        if self.path is None or not self.path.exists():
            return None
        try:
            return read(self.path)
        except UserError as error:
            raise self.damaged(error) from error

    def damaged(self, error: Exception) -> UserError:
        """What to raise where nothing can be gone on with."""
        reason = "damaged" if isinstance(error, UserError) else first_line(error)
        return UserError(
            f"{self.path} holds no state that can be gone on with ({reason}); remove it, and what "
            "it is the state of begins again."
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Let interruptions wait for the end of a step."""
        if self.path is None:
            yield
            return
        with interruptions_noted() as self._interrupted:
            yield

    def after_step(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Keep the state and raise KeyboardInterrupt, where there was an interruption."""
        if self._interrupted():
            self.write(state)
            raise KeyboardInterrupt

    def keep(self, state: Callable[[], Mapping[str, Any]], now: bool = False) -> None:
        """Keep the state, where it is time or has to be now."""
        if self.path is not None and (now or time.monotonic() >= self._next):
            self.write(state)

    def write(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Keep the state."""
        started = time.monotonic()
        write(self.path, state())
        ended = time.monotonic()
        self._next = ended + max(PATIENCE, (ended - started) / SHARE)
