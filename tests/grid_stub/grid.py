"""A grid by single stitches, one cell after the other: what a sweep needs of the real one."""

from dataclasses import replace

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import write_json
from robust_stitching.basics.progress import silent
from robust_stitching.plans import as_values
from robust_stitching.runs.done import Done, same_plan
from robust_stitching.runs.inputs import data_of, network_of
from robust_stitching.runs.unfinished import begun
from robust_stitching.stitching.record import as_record
from robust_stitching.stitching.run import stitch

LAYERS = ("relu1", "relu2")


def run(plan, out, device, listener, *, name=None, command="", resume=False, reuse=False):
    front, known_front = network_of(plan.front, "front", device)
    end, known_end = network_of(plan.end, "end", device)
    train, test, dataset = data_of(plan.dataset, device, front, end)
    plan = replace(plan, front=known_front, end=known_end, dataset=dataset)
    done = same_plan(out, name, plan) if reuse else None
    if done is not None:
        return done
    if plan.training.lr > 100:
        raise UserError(f"lr={plan.training.lr:g} is more than the stub takes.")
    fronts, ends = plan.front_layers or LAYERS, plan.end_layers or LAYERS
    each = zip(fronts, ends, strict=True)
    cells = list(each) if plan.cells != "all" else [(f, e) for f in fronts for e in ends]
    with begun(out, name, plan, resume=resume, tell=listener.say) as unfinished:
        with (out / "made").open("a") as file:
            file.write(f"{name}\n")
        records = []
        for front_layer, end_layer in cells:
            own = plan.cell(front_layer, end_layer, plan.seed)
            result = stitch(front, end, train, test, own, silent)
            record = as_record(result, command)
            keys = {"front_layer": front_layer, "end_layer": end_layer, "seed": plan.seed}
            records.append(keys | record | {"error": None})
        shared = ("donors", "data", "params", "notes")
        record = {
            "command": command,
            "plan": as_values(plan),
            "front_layers": list(fronts),
            "end_layers": list(ends),
            "seeds": [plan.seed],
            "cells": records,
            **{key: records[0][key] for key in shared},
        }
        path = unfinished.folder / "json" / "grid.json"
        write_json(path, record)
        paths = unfinished.finish({"json": path})
    return Done(unfinished.final, record, paths)
