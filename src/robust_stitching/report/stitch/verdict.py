"""What the controls of a stitch mean for its result, in a line."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from robust_stitching.evaluation.intervals import wilson

TELLING = 0.05  # accuracies of the two controls that are closer than this tell nothing apart, nor
# do those whose 95% intervals overlap
TRAINED = 0.9  # the share of the end's own accuracy that a self-stitch reaches once it is trained


def meaning(record: Mapping[str, Any]) -> str:
    """What the stitch shows of the front, seen beside its controls."""
    if record["self_stitch"] is None or record["random_front"] is None:
        return _without_fronts(record["gaps"])
    stitched, top, end = (record[name]["accuracy"] for name in ("stitched", "self_stitch", "end"))
    fronts = record["random_fronts"]
    bottom, n = fmean(fronts), record["data"]["n_images"]
    spread = f"{bottom:.1%}"
    if len(fronts) > 1:
        spread += f" on average, {min(fronts):.1%} to {max(fronts):.1%}"
    if wilson(bottom, n)[0] > wilson(end, n)[1]:
        return (
            f"Even with a front of random weights ({spread}) the stitch is better than the end "
            f"network itself ({end:.1%}): the map learns the task by itself, and the stitch says "
            "little about the front."
        )
    ends = f"a front with random weights ({spread}) and the end stitched to itself ({top:.1%})"
    if top - bottom < TELLING or max(wilson(bottom, n)[1], *fronts) >= wilson(top, n)[0]:
        return (
            f"The controls, {ends}, are too close to tell anything: at this cut the map and the "
            "end network learn the task, or fail to, whatever the front has learned."
        )
    share = (stitched - bottom) / (top - bottom)
    if share > 1.1:
        verdict = "the front brings more than the end network's own"
    elif share >= 0.9:
        verdict = "the front has nearly all that the end network needs"
    elif share >= 0.1:
        verdict = "the front has part of what the end network needs"
    else:
        verdict = "the stitch shows nothing that a random front would not"
    told = f"The stitch is at {share:.0%} of the way between {ends}: {verdict}."
    if top < TRAINED * end:
        told += (
            f" But even the self-stitch is far from the end's own {end:.1%}: such a map cannot do "
            "better, or was trained too little."
        )
    return told


def _without_fronts(gaps: Mapping[str, float]) -> str:
    told = f"The trained map is {_better(gaps['untrained'])} than before training"
    if "direct_matching" in gaps:
        told += (
            f" and {_better(gaps['direct_matching'])} than direct matching, which sees no labels"
        )
    if "direct_matching_recalibrated" in gaps:
        again = _better(gaps["direct_matching_recalibrated"])
        told += f" ({again}, where that has the statistics of its batch norms estimated again)"
    return f"{told}. How much a map learns by itself, from any front, --controls tells."


def _better(gap: float) -> str:
    return f"{100 * abs(gap):.1f} points {'worse' if gap < 0 else 'better'}"
