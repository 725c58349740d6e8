"""What a sweep shows, from results that were never measured."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from left_behind import names
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import write_json
from robust_stitching.report.sweep import write_files
from robust_stitching.report.sweep.figures import curves, diagonal, of
from robust_stitching.report.sweep.read import results_in
from robust_stitching.report.sweep.table import table_of

LAYERS = ("relu1", "relu2")


def scores(accuracy, robust):
    return {
        "accuracy": accuracy,
        "accuracy_interval": [accuracy - 0.1, accuracy + 0.1],
        "n_images": 360,
        "overlap_with_end": {"rr": 0.25},
        "overlap_with_end_interval": {"rr": [0.2, 0.3]},
        "robust": robust and {"FGSM": 0.5, "worst case": 0.25},
        "robust_interval": robust and {"FGSM": [0.4, 0.6], "worst case": [0.2, 0.3]},
        "loss": None,
    }


def cell(front, end, seed, accuracy, **more):
    return {
        "front_layer": front,
        "end_layer": end,
        "seed": seed,
        "cka": 0.5,
        "data": {"n_images": 360},
        "attacks": {"n_images": 200},
        "front": scores(0.9, None),
        "end": scores(0.8, None),
        "stitched": scores(accuracy, True),
        "direct_matching": None,
        "error": None,
        "notes": [],
        **more,
    }


@pytest.fixture
def sweep(tmp_path):
    """Two pairs, two values of an option, two seeds; a cell diverged, and a unit is not there."""
    folder = tmp_path / "mine"
    for front, end in (("A", "B"), ("B", "A")):
        for lr in (0.1, 0.2):
            for seed in (0, 1):
                unit = f"{front}-{end}-{lr}-{seed}"
                options = {"lr": lr, "seed": seed}
                about = {"front": front, "end": end, "options": options}
                write_json(folder / "plans/units" / f"{unit}.json", {"plan": {}, "unit": about})
                if (front, lr, seed) == ("B", 0.2, 1):
                    continue
                cells = [cell(f, e, seed, lr + seed / 10) for f in LAYERS for e in LAYERS]
                if front == "A":
                    cells[1] |= {"stitched": None, "error": "it diverged"}
                record = {
                    "plan": {},
                    "front_layers": LAYERS,
                    "end_layers": LAYERS,
                    "seeds": [seed],
                    "cells": cells,
                    "notes": [],
                    "donors": {side: {"model": "tiny10"} for side in ("front", "end")},
                    "data": {"name": "Digits", "n_images": 360, "n_train_images": 1437},
                    "params": {"epochs": 2},
                }
                write_json(folder / "units" / unit / "json" / "x.json", record)
    (folder / "plan.toml").write_text("# what was asked\n" + "long = 1 " * 40)
    return folder


def test_a_line_a_number(sweep):
    table = pd.read_csv(write_files(sweep)["csv"], keep_default_na=False, na_values={"value": ""})
    assert list(table.columns) == [
        *("front", "end", "front_layer", "end_layer", "lr", "seed"),
        *("network", "quantity", "value", "low", "high", "n_images"),
    ]
    place = "front == 'A' and front_layer == 'relu1' and end_layer == 'relu1' and lr == 0.1"
    stitched = table.query(f"{place} and seed == 1 and network == 'stitched'")
    found = stitched.set_index("quantity")[["value", "low", "high", "n_images"]].astype(float)
    assert found.loc["accuracy"].round(6).to_list() == [0.2, 0.1, 0.3, 360]
    assert found.loc["robust.worst case"].to_list() == [0.25, 0.2, 0.3, 200]
    assert found.loc["overlap_with_end.rr"].to_list() == [0.25, 0.2, 0.3, 360]
    assert sorted(found.index) == [
        *("accuracy", "overlap_with_end.rr", "robust.FGSM", "robust.worst case"),
    ]
    cka = table.query(f"{place} and seed == 1 and network == ''")
    assert cka["quantity"].to_list() == ["cka"]
    diverged = table.query("front == 'A' and front_layer == 'relu1' and end_layer == 'relu2'")
    assert set(diverged["network"]) == {"", "front", "end"}
    keys = [c for c in table.columns if c not in ("value", "low", "high", "n_images")]
    assert not table.duplicated(keys).any()


def test_bands_are_over_seeds(sweep):
    table = table_of(results_in(sweep)[0])
    figure = curves(table, "stitched", "accuracy", "accuracy")
    first, second = figure.axes
    assert [axes.get_title() for axes in (first, second)] == ["A → B", "B → A"]
    assert [tick.get_text() for tick in first.get_xticklabels()] == list(LAYERS)
    lines = [line.get_ydata() for line in first.get_lines()]
    assert np.allclose(lines, [[0.15, 0.15], [0.25, 0.25]])
    low, high = first.collections[0].get_paths()[0].get_extents().intervaly
    assert np.allclose((low, high), (0.1, 0.2))
    assert curves(table, "stitched", "nothing", "") is None


def test_the_diagonal_of_other_layers(sweep):
    def table(*cells):
        return pd.DataFrame(cells, columns=["front_layer", "end_layer"])

    assert diagonal(table(("a", "a"), ("a", "b"), ("b", "a"), ("b", "b"))) == [
        ("a", "a"),
        ("b", "b"),
    ]
    every = [(front, end) for front in "ab" for end in "xy"]
    assert diagonal(table(*every)) == [("a", "x"), ("b", "y")]
    assert diagonal(table(("a", "x"), ("a", "y"))) == [("a", "x"), ("a", "y")]


def test_what_is_drawn(sweep):
    paths = write_files(sweep)
    assert paths["pdf"].read_bytes().startswith(b"%PDF")
    drawn = names(paths["figures"])
    assert "curves-stitched-accuracy.png" in drawn
    assert "map-stitched-accuracy-A-B-lr_0.1.pdf" in drawn
    assert write_files(sweep) == paths  # again, over what is there


def test_a_page_for_each_combination_has_its_seeds(sweep):
    index = write_files(sweep)["html"]
    assert index == sweep / "index.html"
    listed = re.findall(r'href="(html/[^"]*)"', index.read_text())
    assert len(listed) == 4 and all((sweep / path).is_file() for path in listed)
    text = (sweep / "html" / "A-B-lr_0.1.html").read_text()
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)[1])
    assert data["seeds"] == [0, 1] and len(data["cells"]) == 8
    accuracy = data["quantities"][0]["values"]
    assert accuracy[0][0][0] == 0.1 and accuracy[1][0][0] == 0.2 and accuracy[0][0][1] is None


def test_comparisons_are_in_the_table(sweep):
    about = {"front": "A", "end": "B", "options": {}}
    write_json(sweep / "plans/units/c.json", {"plan": {}, "unit": about})
    measures = {
        "cka": {"values": [[0.1, 0.2]], "n_images": 9, "low": [[0, 0.1]], "high": [[0.3, 0.4]]},
        "agreement": {"value": 0.5, "value_interval": [0.4, 0.6], "n_images": 8},
    }
    record = {"layers1": ["a"], "layers2": ["x", "y"], "measures": measures}
    write_json(sweep / "units" / "c" / "json" / "x.json", record)
    table = table_of(results_in(sweep)[0])
    compared = table[table["n_images"].isin([8, 9])].astype(object)
    compared = compared.where(compared.notna(), None)
    assert compared[["front_layer", "end_layer", "value", "low", "high"]].values.tolist() == [
        ["a", "x", 0.1, 0, 0.3],
        ["a", "y", 0.2, 0.1, 0.4],
        [None, None, 0.5, 0.4, 0.6],
    ]
    assert not of(table, "", "agreement").size
    write_files(sweep)


def test_what_cannot_be_read(sweep):
    path = next(sweep.glob("units/*/json/*.json"))
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        write_files(sweep)
    for one in sweep.glob("units/*/json/*.json"):
        one.unlink()
    with pytest.raises(UserError, match="has no result yet"):
        write_files(sweep)
