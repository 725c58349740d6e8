"""What the controls of a stitch mean for its result, in a line."""

from collections.abc import Mapping
from typing import Any

TELLING = 0.05  # accuracies of the two controls that are closer than this tell nothing apart


def meaning(record: Mapping[str, Any]) -> str:
    """What the stitch shows of the front, seen beside its controls."""
    accuracy = {
        name: scores["accuracy"]
        for name in ("stitched", "untrained", "direct_matching", "self_stitch", "random_front")
        if (scores := record[name])
    }
    stitched = accuracy["stitched"]
    if "self_stitch" not in accuracy:
        told = f"Training moved the map by {_points(stitched - accuracy['untrained'])}"
        if "direct_matching" in accuracy:
            gap = stitched - accuracy["direct_matching"]
            told += f" and to {_points(gap)} from direct matching, which sees no labels"
        return f"{told}; how much a map learns without a front, --controls tells."
    top, bottom = accuracy["self_stitch"], accuracy["random_front"]
    ends = f"a front with random weights ({bottom:.1%}) and the end stitched to itself ({top:.1%})"
    if top - bottom < TELLING:
        return (
            f"The controls tell little apart here, {ends}: at this cut the map and the end network "
            "learn the task nearly by themselves, and the stitch says little about the front."
        )
    share = (stitched - bottom) / (top - bottom)
    verdict = (
        "the front has nearly all that the end network needs"
        if share >= 0.9
        else "the front has part of what the end network needs"
        if share >= 0.1
        else "the stitch shows nothing that a random front would not"
    )
    return f"The stitch reaches {share:.0%} of the way between {ends}: {verdict}."


def _points(gap: float) -> str:
    return f"{100 * gap:+.1f} percentage points"
