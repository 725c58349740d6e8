"""What comes out of a grid of stitches."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import pandas as pd

from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.plans import GridPlan, Stitching
from robust_stitching.stitching.grid.training import TrainedCell
from robust_stitching.stitching.invariant import InvariantImages
from robust_stitching.stitching.measure import Measured
from robust_stitching.stitching.record import numbers


@dataclass(frozen=True)
class Cell:
    """One stitch of a grid.

    Attributes
    ----------
    trained : the networks and the training log; None where training diverged.
    measured, elsewhere : as in `StitchResult`; without "stitched" where training diverged.
    error : why there is none.
    invariant : as in `StitchResult`, the same for all cells of a front layer and a seed.
    """

    plan: Stitching
    trained: TrainedCell
    measured: Measured
    elsewhere: Measured | None
    error: str | None
    notes: list[str]
    invariant: InvariantImages | None = None


@dataclass(frozen=True)
class GridResult:
    """All that came out of a grid.

    Attributes
    ----------
    cells : seed by seed, row by row.
    train_images, class_names, notes, seconds, similarity_images : as in `StitchResult`.
    """

    plan: GridPlan
    front: Checkpoint
    end: Checkpoint
    cells: list[Cell]
    train_images: int
    class_names: tuple[str, ...]
    notes: list[str]
    seconds: float
    similarity_images: int | None

    def table(self, key: str = "stitched.accuracy") -> pd.DataFrame:
        """A number of every cell, front layers down and end layers across, the mean over seeds; NaN
        where a cell has none.

        Parameters
        ----------
        key : where the JSON report of a stitch has it: "cka", "stitched.agreement_with_end",
            "stitched.robust.worst case", "gaps.random_front", "elsewhere.stitched.accuracy".

        Raises
        ------
        UserError : where no cell has such a number.
        """
        lines = [
            (*astuple(cell.plan.cut), found)
            for cell in self.cells
            if isinstance(found := _at(key, _numbers(cell)), int | float)
        ]
        if not lines and not isinstance(key, str):
            raise UserError(f"{key!r:.60} is no key; give one of the report of a stitch.")
        if not lines:
            raise UserError(f"no cell has a number {key!r}; give a key of the report of a stitch.")
        found = pd.DataFrame(lines, columns=["front_layer", "end_layer", key])
        table = found.pivot_table(index="front_layer", columns="end_layer", values=key)
        cuts = [cell.plan.cut for cell in self.cells]
        return table.reindex(
            index=dict.fromkeys(cut.front_layer for cut in cuts),
            columns=dict.fromkeys(cut.end_layer for cut in cuts),
        )


def _numbers(cell: Cell) -> dict[str, Any]:
    return numbers(cell.measured) | {"elsewhere": cell.elsewhere and numbers(cell.elsewhere)}


def _at(key: str, values: Any) -> Any:
    """What stands at a path of keys, with dots; None for nothing."""
    for name in str(key).split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values
