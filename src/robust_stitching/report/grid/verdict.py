"""What a grid says, in sentences."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from robust_stitching.report.grid.quantities import diagonal, quantities
from robust_stitching.report.stitch.verdict import with_verdict

Z = 1.96
"""Of a two-sided interval of 95%."""


def verdict(record: Mapping[str, Any]) -> list[str]:
    """Which front layers match another end layer better than their own counterpart, which stitches
    are no better than those of random fronts, and which could not be trained."""
    found = {quantity.key: quantity.mean for quantity in quantities(record)}
    told = []
    if "accuracy" in found:
        told += _strayed(record, found["accuracy"])
    if "gap" in found:
        told += _no_better(record, found)
    failed = [cell for cell in record["cells"] if cell["error"]]
    if failed:
        named = ", ".join(f"{cell['front_layer']} → {cell['end_layer']}" for cell in failed)
        told.append(f"Training diverged at {len(failed)} of {len(record['cells'])} cells: {named}.")
    return told


def with_verdicts(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of a grid whose cells have their own, as that of a stitch has it."""
    return {**record, "cells": [with_verdict(cell) for cell in record["cells"]]}


def _strayed(record: Mapping[str, Any], accuracy: np.ndarray) -> list[str]:
    """Rows whose best column is not their own. Two shares of n images differ where they do by more
    than 1.96 of the error of their difference, if they were of different images."""
    rows, columns, n = record["front_layers"], record["end_layers"], record["data"]["n_images"]
    strayed, counted = [], 0
    for row, own in diagonal(record):
        if not np.isfinite(accuracy[row, own]) or np.isfinite(accuracy[row]).sum() < 2:
            continue
        counted += 1
        best = int(np.nanargmax(accuracy[row]))
        p, q = accuracy[row, own], accuracy[row, best]
        if q - p > Z * np.sqrt((p * (1 - p) + q * (1 - q)) / n):
            strayed.append(f"{rows[row]} ({columns[best]} {q:.1%}, {columns[own]} {p:.1%})")
    if not counted:
        return []
    if not strayed:
        return [
            f"None of {counted} front layers is stitched better to another end layer than to its "
            "own counterpart, beyond what chance among the test images allows."
        ]
    return [
        f"{len(strayed)} of {counted} front layers are stitched better to another end layer than "
        f"to their own counterpart: {'; '.join(strayed)}. A stitch finds what the end can use, "
        "which need not be what the end has there."
    ]


def _no_better(record: Mapping[str, Any], found: Mapping[str, np.ndarray]) -> list[str]:
    """Cells that no random front of theirs falls below."""
    rows, columns = record["front_layers"], record["end_layers"]
    n = record["data"]["n_images"]
    accuracy, random = found["accuracy"], found["random_front"]
    error = np.sqrt((accuracy * (1 - accuracy) + random * (1 - random)) / n)
    with np.errstate(invalid="ignore"):
        weak = np.argwhere(accuracy - random <= Z * error)
    known = int(np.isfinite(found["gap"]).sum())
    if not len(weak):
        return [f"All {known} stitches are better than those of random fronts."]
    named = ", ".join(f"{rows[i]} → {columns[j]}" for i, j in weak[:8])
    more = f" and {len(weak) - 8} more" if len(weak) > 8 else ""
    return [
        f"{len(weak)} of {known} stitches are no better than those of random fronts, so they say "
        f"nothing about the front: {named}{more}."
    ]
