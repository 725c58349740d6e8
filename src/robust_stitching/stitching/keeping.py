"""The states of a stitch's trainings, kept while it is made, from which a later call goes on."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from robust_stitching.checkpoints.state import DAMAGE, StateFile
from robust_stitching.training import Trainer


@dataclass(frozen=True)
class Map:
    """A stitching map at an iteration.

    Attributes
    ----------
    weight, bias : of shape (C_end, C_front) and (C_end,); of a scale a channel, (C_end,) both; of
        two layers those of the last, (C_end, hidden) and (C_end,).
    hidden_weight, hidden_bias : of shape (hidden, C_front) and (hidden,), those of the first of two
        layers; None where there is one.
    """

    iteration: int
    weight: Tensor
    bias: Tensor
    hidden_weight: Tensor | None = None
    hidden_bias: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Those that it has, by their names."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


class State:
    """The state of one training with the maps until then, in a file; None keeps nothing."""

    def __init__(self, path: Path | None = None):
        self.file = StateFile(path)

    def take_up(self, trainer: Trainer) -> list[Map]:
        """Bring a trainer to where the file left it; returns the maps until then, none where there
        is no file."""
        kept = self.file.read()
        if kept is None:
            return []
        try:
            trainer.load_state_dict(kept["trainer"])
            return [Map(**values) for values in kept["maps"]]
        except DAMAGE as error:
            raise self.file.damaged(error) from error

    def watching(self) -> AbstractContextManager[None]:
        """Let interruptions wait for the end of a step, where the state can be kept."""
        return self.file.watching()

    def after_step(self, trainer: Trainer, maps: Sequence[Map]) -> None:
        """Keep the state and raise KeyboardInterrupt, where there was an interruption."""
        self.file.after_step(lambda: _state(trainer, maps))

    def after_epoch(self, trainer: Trainer, maps: Sequence[Map]) -> None:
        """Keep the state where it is time, and after the last epoch."""
        last = trainer.iteration == trainer.iterations
        self.file.keep(lambda: _state(trainer, maps), now=last)


def _state(trainer: Trainer, maps: Sequence[Map]) -> dict[str, Any]:
    return {"trainer": trainer.state_dict(), "maps": [*map(vars, maps)]}


@dataclass(frozen=True)
class Keeping:
    """Where the states of a stitch's trainings lie; None keeps nothing."""

    folder: Path | None = None

    def of(self, training: str) -> State:
        """The state of the training of that name."""
        return State(self.folder and self.folder / f"{training}.pt")
