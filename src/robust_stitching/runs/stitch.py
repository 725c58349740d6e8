"""Stitching two networks as a plan says, into a folder of results."""

from collections.abc import Callable
from pathlib import Path

import torch

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.signals import uninterrupted
from robust_stitching.plans import StitchPlan
from robust_stitching.report import collected
from robust_stitching.report.stitch.pdf import draw
from robust_stitching.report.stitch.verdict import with_verdict
from robust_stitching.runs.done import Done, same_plan
from robust_stitching.runs.inputs import pair_of
from robust_stitching.runs.listener import NOBODY, Listener
from robust_stitching.runs.unfinished import begun, plain
from robust_stitching.stitching.files import write_files
from robust_stitching.stitching.keeping import Keeping
from robust_stitching.stitching.once import DonorScores
from robust_stitching.stitching.record import as_record
from robust_stitching.stitching.run import stitch
from robust_stitching.training.adversarial import warnings_of
from robust_stitching.training.optimisation import precision_on


def run(
    plan: StitchPlan,
    out: Path,
    device: torch.device,
    listener: Listener = NOBODY,
    *,
    name: str | None = None,
    command: str = "robust_stitching.runs.stitch.run(plan, out, device)",
    resume: bool = False,
    reuse: bool = False,
    donors: DonorScores | None = None,
) -> Done:
    """Stitch as a plan says, and leave everything in ``<out>/<name>/``.

    An interrupted or killed run goes on, bit for bit, when the same plan is run under the same
    name.

    Parameters
    ----------
    listener : hears of it meanwhile.
    name : of the folder; the date and time for None.
    command : what asked for the run, for the report.
    resume : without a name, go on with an unfinished run of the same plan, where there is one.
    reuse : where the same plan has been run below `out` (under that name, if one is given), that is
        the result.
    donors : see `stitching.run.stitch`.

    Raises
    ------
    UserError : see `stitching.run.stitch` and `unfinished.begun`.
    """
    plan, front, end, train, test, elsewhere = pair_of(plan, device, listener)
    done = same_plan(out, name and plain(name), plan) if reuse else None
    if done is not None:
        return done
    collected.read(out / collected.NAME)  # what is no table is refused before any work
    listener.warn(*warnings_of(plan.objective.adversary))
    circumstances = {"precision": precision_on(device, plan.training.precision)}
    begin = {"circumstances": circumstances, "resume": resume, "tell": listener.say}
    with begun(out, name, plan, **begin) as unfinished:
        result = stitch(
            *(front, end, train, test, plan, listener.progress, elsewhere),
            warn=listener.warn,
            keeping=Keeping(unfinished.state),
            donors=donors,
        )
        record = with_verdict(as_record(result, command))
        try:
            paths = write_files(result, record, unfinished.folder)
            paths["pdf"] = draw(unfinished.folder)
            with uninterrupted():
                paths = unfinished.finish(paths)
                amiss = None if plan.debug else _collect(out, paths, listener.say)
        except Exception:
            listener.unwritten(record)
            raise
    return Done(unfinished.final, record, paths, amiss=amiss)


def _collect(out: Path, paths: dict[str, Path], say: Callable[[str], None]) -> UserError | None:
    """Put the run into the table of all, and that into `paths`; returns why it could not be."""
    try:
        table = collected.collect(out)
    except (UserError, OSError) as error:
        return UserError(
            f"the run is whole, but has no line in {collected.NAME} yet: {error} The next run adds "
            "it, and so does `collect_results`."
        )
    if table.aside:
        say(
            f"{table.path} had lines that were not whole and was made again; as it was, it is in "
            f"{table.aside}."
        )
    paths["csv"] = table.path
    return None
