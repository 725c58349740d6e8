"""Stitching networks, once or for all layers, and the report of it."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import TEMPORARY, claimed
from robust_stitching.basics.modes import usual_settings
from robust_stitching.data import AnySplit
from robust_stitching.library.given import IN_MEMORY, AnyNetwork, Splits, bar, looked_up, pair_of
from robust_stitching.plans import DataRef, GridPlan, from_flat, stitching
from robust_stitching.plans.parts import REAL
from robust_stitching.report.grid.files import draw as draw_grid
from robust_stitching.report.grid.verdict import with_verdicts
from robust_stitching.report.stitch.pdf import draw
from robust_stitching.report.stitch.verdict import with_verdict
from robust_stitching.stitching.files import write_files
from robust_stitching.stitching.grid import files as grid_files
from robust_stitching.stitching.grid.record import as_record as as_grid_record
from robust_stitching.stitching.grid.result import GridResult
from robust_stitching.stitching.grid.run import stitch_grid
from robust_stitching.stitching.once import DonorScores
from robust_stitching.stitching.record import as_record
from robust_stitching.stitching.run import StitchResult
from robust_stitching.stitching.run import stitch as run_stitch


@usual_settings()
def stitch(
    front: AnyNetwork,
    end: AnyNetwork,
    front_layer: str,
    end_layer: str,
    images: Splits,
    *,
    elsewhere: str | AnySplit | None = None,
    progress: bool = False,
    warn: Callable[..., None] = lambda *notes: None,
    donors: DonorScores | None = None,
    train_on: str = REAL,
    **settings: Any,
) -> StitchResult:
    """Stitch the front of one network to the end of another, and measure what that shows.

    Parameters
    ----------
    front_layer, end_layer : the one whose activation is mapped, and the one whose activation the
        map replaces, as `layers` names them.
    images : what the map is trained and measured on: a dataset by its name or folder, or a training
        and a test split.
    elsewhere : other images that it is measured on, too.
    progress : show bars with rates and times, on a terminal.
    warn : is given what is to be doubted of the networks, before anything is trained.
    donors : give the same to stitches of one pair at several layers, and what is measured of the
        two networks alone is measured once.
    train_on : the setting `images`: "real" ones, or, "invariant", others that the front takes for
        them.
    settings : those of `find_transform`, by their names: ``epochs=5, init="ps_inv", l1=0.1``; see
        `plans.Stitching` and its parts.

    Raises
    ------
    UserError : for an unknown setting or layer, choices that exclude each other or do not fit the
        networks, images or classes that do not; Diverged when training does.
    """
    _check_hearers(warn, donors)
    plan = stitching(front_layer, end_layer, images=train_on, **settings)
    pair, (train, test) = pair_of(images, [front, end])
    other = None if elsewhere is None else looked_up(elsewhere, pair)[1]
    return run_stitch(*pair, train, test, plan, bar(progress), other, warn, donors=donors)


@usual_settings()
def stitch_map(
    front: AnyNetwork,
    end: AnyNetwork,
    images: Splits,
    *,
    elsewhere: str | AnySplit | None = None,
    progress: bool = False,
    warn: Callable[..., None] = lambda *notes: None,
    donors: DonorScores | None = None,
    train_on: str = REAL,
    **settings: Any,
) -> GridResult:
    """Stitch every layer of one network to every layer of another in one pass, and measure what
    each stitch shows; `GridResult.table` has the numbers, layer by layer.

    Parameters
    ----------
    images, elsewhere, progress, warn, donors, train_on : as those of `stitch`.
    settings : those of `stitch_map`, by their names: ``front_layers=("bn1", "bn3")``,
        ``cells="diagonal"``, ``seeds=3``, ``controls=True``; see `plans.GridPlan` and its parts.

    Raises
    ------
    UserError : as `stitch`. A stitch that diverges ends alone, see `Cell.error`.
    """
    _check_hearers(warn, donors)
    for name in settings.keys() & {"dataset", "eval_dataset"}:
        raise UserError(f"`{name}` names files of a plan; give images, and `elsewhere`, instead.")
    given = {"front": IN_MEMORY, "end": IN_MEMORY, "dataset": DataRef("in memory")}
    plan = from_flat(GridPlan, given | settings | {"images": train_on})
    pair, (train, test) = pair_of(images, [front, end])
    other = None if elsewhere is None else looked_up(elsewhere, pair)[1]
    return stitch_grid(*pair, train, test, plan, bar(progress), other, warn, donors=donors)


@usual_settings()
def write_report(
    result: StitchResult | GridResult, folder: str | Path, command: str | None = None
) -> dict[str, Path]:
    """Write what a stitch, or a map of stitches, found into a new folder: the report for people,
    the numbers as JSON, the trained maps, and the stitched network where files can say how its
    donors are made.

    Parameters
    ----------
    command : what the report says that asked for it.

    Returns
    -------
    kind of file to path: "pdf", "json", "matrix", "frank_model"; of a map "pdf", "html", "csv",
    "json", "figures", "maps", "frank_models".

    Raises
    ------
    UserError : where the folder exists or cannot be made, or something is not what it should be;
        then there is none.
    """
    if not isinstance(result, StitchResult | GridResult):
        raise UserError(f"result is what `stitch` or `stitch_map` returned, not {result!r:.60}.")
    for name, value, kinds in (("folder", folder, str | Path), ("command", command, str | None)):
        if not isinstance(value, kinds):
            raise UserError(f"{name}={value!r:.60} is no text.")
    folder = Path(folder)
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists already; choose another folder, or remove it.")
    with claimed(folder), tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder.parent) as made:
        whole = Path(made) / "report"
        if isinstance(result, GridResult):
            record = as_grid_record(result, command or "robust_stitching.stitch_map(…)")
            record = with_verdicts(record)
            paths = grid_files.write_files(result, record, whole) | draw_grid(whole)
        else:
            record = with_verdict(as_record(result, command or "robust_stitching.stitch(…)"))
            paths = write_files(result, record, whole) | {"pdf": draw(whole)}
        whole.rename(folder)
    return {kind: folder / path.relative_to(whole) for kind, path in paths.items()}


def _check_hearers(warn: Any, donors: Any) -> None:
    if not callable(warn):
        raise UserError(f"warn={warn!r:.60} is no function of sentences; leave it out.")
    if not isinstance(donors, DonorScores | None):
        raise UserError(f"donors={donors!r:.60} is no `DonorScores()`; leave it out, or give one.")
