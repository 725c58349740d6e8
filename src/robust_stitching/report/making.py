"""How a stitch, or a grid of them, was made: the last table of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from robust_stitching.report.stitch.text import called_images, recipe
from robust_stitching.report.tables import flat


def making(record: Mapping[str, Any], before: Sequence[Sequence[str]]) -> list[list[str]]:
    """Settings, versions, what another seed varies, time.

    Parameters
    ----------
    before : rows that one kind of report has, which come first.
    """
    settings = ", ".join(
        key if value is True else f"{key} {value}"
        for key, value in flat(record["params"]).items()
        if value is not None and value is not False and value != []
    )
    versions = ", ".join(f"{name} {known}" for name, known in record["versions"].items())
    images = called_images(record, *record.get("cells", ()))
    code = f"commit {record['commit']}" if record["commit"] else "not under git"
    return [
        ["setting", "value"],
        *map(list, before),
        *([["training images", images]] if images else []),
        ["recipe", recipe(record["params"])],
        ["settings", settings],
        ["versions", f"{versions}, {code}"],
        ["another seed varies", "; ".join(record["seed_varies"])],
        ["time taken", f"{record['seconds']:.0f} s"],
    ]
