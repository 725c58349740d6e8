"""Comparing two networks as a plan says, into a folder of results."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from robust_stitching.basics.signals import uninterrupted
from robust_stitching.checkpoints.state import StateFile
from robust_stitching.data import notes_of
from robust_stitching.evaluation.pair import look_at
from robust_stitching.plans import ComparePlan, as_values, flat
from robust_stitching.plans.actions import Comparing
from robust_stitching.report.comparison import write_files
from robust_stitching.runs.comparison import as_models, as_record, notes_of_answers
from robust_stitching.runs.done import Done, same_plan
from robust_stitching.runs.inputs import data_of, network_of
from robust_stitching.runs.listener import NOBODY, Listener
from robust_stitching.runs.unfinished import Run, begun, plain
from robust_stitching.similarity import compare
from robust_stitching.similarity.deciding import Side, prepared
from robust_stitching.similarity.forms import MAPS
from robust_stitching.similarity.measure import Measure

COPIES = 2
"""Of Gram matrices: as they were made, and laid side by side."""

WORTH_TELLING = 1e9
"""Bytes."""


def run(
    plan: ComparePlan,
    out: Path,
    device: torch.device,
    listener: Listener = NOBODY,
    *,
    name: str | None = None,
    command: str = "robust_stitching.runs.compare.run(plan, out, device)",
    resume: bool = False,
    reuse: bool = False,
) -> Done:
    """Compare as a plan says, and leave everything in ``<out>/<name>/``; parameters and errors as
    those of `stitch.run` and of `similarity.compare`."""
    first, known1 = network_of(plan.model1, "model1", device, otherwise=plan.dataset.name)
    if plan.model2 == plan.model1:
        second, known2 = first, known1  # one network, which is run once
    else:
        second, known2 = network_of(plan.model2, "model2", device, otherwise=plan.dataset.name)
    models, progress = (first, second), listener.progress
    train, test, dataset = data_of(plan.dataset, device, *models, progress=progress)
    plan = replace(plan, model1=known1, model2=known2, dataset=dataset)
    listener.tell(*notes_of(train, test))
    done = same_plan(out, name and plain(name), plan) if reuse else None
    if done is not None:
        return done
    split = test if plan.split == "test" else train
    for model in models:
        model.require_images(split)
    if plan.n_images is not None:
        split = split.sample(plan.n_images, plan.seed)
    asked = (first.network, second.network, split, plan.layers1, plan.layers2, plan.measures)
    settings = {
        "batch_size": plan.batch_size,
        "k": plan.neighbours,
        "positions": plan.positions,
        "null": plan.null,
    }
    sides, measures, _ = prepared(*asked, **settings)  # mistakes are told before the first image
    for told in told_of_memory(plan, sides, measures, len(split)):
        listener.say(told)
    with begun(out, name, plan, resume=resume, tell=listener.say) as unfinished:
        pair = look_at(models, split, plan.batch_size, progress)
        listener.warn(*pair.notes)
        compared = compare(
            *asked,
            **settings,
            seed=plan.seed,
            interval=plan.interval,
            order=pair.order,
            progress=progress,
            state=StateFile(unfinished.state / "gathered.pt"),
        )
        params = {"dataset": plan.dataset.name, **flat(plan)}
        record = as_record(compared, as_models(models, pair), params, command, device)
        record["notes"] = [*pair.notes, *record["notes"], *notes_of_answers(compared, models)]
        record["plan"] = as_values(plan)
        return left(record, unfinished, listener)


def left(record: dict[str, Any], unfinished: Run, listener: Listener) -> Done:
    """What a comparison leaves in its folder, which is finished by that."""
    try:
        paths = write_files(record, unfinished.folder)
        with uninterrupted():
            paths = unfinished.finish(paths)
    except Exception:
        listener.unwritten(record)
        raise
    return Done(unfinished.final, record, paths)


def told_of_memory(
    plan: Comparing, sides: Sequence[Side], measures: Sequence[Measure], images: int
) -> Iterator[str]:
    """What nulls and intervals keep of many images, where that is much."""
    layers = sum(len(side.layers) for side in sides)
    size = COPIES * 4 * layers * images**2
    of_maps = any(measure.of == MAPS for measure in measures)
    if (plan.null or plan.interval) and of_maps and size > WORTH_TELLING:
        yield (
            f"Gram matrices of {layers} layers for {images:,} images are kept, in about "
            f"{size / 1e9:.1f} GB of memory; fewer images or layers take less."
        )
