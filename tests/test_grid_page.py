"""The page of a grid for a browser: it needs nothing but itself, and does what it is for."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from robust_stitching.report.grid.html import page

MEGABYTE = 2**20
NETWORKS = ("front", "end", "untrained", "stitched", "direct_matching")


def record_of(rows, columns, seeds):
    """A record of a grid with numbers that say where they stand."""
    random = np.random.default_rng(0)
    cells = []
    for seed in seeds:
        for row in rows:
            for column in columns:
                cells.append({
                    "front_layer": row, "end_layer": column, "seed": seed, "error": None,
                    "notes": [f"of {row} </script> & {column}"], "debiased_cka": random.random(),
                    "gaps": {"random_front": random.random() - 0.5},
                    "random_fronts": [0.25, 0.75],
                    "transformation": {"kind": "linear", "parameters": 272},
                    **{name: {
                        "accuracy": random.random(), "accuracy_interval": [0.25, 0.75],
                        "agreement_with_end": random.random(), "debiased_cka_to_end": 0.5,
                        "relative_accuracy": random.random(), "robust": {"worst case": 0.125},
                        "robust_interval": {"worst case": [0.0625, 0.25]},
                        "agreement_with_end_interval": [0.125, 0.625],
                    } for name in NETWORKS},
                    "direct_matching_recalibrated": None, "self_stitch": None,
                    "random_front": None,
                })  # fmt: skip
    donors = {side: {"model": "tiny<10>"} for side in ("front", "end")}
    return {
        "front_layers": rows, "end_layers": columns, "seeds": seeds, "cells": cells,
        "donors": donors, "data": {"name": "Digits", "n_images": 360, "n_train_images": 1437},
        "params": {"epochs": 2}, "notes": ["A note."],
    }  # fmt: skip


@pytest.fixture(scope="module")
def record():
    return record_of(["bn1", "bn2"], ["bn1", "relu2", "bn2"], [3, 4])


def data_in(text):
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)[1])


def test_a_page_holds_all_that_it_shows(record):
    data = data_in(page(record))
    quantities = {quantity["key"]: quantity for quantity in data["quantities"]}
    assert {"accuracy", "agreement", "worst_case", "direct_matching", "cka", "gap"} <= set(
        quantities
    )
    cell = next(c for c in record["cells"] if (c["front_layer"], c["end_layer"], c["seed"]) == (
        "bn2", "relu2", 4))  # fmt: skip
    assert quantities["accuracy"]["values"][1][1][1] == round(cell["stitched"]["accuracy"], 4)
    shown = next(c for c in data["cells"] if (c["front_layer"], c["end_layer"], c["seed"]) == (
        "bn2", "relu2", 4))  # fmt: skip
    assert shown["table"][3][:3] == [
        "stitched",
        f"{cell['stitched']['accuracy']:.2%}",
        "25.0 – 75.0%",
    ]
    assert shown["intervals"] == {
        "accuracy": [0.25, 0.75],
        "agreement": [0.125, 0.625],
        "worst_case": [0.0625, 0.25],
        "direct_matching": [0.25, 0.75],
    }
    assert data["diagonal"] == [[0, 0], [1, 2]]


def test_a_page_loads_nothing(record):
    text = page(record)
    ours = text.replace(re.search(r"<script>.*?</script>", text, re.DOTALL)[0], "", 1)
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?:https?:)?//", ours)
    assert "<title>Stitching every layer of tiny&lt;10&gt;" in ours


def test_a_large_page_stays_small():
    names = [f"layer{number}.relu" for number in range(24)]
    assert len(page(record_of(names, names, list(range(5))))) < 8 * MEGABYTE


ACTS = """<script>
addEventListener("load", () => setTimeout(() => {
  const said = [document.querySelector("#cell h2").textContent];
  document.getElementById("quantity").value = 4;
  document.getElementById("seed").value = 1;
  document.getElementById("quantity").dispatchEvent(new Event("change"));
  const trace = document.getElementById("map").data[0];
  said.push(trace.colorbar.title.text, trace.z[1][2], trace.hovertext[1][2]);
  document.getElementById("map").emit("plotly_click", {points: [{x: "bn2", y: "bn1"}]});
  said.push(document.querySelector("#cell h2").textContent);
  said.push(document.querySelectorAll("#cell tr").length);
  said.push(document.querySelectorAll("#map .hm, #curves .scatterlayer .trace").length > 3);
  said.push(performance.getEntriesByType("resource").length);
  document.body.setAttribute("data-said", JSON.stringify(said));
}, 500));
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_in_a_browser(record, tmp_path):
    """Measure and seed are chosen, a cell is clicked; nothing is asked of any network."""
    path = tmp_path / "page.html"
    path.write_text(page(record).replace("</body>", ACTS), encoding="utf-8")
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000", "--dump-dom"),
    ]
    shown = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120)
    said = json.loads(html.unescape(re.search(r'data-said="([^"]*)"', shown.stdout)[1]))
    cell = next(c for c in record["cells"] if (c["front_layer"], c["end_layer"], c["seed"]) == (
        "bn2", "bn2", 4))  # fmt: skip
    value = cell["direct_matching"]["accuracy"]
    assert said[:3] == ["bn1 → bn1, seed 3", "accuracy of direct matching", round(value, 4)]
    assert said[3].startswith("bn2 → bn2<br>accuracy of direct matching: ")
    assert said[4:] == ["bn1 → bn2, seed 4", 6, True, 0]
