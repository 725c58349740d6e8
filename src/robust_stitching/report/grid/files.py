"""What a grid leaves for people and programs, drawn from its JSON record alone."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from robust_stitching.basics.files import replacing
from robust_stitching.report.drawing import save
from robust_stitching.report.grid.figures import curves, heat_maps
from robust_stitching.report.grid.html import page
from robust_stitching.report.grid.pdf import write_pdf

NETWORKS = (
    *("front", "end", "untrained", "stitched", "direct_matching"),
    *("direct_matching_recalibrated", "self_stitch", "random_front"),
)
QUANTITIES = (
    *("accuracy", "loss", "relative_accuracy", "agreement_with_end", "cross_entropy_to_end"),
    *("cka_to_end", "debiased_cka_to_end", "l2_to_end", "logit_cka_to_end", "logit_l2_to_end"),
)


def write_files(record: Mapping[str, Any], folder: Path, stem: str, made: str) -> dict[str, Path]:
    """Write table, figures and pages below `folder`, each file whole or not at all.

    Parameters
    ----------
    made : when the grid was, as it stands in the file's properties.

    Returns
    -------
    kind to path: "csv", "figures", "pdf" and "html".
    """
    paths = {kind: folder / kind / f"{stem}.{kind}" for kind in ("csv", "pdf")}
    with replacing(paths["csv"]) as temporary:
        pd.DataFrame(lines(record)).to_csv(temporary, index=False)
    figures, along = heat_maps(record), curves(record)
    paths["figures"] = folder / "figures"
    for name, figure in figures.items():
        save(figure, paths["figures"] / name)
    if along is not None:
        save(along, paths["figures"] / "diagonal")
    with replacing(paths["pdf"]) as temporary:
        write_pdf(temporary, record, made)
    paths["html"] = folder / "html" / f"{stem}.html"
    with replacing(paths["html"]) as temporary:
        temporary.write_text(page(record, f"../pdf/{stem}.pdf"), encoding="utf-8")
    return paths


def lines(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A line for each number: cell, seed, network, what it is, its interval, of how many images."""
    for cell in record["cells"]:
        where = {key: cell[key] for key in ("front_layer", "end_layer", "seed")}
        attacked = cell["attacks"] and cell["attacks"]["n_images"]
        for network in NETWORKS:
            values = cell[network]
            if values is None:
                continue
            n = cell["data"]["n_images"]
            for quantity in QUANTITIES:
                if values.get(quantity) is not None:
                    ends = values.get(f"{quantity}_interval") or (None, None)
                    yield _line(where, network, quantity, values[quantity], ends, n)
            for attack, share in (values.get("robust") or {}).items():
                ends = values["robust_interval"][attack]
                yield _line(where, network, f"robust: {attack}", share, ends, attacked)


def _line(
    where: Mapping[str, Any], network: str, quantity: str, value: float, ends: Any, n: int
) -> dict[str, Any]:
    low, high = ends
    about = {"network": network, "quantity": quantity, "value": value}
    return {**where, **about, "low": low, "high": high, "n_images": n}
