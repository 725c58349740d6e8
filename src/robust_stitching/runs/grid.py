"""Stitching every layer with every layer as a plan says, into a folder of results."""

from pathlib import Path

import torch
from torch import nn

from robust_stitching.basics.memory import used
from robust_stitching.basics.signals import uninterrupted
from robust_stitching.data import AnySplit
from robust_stitching.plans import GridPlan
from robust_stitching.report.grid.files import draw
from robust_stitching.report.grid.verdict import with_verdicts
from robust_stitching.runs.done import Done, same_plan
from robust_stitching.runs.inputs import pair_of
from robust_stitching.runs.listener import NOBODY, Listener
from robust_stitching.runs.unfinished import begun, plain
from robust_stitching.stitching.grid.cells import Cuts
from robust_stitching.stitching.grid.files import write_files
from robust_stitching.stitching.grid.memory import memory_of
from robust_stitching.stitching.grid.record import as_record
from robust_stitching.stitching.grid.run import stitch_grid
from robust_stitching.stitching.keeping import Keeping
from robust_stitching.stitching.once import DonorScores
from robust_stitching.training.adversarial import warnings_of
from robust_stitching.training.optimisation import precision_on


def run(
    plan: GridPlan,
    out: Path,
    device: torch.device,
    listener: Listener = NOBODY,
    *,
    name: str | None = None,
    command: str = "robust_stitching.runs.grid.run(plan, out, device)",
    resume: bool = False,
    reuse: bool = False,
    donors: DonorScores | None = None,
) -> Done:
    """Stitch as a plan says, and leave everything in ``<out>/<name>/``; parameters and errors as
    those of `runs.stitch.run` and of `stitching.grid.run.stitch_grid`."""
    plan, front, end, train, test, elsewhere = pair_of(plan, device, listener)
    done = same_plan(out, name and plain(name), plan) if reuse else None
    if done is not None:
        return done
    listener.warn(*warnings_of(plan.objective.adversary))
    circumstances = {"precision": precision_on(device, plan.training.precision)}
    begin = {"circumstances": circumstances, "resume": resume, "tell": listener.say}
    with begun(out, name, plan, **begin) as unfinished:
        result = stitch_grid(
            *(front, end, train, test, plan, listener.progress, elsewhere),
            warn=listener.warn,
            keeping=Keeping(unfinished.state),
            donors=donors,
            begin=lambda cuts, images: listener.say(
                _told(plan, cuts, (front.network, end.network), train, images, device)
            ),
        )
        record = with_verdicts(as_record(result, command))
        try:
            paths = write_files(result, record, unfinished.folder)
            paths |= draw(unfinished.folder)
            with uninterrupted():
                paths = unfinished.finish(paths)
        except Exception:
            listener.unwritten(record)
            raise
    return Done(unfinished.final, record, paths)


def _told(
    plan: GridPlan,
    cuts: Cuts,
    donors: tuple[nn.Module, nn.Module],
    train: AnySplit,
    images: int,
    device: torch.device,
) -> str:
    """How many maps there will be, and what they take."""
    needed = memory_of(plan, cuts, *donors, images, train)
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else used()
    seeds = f" for each of {plan.seeds} seeds" if plan.seeds > 1 else ""
    maps = f"{len(cuts)} map{'s' if len(cuts) > 1 else ''}{seeds}"
    return f"{maps}, in about {(held + needed) / 1e9:.1f} GB of memory."
