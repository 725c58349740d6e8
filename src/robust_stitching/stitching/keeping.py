"""The states of a stitch's trainings, kept while it is made, from which a later call goes on."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from robust_stitching import checkpoints
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.signals import interruptions_noted
from robust_stitching.training import Trainer

PATIENCE = 10.0
"""Seconds between two states at least, so that short epochs are not spent on writing."""

SHARE = 0.05
"""Of the time that writing may take."""


@dataclass(frozen=True)
class Map:
    """A stitching map: weight (C_end, C_front) and bias (C_end,), at an iteration."""

    iteration: int
    weight: Tensor
    bias: Tensor


@dataclass
class State:
    """The state of one training, in a file; None keeps nothing.

    It is written after an epoch where the last one is old enough, at the end, and when the training
    is interrupted, which happens after the step under way.
    """

    path: Path | None = None
    _next: float = field(default_factory=lambda: time.monotonic() + PATIENCE)
    _interrupted: Callable[[], bool] = lambda: False

    def take_up(self, trainer: Trainer) -> list[Map]:
        """Bring a trainer to where the file left it; returns the maps until then, none where there
        is no file."""
        if self.path is None or not self.path.exists():
            return []
        found = checkpoints.read(self.path)
        try:
            trainer.load_state_dict(found["trainer"])
            return [Map(**values) for values in found["maps"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.path} holds no state of this training ({type(error).__name__}); remove it."
            ) from error

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Let interruptions wait for the end of a step, where the state can be kept."""
        if self.path is None:
            yield
            return
        with interruptions_noted() as self._interrupted:
            yield

    def after_step(self, trainer: Trainer, maps: Sequence[Map]) -> None:
        """Keep the state and raise KeyboardInterrupt, where there was an interruption."""
        if self._interrupted():
            self._write(trainer, maps)
            raise KeyboardInterrupt

    def after_epoch(self, trainer: Trainer, maps: Sequence[Map]) -> None:
        """Keep the state where it is time, and after the last epoch."""
        last = trainer.iteration == trainer.iterations
        if self.path is not None and (last or time.monotonic() >= self._next):
            self._write(trainer, maps)

    def _write(self, trainer: Trainer, maps: Sequence[Map]) -> None:
        started = time.monotonic()
        values: dict[str, Any] = {
            "trainer": trainer.state_dict(),
            "maps": [vars(found) for found in maps],
        }
        checkpoints.write(self.path, values)
        now = time.monotonic()
        self._next = now + max(PATIENCE, (now - started) / SHARE)


@dataclass(frozen=True)
class Keeping:
    """Where the states of a stitch's trainings lie; None keeps nothing."""

    folder: Path | None = None

    def of(self, training: str) -> State:
        """The state of the training of that name."""
        return State(self.folder and self.folder / f"{training}.pt")
