"""Comparing two networks as a plan says, into a folder of results."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from robust_stitching.basics.progress import Progress, silent
from robust_stitching.basics.signals import uninterrupted
from robust_stitching.checkpoints.state import StateFile
from robust_stitching.evaluation.pair import look_at
from robust_stitching.plans import ComparePlan, as_values, flat
from robust_stitching.report.comparison import write_files
from robust_stitching.runs.comparison import as_record
from robust_stitching.runs.done import Done, same_plan
from robust_stitching.runs.inputs import data_of, network_of
from robust_stitching.runs.unfinished import begun
from robust_stitching.similarity import compare
from robust_stitching.similarity.compare import prepared


@dataclass(frozen=True)
class Compared(Done):
    """A finished comparison, and whether it was there before."""

    reused: bool = False


def run(
    plan: ComparePlan,
    out: Path,
    device: torch.device,
    *,
    name: str | None = None,
    command: str = "robust_stitching.runs.compare.run(plan, out, device)",
    resume: bool = False,
    reuse: bool = False,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
    tell: Callable[[str], None] = lambda note: None,
    warn: Callable[..., None] = lambda *notes: None,
    unwritten: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Compared:
    """Compare as a plan says, and leave everything in ``<out>/<name>/``; parameters and errors as
    those of `stitch.run` and of `similarity.compare`."""
    first, known1 = network_of(plan.model1, "model1", device, otherwise=plan.dataset.name)
    second, known2 = network_of(plan.model2, "model2", device, otherwise=plan.dataset.name)
    models = (first, second)
    train, test, dataset = data_of(plan.dataset, device, *models, progress=progress)
    plan = replace(plan, model1=known1, model2=known2, dataset=dataset)
    for note in dict.fromkeys((*train.notes, *test.notes)):
        tell(note)
    done = same_plan(out, name, plan) if reuse else None
    if done is not None:
        return Compared(done.folder, done.record, done.paths, reused=True)
    split = test if plan.split == "test" else train
    for model in models:
        model.require_images(split)
    if plan.n_images is not None:
        split = split.sample(plan.n_images, plan.seed)
    asked = (first.network, second.network, split, plan.layers1, plan.layers2, plan.measures)
    settings = {"batch_size": plan.batch_size, "k": plan.neighbours, "positions": plan.positions}
    prepared(*asked, **settings)  # mistakes are told before the first image
    with begun(out, name, plan, resume=resume, tell=say) as unfinished:
        pair = look_at(models, split, plan.batch_size, progress)
        warn(*pair.notes)
        compared = compare(
            *asked,
            **settings,
            seed=plan.seed,
            order=pair.order,
            progress=progress,
            state=StateFile(unfinished.state / "gathered.pt"),
        )
        params = {"dataset": plan.dataset.name, **flat(plan)}
        record = as_record(compared, models, pair, params, command)
        record["plan"] = as_values(plan)
        try:
            paths = write_files(record, unfinished.folder)
            with uninterrupted():
                paths = unfinished.finish(paths)
        except Exception:
            unwritten(record)
            raise
    return Compared(unfinished.final, record, paths)
