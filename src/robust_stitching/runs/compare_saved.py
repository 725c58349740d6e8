"""Comparing saved activations as a plan says, into a folder of results."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch

from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints.state import StateFile
from robust_stitching.plans import CompareSavedPlan, FileRef, as_values, flat
from robust_stitching.runs.compare import left, told_of_memory
from robust_stitching.runs.comparison import as_record
from robust_stitching.runs.done import Done, same_plan
from robust_stitching.runs.listener import NOBODY, Listener
from robust_stitching.runs.unfinished import begun, plain
from robust_stitching.similarity.compare import compare_saved
from robust_stitching.similarity.deciding import prepared_saved
from robust_stitching.similarity.saved import Saved, read


def run(
    plan: CompareSavedPlan,
    out: Path,
    device: torch.device,
    listener: Listener = NOBODY,
    *,
    name: str | None = None,
    command: str = "robust_stitching.runs.compare_saved.run(plan, out, device)",
    resume: bool = False,
    reuse: bool = False,
) -> Done:
    """Compare as a plan says, and leave everything in ``<out>/<name>/``; parameters and errors as
    those of `stitch.run` and of `similarity.compare_saved`."""
    first, known1 = _file_of(plan.model1, "model1")
    second, known2 = _file_of(plan.model2, "model2")
    plan = replace(plan, model1=known1, model2=known2)
    done = same_plan(out, name and plain(name), plan) if reuse else None
    if done is not None:
        return done
    asked = (first, second, plan.layers1, plan.layers2, plan.measures)
    how = {"n_images": plan.n_images, "batch_size": plan.batch_size, "k": plan.neighbours}
    how |= {"positions": plan.positions, "seed": plan.seed, "null": plan.null}
    (sides, measures, _), _, (rows, _) = prepared_saved(*asked, **how)
    for told in told_of_memory(plan, sides, measures, len(rows)):
        listener.say(told)
    with begun(out, name, plan, resume=resume, tell=listener.say) as unfinished:
        compared = compare_saved(
            *asked,
            **how,
            interval=plan.interval,
            device=device,
            progress=listener.progress,
            state=StateFile(unfinished.state / "gathered.pt"),
        )
        names = [(str(own.path), own.path.stem) for own in (first, second)]
        models = [{"path": path, "model": stem, "label": stem} for path, stem in names]
        record = as_record(compared, models, flat(plan), command, device)
        record["plan"] = as_values(plan)
        return left(record, unfinished, listener)


def _file_of(ref: FileRef, role: str) -> tuple[Saved, FileRef]:
    """What a file holds, and how it is referred to once it is known."""
    path = Path(ref.path)
    saved = read(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**24):
            digest.update(part)
    whole = digest.hexdigest()[:16]
    if ref.hash not in (None, whole):
        raise UserError(
            f"{path} holds other activations than the {role} of the plan; name the file that it "
            f"was made with by `{role}.path`."
        )
    return saved, replace(ref, path=str(path.resolve()), hash=whole)
