"""What a sweep shows, from results that were never measured."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from left_behind import names
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import write_json
from robust_stitching.basics.names import LONGEST, Names
from robust_stitching.report.grid.files import lines
from robust_stitching.report.grid.quantities import diagonal as of_map
from robust_stitching.report.sweep import pdf, write_files
from robust_stitching.report.sweep.figures import curves, diagonal, heat_maps, of
from robust_stitching.report.sweep.pages import together, write_pages
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
        "transformation": {"kind": "linear", "parameters": 272},
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


def make(folder, number, unit, pair, options, cells, **more):
    """A unit that is done."""
    front, end = pair
    about = {"number": number, "front": front, "end": end, "options": options}
    write_json(folder / "plans/units" / f"{unit}.json", {"plan": {}, "unit": about})
    record = {
        "plan": {},
        "front_layers": LAYERS,
        "end_layers": LAYERS,
        "seeds": [options.get("seed", 0)],
        "cells": cells,
        "notes": [],
        "donors": {side: {"model": "tiny10"} for side in ("front", "end")},
        "data": {"name": "Digits", "n_images": 360, "n_train_images": 1437},
        "params": {"epochs": 2},
        **more,
    }
    write_json(folder / "units" / unit / "json" / "x.json", record)


def every_cell(seed=0, accuracy=0.5, layers=LAYERS):
    return [cell(f, e, seed, accuracy) for f in layers for e in layers]


@pytest.fixture
def sweep(tmp_path):
    """Two pairs, two values of an option, two seeds; a cell diverged, and a unit is not there."""
    folder = tmp_path / "mine"
    for front, end in (("A", "B"), ("B", "A")):
        for lr in (0.1, 0.2):
            for seed in (0, 1):
                unit, options = f"{front}-{end}-{lr}-{seed}", {"lr": lr, "seed": seed}
                cells = [cell(f, e, seed, lr + seed / 10) for f in LAYERS for e in LAYERS]
                if front == "A":
                    cells[1] |= {"stitched": None, "error": "it diverged"}
                make(folder, 0, unit, (front, end), options, cells)
    (folder / "units/B-A-0.2-1/json/x.json").unlink()
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
    table = table_of(*results_in(sweep))
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
        found = pd.DataFrame(cells, columns=["front_layer", "end_layer"])
        for side in found.columns:
            found[f"{side}_place"] = found[side].map(ord)
            found[f"{side}_depth"] = None
        return found

    assert diagonal(table(("a", "a"), ("a", "b"), ("b", "a"), ("b", "b"))) == [
        ("a", "a"),
        ("b", "b"),
    ]
    every = [(front, end) for front in "ab" for end in "xy"]
    assert diagonal(table(*every)) == [("a", "x"), ("b", "y")]
    assert diagonal(table(("a", "x"), ("a", "y"))) == [("a", "x"), ("a", "y")]
    uneven = table(*((front, end) for front in "abc" for end in "vwxyz"))
    assert diagonal(uneven) == [("a", "v"), ("b", "x"), ("c", "z")]
    uneven["front_layer_depth"] = uneven["front_layer"].map({"a": 0.0, "b": 0.1, "c": 1.0})
    uneven["end_layer_depth"] = uneven["end_layer"].map(lambda end: "vwxyz".index(end) / 4)
    assert diagonal(uneven) == [("a", "v"), ("b", "v"), ("c", "z")]


def test_the_diagonal_of_a_sweep_is_that_of_its_maps(tmp_path):
    """Of as many layers as there are, and as deep as they are."""
    cells = [cell(row, column, 0, 0.5) for row in LAYERS for column in ("x", "y", "z")]
    fronts, ends = dict(zip(LAYERS, (0.4, 1.0), strict=True)), {"x": 0.0, "y": 0.5, "z": 1.0}
    layers = {"front_layers": list(fronts), "end_layers": list(ends)}
    make(tmp_path, 0, "u", "AB", {}, cells, depths={"front": fronts, "end": ends}, **layers)
    results, asked = results_in(tmp_path)
    table = of(table_of(results, asked), "stitched", "accuracy")
    expected = [(LAYERS[0], "y"), (LAYERS[1], "z")]
    assert diagonal(table) == expected
    (record,) = (result.record for result in results)
    named = [(record["front_layers"][i], record["end_layers"][j]) for i, j in of_map(record)]
    assert named == expected


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


def test_seeds_of_comparisons_are_seeds(sweep):
    for seed in (0, 1):
        options = {"n_images": 9, "seed": seed}
        about = {"number": seed, "front": "A", "end": "B", "options": options}
        write_json(
            sweep / f"plans/units/c{seed}.json", {"plan": {"kind": "compare"}, "unit": about}
        )
        measures = {"cka": {"values": [[0.1]], "n_images": 9}}
        record = {"layers1": ["a"], "layers2": ["x"], "measures": measures}
        write_json(sweep / "units" / f"c{seed}" / "json" / "x.json", record)
    table = table_of(*results_in(sweep))
    compared = table[table["quantity"] == "compare.cka"]
    assert compared["seed"].to_list() == [0, 1] and "compare.seed" not in table
    assert set(compared["combination"]) == {"compare.n_images=9"}


def test_a_page_has_the_notes_of_all_its_seeds_and_these_in_their_order():
    layers = {"front_layers": ["a"], "end_layers": ["b"]}
    records = [
        layers | {"seeds": seeds, "notes": notes, "cells": [{"seed": seed} for seed in seeds]}
        for seeds, notes in (([3, 2], ["first", "of 3"]), ([0], ["first", "of 0"]))
    ]
    merged = together(records)
    assert merged["seeds"] == [0, 2, 3] and merged["notes"] == ["first", "of 3", "of 0"]
    assert [cell["seed"] for cell in merged["cells"]] == [3, 2, 0]


def test_comparisons_are_in_the_table(sweep):
    about = {"number": 1, "front": "A", "end": "B", "options": {"n_images": 9}}
    write_json(sweep / "plans/units/c.json", {"plan": {"kind": "compare"}, "unit": about})
    measures = {
        "cka": {"values": [[0.1, 0.2]], "n_images": 9, "low": [[0, 0.1]], "high": [[0.3, 0.4]]},
        "agreement": {"value": 0.5, "value_interval": [0.4, 0.6], "n_images": 8},
    }
    record = {"layers1": ["a"], "layers2": ["x", "y"], "measures": measures}
    write_json(sweep / "units" / "c" / "json" / "x.json", record)
    table = table_of(*results_in(sweep))
    compared = table[table["n_images"].isin([8, 9])].astype(object)
    compared = compared.where(compared.notna(), None)
    assert compared[["front_layer", "end_layer", "value", "low", "high"]].values.tolist() == [
        ["a", "x", 0.1, 0, 0.3],
        ["a", "y", 0.2, 0.1, 0.4],
        [None, None, 0.5, 0.4, 0.6],
    ]
    quantities = ["compare.cka", "compare.cka", "compare.agreement"]
    assert compared["quantity"].to_list() == quantities
    assert set(compared["compare.n_images"]) == {9}
    text = table.to_csv()
    assert ",9," in text and "9.0" not in text
    assert not of(table, "", "compare.agreement").size
    assert set(of(table, "", "cka")["front_layer"]) == set(LAYERS)  # of the stitches alone
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


# What is compared across panels


def colours(axes):
    return {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.lines}


def test_a_colour_is_one_combination_in_the_order_of_the_plan(tmp_path):
    """Whatever units are called, and whichever are there."""
    each = [((front, end), lr) for front, end in ("AB", "BA", "AC") for lr in (0.3, 0.1, 0.2)]
    for number, (pair, lr) in enumerate(each):
        name = f"{(number * 7) % 10}"
        make(tmp_path, number, name, pair, {"lr": lr}, every_cell())
    (tmp_path / "units/0/json/x.json").unlink()  # A to B, the first of all
    results, asked = results_in(tmp_path)
    table = table_of(results, asked)
    figure = curves(table, "stitched", "accuracy", "accuracy")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["A → B", "B → A", "A → C"]
    assert len(panels) == 3  # the place of a fourth is empty
    first, second, third = map(colours, panels)
    assert second == third == first | {"lr=0.3": second["lr=0.3"]}
    assert len(set(second.values())) == 3 and list(second) == ["lr=0.3", "lr=0.1", "lr=0.2"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["lr=0.3", "lr=0.1", "lr=0.2"]
    shown = [name for name, _ in heat_maps(table, "stitched", "accuracy", "")]
    assert shown[:4] == ["A → B, lr=0.1", "A → B, lr=0.2", "B → A, lr=0.3", "B → A, lr=0.1"]
    index = write_pages(results, tmp_path).read_text()
    assert [float(lr) for lr in re.findall(r"<td>lr=([^<]*)</td>", index)] == [
        lr for _, lr in each[1:]
    ]


def test_results_are_in_the_order_of_the_plan_where_some_are_not_there(tmp_path):
    for number, (seed, lr) in enumerate(((0, 0.3), (0, 0.1), (1, 0.3), (1, 0.1))):
        make(tmp_path, number, f"u{number}", "AB", {"seed": seed, "lr": lr}, every_cell())
    (tmp_path / "units/u0/json/x.json").unlink()
    results, asked = results_in(tmp_path)
    assert [one.combination for one in results] == ["lr=0.3", "lr=0.1", "lr=0.1"]
    assert len(asked) == 4


def test_layers_are_in_the_order_of_the_network(tmp_path):
    """Also where the first cells of all diverged."""
    layers = ["relu2", "bn1", "relu1"]
    cells = every_cell(layers=layers)
    for lost in cells[:2]:
        lost |= {"stitched": None, "error": "it diverged"}
    make(tmp_path, 0, "u", "AB", {}, cells, front_layers=layers, end_layers=layers)
    table = table_of(*results_in(tmp_path))
    ((_, figure),) = heat_maps(table, "stitched", "accuracy", "")
    axes = figure.axes[0]
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == layers
    assert diagonal(of(table, "stitched", "accuracy")) == [("bn1", "bn1"), ("relu1", "relu1")]
    assert diagonal(of(table, "", "cka")) == [(layer, layer) for layer in layers]


def test_heat_maps_are_means_over_seeds(tmp_path):
    for seed, accuracy in enumerate((0.1, 0.2, 0.6)):
        make(tmp_path, seed, f"u{seed}", "AB", {"seed": seed}, every_cell(seed, accuracy))
    table = table_of(*results_in(tmp_path))
    ((_, figure),) = heat_maps(table, "stitched", "accuracy", "")
    assert np.allclose(figure.axes[0].images[0].get_array(), 0.3)


def test_the_best_layer_in_the_pdf(tmp_path, monkeypatch):
    """Of means over seeds, the highest."""
    for seed in (0, 1):
        cells = [cell(layer, layer, seed, mean + seed / 10) for layer, mean in
                 zip(LAYERS, (0.2, 0.5), strict=True)]  # fmt: skip
        make(tmp_path, seed, f"u{seed}", "AB", {"seed": seed}, cells)
    found = {}
    monkeypatch.setattr(
        pdf.pages, "numbers", lambda title, rows, *more: found.update({title: rows})
    )
    pdf._means(table_of(*results_in(tmp_path)))
    (head, row) = found["What came of it"]
    told = dict(zip(head, row, strict=True))
    assert (told["accuracy"], told["of the best layer"]) == ("40.00%", "55.00%")


@pytest.mark.parametrize(("asked", "n"), [(None, 360), (100, 100), (2000, 360)])
def test_similarities_say_on_how_many_images_they_are(asked, n, tmp_path):
    cells = every_cell()
    similar = {"cka_to_end": 0.5, "l2_to_end": 1.0, "logit_cka_to_end": 0.5}
    similar["relative_l2_to_end"] = 1.0
    cells[0]["stitched"] |= similar
    cells[0]["elsewhere"] = {"data": {"n_images": 50}, "cka": 0.5, "stitched": scores(0.5, None)}
    plan = {"measured": {"similarity_images": asked}}
    make(tmp_path, 0, "u", "AB", {}, cells, plan=plan)
    table = table_of(*results_in(tmp_path)).iloc[:30]
    told = table.query("front_layer == 'relu1' and end_layer == 'relu1'")
    told = told[told["network"].isin(["", "stitched"])].set_index("quantity")["n_images"]
    assert told[["cka", "cka_to_end", "l2_to_end", "relative_l2_to_end"]].to_list() == [n] * 4
    assert told[["accuracy", "logit_cka_to_end"]].to_list() == [360] * 2
    assert told["elsewhere.cka"] == min(50, n)
    of_grid = list(lines({"plan": plan, "cells": [cells[0]]}))
    told = {line["quantity"]: line["n_images"] for line in of_grid if line["network"] == ""}
    assert told == {"cka": n, "elsewhere.cka": min(50, n)}


def test_a_diagonal_that_was_not_measured_is_not_replaced(tmp_path):
    """Where the cells on it diverged, the curve has gaps; no others are drawn in their place."""
    cells = [
        cell(row, column, 0, 0.5, **({"stitched": None} if row == column else {}))
        for row in LAYERS
        for column in LAYERS
    ]
    make(tmp_path, 0, "u", "AB", {}, cells)
    table = table_of(*results_in(tmp_path))
    assert curves(table, "stitched", "accuracy", "accuracy") is None
    figure = curves(table, "", "cka", "CKA")
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == list(LAYERS)


def test_gaps_and_each_random_front_are_lines(tmp_path):
    beside = {"random_fronts": [0.2, 0.4], "gaps": {"random_front": 0.2, "self_stitch": None}}
    cells = every_cell()
    cells[0] |= beside | {"elsewhere": beside | {"data": {"n_images": 50}}}
    make(tmp_path, 0, "u", "AB", {}, cells)
    table = table_of(*results_in(tmp_path)).set_index("quantity")
    of_map = pd.DataFrame(lines({"cells": [cells[0]]})).set_index("quantity")
    told = {
        "gaps.random_front": 0.2,
        "random_fronts.0": 0.2,
        "random_fronts.1": 0.4,
        "random_fronts.mean": pytest.approx(0.3),
    }
    for prefix, n in (("", 360), ("elsewhere.", 50)):
        for name, value in told.items():
            for found in (table.loc[prefix + name], of_map.loc[prefix + name]):
                assert found[["network", "value", "n_images"]].to_list() == ["", value, n]
    assert "gaps.self_stitch" not in table.index


# Names of files


def test_files_of_other_pairs_are_others(tmp_path):
    (tmp_path / "plan.toml").write_text("")
    for number, pair in enumerate((("a-b", "c"), ("a", "b-c"))):
        make(tmp_path, number, f"u{number}", pair, {}, every_cell())
    write_files(tmp_path)
    assert len(names(tmp_path / "html")) == 2
    assert len(list((tmp_path / "figures").glob("map-stitched-accuracy-a-b-c*.png"))) == 2


def test_names_are_short_and_the_same_for_the_same():
    of_files = Names()
    long = [f"terms={'ü' * 300}{end}" for end in "ab"]
    first, second = (of_files.of("A → B", text) for text in long)
    assert first != second and of_files.of("A → B", long[0]) == first
    assert max(len(name.encode()) for name in (first, second)) <= LONGEST
    assert of_files.of("A → B", "lr=0.1") == "A-B-lr_0.1"
    assert of_files.of("a → b", "lr=0.1") != "a-b-lr_0.1"
    layers = Names()
    assert layers.of("relu").casefold() != layers.of("Relu").casefold()


@pytest.mark.parametrize(
    "break_it",
    [
        lambda cell: cell.update(ood={"stitched": {"auroc": 0.5}}),
        lambda cell: cell.update(attacks="many"),
        lambda cell: cell["stitched"].update(accuracy_interval=[0.5]),
        lambda cell: cell["stitched"].update(overlap_with_end=[1]),
        lambda cell: cell.update(gaps=3),
        lambda cell: cell["stitched"].update(robust="x"),
    ],
)
def test_a_number_that_is_of_no_kind_is_told_with_its_file(break_it, tmp_path):
    (tmp_path / "plan.toml").write_text("")
    cells = every_cell()
    break_it(cells[-1])
    make(tmp_path, 0, "u0", ("A", "B"), {}, cells)
    with pytest.raises(UserError, match=r"u0/json/.*\.json does not hold what a unit leaves \("):
        write_files(tmp_path)


def test_without_its_plan_a_sweep_is_not_gathered(sweep):
    (sweep / "plan.toml").unlink()
    before = names(sweep)
    with pytest.raises(UserError, match=r"plan.toml, the plan of that sweep, cannot be read; run"):
        write_files(sweep)
    assert names(sweep) == before
