"""A stitch as text, for the terminal; and what it and other reports say of a map."""

import textwrap
from collections.abc import Mapping
from typing import Any

from robust_stitching.plans.parts import LINEAR, TASK
from robust_stitching.plans.recipes import PAPER
from robust_stitching.report.stitch import attacked
from robust_stitching.report.stitch.tables import (
    ACCURACY,
    ANSWERS,
    control_rows,
    noise_caption,
    noise_rows,
    ood_caption,
    ood_rows,
    rows,
    similarity_caption,
    similarity_rows,
)
from robust_stitching.report.stitch.verdict import verdict
from robust_stitching.report.tables import aligned


def _called(donor: Mapping[str, Any]) -> str:
    return donor["path"] or donor["model"]


def recipe(params: Mapping[str, Any]) -> str:
    """How a map was found, from the settings of its run: the recipe by its name, with what it, or
    whoever asked, said of first values and training."""
    epochs = params["epochs"]
    start = params["init"] + (", inputs whitened" if params.get("whiten") else "")
    objective = params.get("objective", TASK)
    falling = "to zero along a cosine" if params.get("schedule") == "cosine" else "in steps"
    return (
        f"{params.get('recipe', PAPER)}: first values {start}; {params['optimizer']} at "
        f"{params['lr']:g}, falling {falling}, {epochs} epoch{'s' if epochs > 1 else ''}"
        + ("" if objective == TASK else f"; objective {objective}")
    )


def called_images(*records: Mapping[str, Any]) -> str:
    """What maps were trained on in place of real images, and how far the front tells it from them;
    empty for real ones.

    Parameters
    ----------
    records : of a run, or the cells of one.
    """
    made = [record["invariant_images"] for record in records if record.get("invariant_images")]
    if not made:
        return ""

    def over(key: str) -> str:
        values = [one[key] for one in made if one[key] is not None]
        if not values:
            return "–"
        least, most = (f"{value:.3g}" for value in (min(values), max(values)))
        return least if least == most else f"{least} to {most}"

    return (
        f"invariant, {made[0]['steps']} steps from noise to where the front tells them from the "
        f"real ones by a relative residual of {over('residual')} (noise: "
        f"{over('residual_of_noise')})"
    )


def called_map(*transformations: Mapping[str, Any]) -> str:
    """Of which kind one or several maps of a run are, and how many parameters they have."""
    kind = transformations[0].get("kind", LINEAR)
    sizes = [one["parameters"] for one in transformations]
    least, most = min(sizes), max(sizes)
    return f"{kind}, {least:,}{f' to {most:,}' if most > least else ''} parameters"


def as_text(record: Mapping[str, Any]) -> str:
    """The result of a run for the terminal."""
    data, donors = record["data"], record["donors"]
    params = record["params"]
    head = [
        f"front  {_called(donors['front'])} up to {params['front_layer']}",
        f"end    {_called(donors['end'])} from {params['end_layer']}",
        f"data   {data['name']}: map trained on {data['n_train_images']:,} images, "
        f"measured on {data['n_images']:,}",
        f"map    {called_map(record['transformation'])}",
        f"recipe {recipe(params)}",
        *(f"images {told}" for told in [called_images(record)] if told),
    ]
    parts = ["\n".join(head), *_numbers(record, record["estimators"]), *record["notes"]]
    if record["elsewhere"]:
        other = record["elsewhere"]["data"]
        parts.append(f"On {other['name']}, {other['n_images']:,} images:")
        parts += _numbers(record["elsewhere"], record["estimators"])
    return "\n\n".join(part if "\n" in part else textwrap.fill(part, 100) for part in parts)


def _numbers(record: Mapping[str, Any], estimators: Mapping[str, str]) -> list[str]:
    """Tables and sentences about one dataset."""
    parts = [aligned(rows(record, (*ACCURACY, *ANSWERS[:2]))), aligned(control_rows(record))]
    if record.get("noise_front"):
        parts += [aligned(noise_rows(record)), noise_caption(record, estimators)]
    if record.get("ood"):
        parts += [aligned(ood_rows(record)), ood_caption(record, estimators)]
    parts += [f"Verdict: {verdict(record)}"]
    if record["l2"] is not None or record["cka"] is not None:
        parts.append(aligned(similarity_rows(record)))
        parts.append(similarity_caption(estimators))
    if record["attacks"] is not None:
        for heading, table, caption in attacked.tables(record):
            parts += [f"{heading}: {caption}", *([aligned(table)] if table else [])]
        parts += record["attacks"]["warnings"]
    return parts
