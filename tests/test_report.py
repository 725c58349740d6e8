"""What a run leaves behind: table, JSON, CSV, PDF, matrix."""

import ast
import csv
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reportlab.platypus import KeepTogether, Spacer

from left_behind import only, strict_json
from robust_stitching import checkpoints, report
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import write_json
from robust_stitching.plans import stitching
from robust_stitching.report import pages as sheet
from robust_stitching.report.collected import collect, line_of
from robust_stitching.report.stitch import attacked, pdf
from robust_stitching.report.stitch.figures import curves
from robust_stitching.report.stitch.pdf import draw
from robust_stitching.report.stitch.summary import summary
from robust_stitching.report.stitch.tables import ACCURACY, measured, rows
from robust_stitching.report.stitch.text import as_text
from robust_stitching.report.stitch.verdict import verdict
from robust_stitching.report.tables import aligned, shown
from robust_stitching.stitching.files import write_files
from robust_stitching.stitching.record import as_record, learning_curve
from robust_stitching.stitching.run import stitch

NETWORKS = ["front", "end", "untrained", "stitched", "direct_matching"]
SCORES = [
    *("accuracy", "loss", "agreement_with_end", "relative_accuracy", "cross_entropy_to_end"),
    *("cka_to_end", "l2_to_end", "logit_cka_to_end", "logit_l2_to_end", "overlap_with_end"),
]


def run(lenets, digits, **options):
    front, end = map(checkpoints.load, lenets)
    train, test = digits[0].between(0, 256), digits[1].between(0, 60)
    config = stitching("relu2", "relu2", epochs=2, save_frequency=1, **options)
    return stitch(front, end, train, test, config)


@pytest.fixture(scope="module")
def result(lenets, digits):
    return run(lenets, digits)


@pytest.fixture(scope="module")
def without_pinv(lenets, digits):
    return run(lenets, digits, no_pinv=True)


def pages(path):
    return len(re.findall(rb"/Type\s*/Page\b", path.read_bytes()))


# The table


def test_columns_line_up():
    table = [["network", "accuracy", "loss"], ["end", "91.23%", "0.5"], ["α", "–", "12.3456"]]
    lines = aligned(table).splitlines()
    assert lines[0].split() == table[0]
    assert set(lines[1]) == {"─", " "}
    assert [line.split() for line in lines[2:]] == table[1:]
    assert len({len(line) for line in lines}) == 1
    assert [line.index(row[0]) for line, row in zip(lines[2:], table[1:], strict=True)] == [0, 0]
    for column in (1, 2):
        cells = [row[column] for row in table]
        lines_without_rule = [lines[0], *lines[2:]]
        ends = {
            line.rindex(cell) + len(cell)
            for line, cell in zip(lines_without_rule, cells, strict=True)
        }
        assert len(ends) == 1


def test_rows_show_what_was_measured():
    record = {"front": None, "end": {"accuracy": 0.5, "overlap_with_end": {"rr": 0.25}}}
    columns = [("accuracy", "accuracy", ".1%"), ("rr", "overlap_with_end.rr", ".2f")]
    assert rows(record, columns) == [["network", "accuracy", "rr"], ["end", "50.0%", "0.25"]]
    assert shown({"a": None}, "a.b", ".2f") == shown({}, "a", ".2f") == "–"


def test_the_terminal_shows_the_numbers(result, without_pinv):
    record = as_record(result, "command")
    text = as_text(record)
    for name in NETWORKS:
        line = next(
            li
            for li in text.splitlines()
            if li.startswith(f"{name.replace('_', ' ')}  ") and "%" in li
        )
        assert f"{record[name]['accuracy']:.2%}" in line
        assert f"{record[name]['loss']:.4f}" in line
    assert "biased HSIC" in text
    assert "CKA" not in as_text(as_record(without_pinv, "command"))


def test_a_map_that_began_at_direct_matching_is_told_once(lenets, digits, tmp_path):
    made = run(lenets, digits, init="ps_inv", robust_images=20)
    record = as_record(made, "")
    assert record["untrained"] == record["direct_matching"]
    assert record["transfer"]["end"]["untrained"] == record["transfer"]["end"]["direct_matching"]
    assert "untrained" not in as_text(record)
    names = [row[0] for row in rows(record, ACCURACY)[1:]]
    assert names == ["front", "end", "stitched", "direct matching (start)"]
    assert "is where the training began" in summary(record)
    assert "Before training" not in summary(record)
    assert "than before training, at direct matching, which sees no labels" in verdict(record)
    write_files(made, record, tmp_path / "run")
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pdf, "figures_of", lambda record, maps: shown.append(list(maps)) or [])
        draw(tmp_path / "run")
    assert shown == [["direct matching (start)", "trained"]]


def test_only_another_dataset_is_one_that_it_was_not_trained_on(result):
    record = as_record(result, "")
    for name, said in ((record["data"]["name"], False), ("MNIST", True)):
        elsewhere = {**record, "data": {**record["data"], "name": name}}
        told = summary({**record, "elsewhere": elsewhere})
        assert f"test images of {name}" in told and ("not trained on" in told) == said


def test_two_maps_that_only_score_alike_stay_two():
    same = {"accuracy": 0.5, "loss": 1.0}
    record = {"untrained": same, "direct_matching": {**same, "loss": 1.5}}
    assert list(measured(record).values()) == ["untrained", "direct matching"]
    assert list(measured({"untrained": same, "direct_matching": None})) == ["untrained"]


def test_what_attacks_leave_nothing_of_is_a_sentence(lenets, digits):
    record = as_record(run(lenets, digits, robust_images=20), "")
    some = attacked.tables(record)
    assert [len(rows) > 1 for _, rows, _ in some] == [True, True]
    for name in NETWORKS:
        record[name]["robust"] = dict.fromkeys(record[name]["robust"], 0.0)
    (_, own, sentence), (_, moved, _) = attacked.tables(record)
    assert not own and moved
    assert "front, end, untrained, stitched, direct matching" in sentence
    assert "up to 16.1%" in sentence  # Wilson's for 0 of 20: z²/(n + z²)
    assert "every network is always wrong" in summary(record)
    for right in record["transfer"].values():
        right.update(dict.fromkeys(right, 0.0))
    assert not any(rows for _, rows, _ in attacked.tables(record))
    assert "0.00%" not in as_text(record).partition("Accuracy under attack")[2]
    record["stitched"]["robust"]["FGSM"] = 0.05
    assert attacked.tables(record)[0][1]


# The record


def test_the_record_has_the_promised_keys(result):
    record = as_record(result, "find_transform.py a b")
    keys = ["command", "params", "versions", "commit", "data", "cka", "l2", *NETWORKS]
    assert set(keys) <= set(record)
    assert record["command"] == "find_transform.py a b"
    assert record["data"]["name"] == "Digits"
    assert record["data"]["n_images"] == 60
    assert record["data"]["n_train_images"] == 256
    for name in NETWORKS:
        assert set(SCORES) <= set(record[name])
        assert set(record[name]["overlap_with_end"]) == {"rr", "rw", "wr", "ww"}
    assert record["cka"] == record["front"]["cka_to_end"]
    assert record["params"]["front_layer"] == "relu2"
    assert set(record["versions"]) >= {"torch", "python", "numpy"}
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_the_end_is_like_itself(result):
    end = as_record(result, "")["end"]
    assert end["agreement_with_end"] == end["relative_accuracy"] == 1
    assert end["cka_to_end"] == pytest.approx(1)
    assert end["logit_cka_to_end"] == pytest.approx(1)
    assert end["l2_to_end"] == end["logit_l2_to_end"] == 0
    overlap = end["overlap_with_end"]
    assert overlap["rw"] == overlap["wr"] == 0
    assert overlap["rr"] == pytest.approx(end["accuracy"])


def test_without_pinv_there_is_no_similarity(without_pinv):
    record = as_record(without_pinv, "")
    assert record["direct_matching"] is None
    assert record["cka"] is record["l2"] is None
    for name in NETWORKS[:-1]:
        for key in ("cka_to_end", "l2_to_end", "logit_cka_to_end", "logit_l2_to_end"):
            assert record[name][key] is None
        assert record[name]["accuracy"] is not None


# The files


def test_the_files_of_a_run(result, tmp_path):
    paths = write_files(result, as_record(result, ""), tmp_path / "run")
    paths["pdf"] = draw(tmp_path / "run")
    for kind, ending in {
        "matrix": ".pt",
        "frank_model": ".pt",
        "json": ".json",
        "pdf": ".pdf",
    }.items():
        assert paths[kind].parent == tmp_path / "run" / kind
        assert re.fullmatch(r"lenet-lenet_[-_\d]+", paths[kind].stem)
        assert paths[kind].suffix == ending
        assert [paths[kind]] == list(paths[kind].parent.iterdir())


def test_the_matrix_is_that_of_the_stitched_network(result, tmp_path):
    paths = write_files(result, as_record(result, ""), tmp_path / "run")
    matrix = torch.load(paths["matrix"], weights_only=True)
    frank = checkpoints.load(paths["frank_model"])
    assert torch.equal(matrix["weight"], frank.network.transform.weight)
    assert torch.equal(matrix["bias"], frank.network.transform.bias)
    assert not torch.equal(matrix["weight"], matrix["initial"]["weight"])
    assert matrix["direct_matching"]["weight"].shape == (16, 16)
    assert matrix["history"]["iteration"].tolist() == [0, 2, 4]
    assert torch.equal(matrix["history"]["weight"][-1], matrix["weight"])


def test_the_stitched_network_says_what_it_was_stitched_on(result, tmp_path):
    front, end = (replace(donor, dataset="mnist") for donor in (result.front, result.end))
    elsewhere = replace(result, front=front, end=end)  # the donors were trained on other data
    paths = write_files(elsewhere, as_record(elsewhere, ""), tmp_path / "run")
    assert checkpoints.load(paths["frank_model"]).dataset == "digits"


def test_nan_becomes_null(result, tmp_path):
    scores = {**result.scores, "stitched": replace(result.scores["stitched"], loss=math.nan)}
    scores["end"] = replace(scores["end"], l2_to_end=math.inf)
    spoilt = replace(result, measured=replace(result.measured, scores=scores))
    paths = write_files(spoilt, as_record(spoilt, ""), tmp_path / "run")
    found = strict_json(paths["json"])
    assert found["stitched"]["loss"] is None
    assert found["end"]["l2_to_end"] is None
    assert found["end"]["accuracy"] == result.scores["end"].accuracy


def test_a_run_as_a_line_of_the_csv(result, without_pinv, tmp_path):
    for made, name in ((without_pinv, "first"), (result, "second")):
        write_files(made, as_record(made, f"command {name}"), tmp_path / name)
        collect(tmp_path)
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["run"] for line in lines] == ["first", "second"]
    assert [line["command"] for line in lines] == ["command first", "command second"]
    assert [line["direct_matching.accuracy"] == "" for line in lines] == [True, False]
    for line, made in zip(lines, (without_pinv, result), strict=True):
        assert float(line["stitched.accuracy"]) == made.scores["stitched"].accuracy
        overlap = made.scores["stitched"].outputs.overlap
        assert float(line["stitched.overlap_with_end.rr"]) == overlap["rr"]
        assert (line["seed"], line["front_model"]) == ("0", "lenet")
    assert all(lines[1].values())


# The pages


@pytest.mark.parametrize("which", ["result", "without_pinv"])
def test_the_report_has_pages(which, request, tmp_path):
    made = request.getfixturevalue(which)
    made = replace(made, notes=["Signs such as < & > and α → β are no trouble."])
    record = as_record(made, "find_transform.py <a> & " + "long/" * 200)
    write_files(made, record, tmp_path / "run")
    path = draw(tmp_path / "run")
    assert path.read_bytes().startswith(b"%PDF")
    assert 1 <= pages(path) <= 6


def test_learning_curves_are_drawn_where_there_are_some(result):
    record = as_record(result, "")
    log = {"epoch": [1, 2], "test_accuracy": [0.5, 0.75]}

    def panels(epochs, *logs):
        donors = dict(zip(("front", "end"), ({"learning_curve": log} for log in logs), strict=True))
        found = curves({"curve": record["curve"][:epochs], "donors": donors})
        return found and [axes.get_title() for axes in found[0].axes]

    trained, donors = ["stitch: loss", "stitch: accuracy"], ["donors: test accuracy"]
    assert panels(2, None, None) == trained and panels(2, log, None) == trained + donors
    assert panels(1, None, log) == donors and panels(1, None, None) is None


def test_a_float_that_does_not_fit_lets_those_behind_it_go_first():
    def some(label, share):
        return sheet.Float(label, [Spacer(1, share * sheet.HEIGHT)], label)

    text = sheet.paragraph("text")
    story = [some("Figure", 0.5), some("Table", 0.7), some("Figure", 0.25), some("Chart", 0.1)]
    story += [text, some("Table", 0.1)]
    placed = list(sheet._placed(story))
    told = [part._content[-1].text if isinstance(part, KeepTogether) else "" for part in placed]
    assert [re.sub("<.*?>", "", one) for one in told] == [
        *("Figure 1. Figure", "Figure 2. Figure", "Chart 1. Chart", "Table 1. Table", ""),
        "Table 2. Table",
    ]


def test_a_front_without_accuracy_has_a_report(lenets, digits, result, tmp_path):
    blank = replace(result.scores["front"], accuracy=None, loss=None, outputs=None)
    scores = {**result.scores, "front": blank}
    made = replace(result, measured=replace(result.measured, scores=scores))
    write_files(made, as_record(made, ""), tmp_path / "run")
    assert pages(draw(tmp_path / "run")) >= 1


def test_the_pages_are_drawn_again_from_what_lies_on_disk(lenets, digits, tmp_path, monkeypatch):
    """Bit for bit, in another folder, at another time, and when the donors are gone."""
    donors = [tmp_path / str(number) / "model.pt" for number in (1, 2)]
    for path, copy in zip(lenets, donors, strict=True):
        copy.parent.mkdir()
        shutil.copy(path, copy)
        copy.with_name("training_log.csv").write_text("epoch,test_accuracy\n1,0.5\n2,0.75\n")
    made = run(donors, digits)
    write_files(made, as_record(made, ""), tmp_path / "run")
    path = draw(tmp_path / "run")
    content = path.read_bytes()
    path.unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    for copy in donors:
        shutil.rmtree(copy.parent)
    monkeypatch.setattr("time.time", lambda: 0.0)
    monkeypatch.chdir(tmp_path)
    again = draw(tmp_path / "moved")
    assert again == tmp_path / "moved" / "pdf" / path.name
    assert again.read_bytes() == content
    stamp = re.sub(r"\D", "", path.stem.split("_", 1)[1])
    assert f"/CreationDate (D:{stamp})".encode() in content


def test_the_pages_show_what_the_files_say(result, tmp_path):
    """Another number in the JSON, or another matrix, is another report."""
    paths = write_files(result, as_record(result, ""), tmp_path / "run")
    drawn = [draw(tmp_path / "run").read_bytes()]
    record = strict_json(paths["json"])
    record["stitched"]["accuracy"] = 0.123
    write_json(paths["json"], record)
    drawn.append(draw(tmp_path / "run").read_bytes())
    matrix = torch.load(paths["matrix"], weights_only=True)
    matrix["weight"][0, 0] += 1
    checkpoints.write(paths["matrix"], matrix)
    drawn.append(draw(tmp_path / "run").read_bytes())
    record["plan"] = {"kind": "stitch", "front": {"path": "a.pt"}}  # is not for people
    write_json(paths["json"], record)
    drawn.append(draw(tmp_path / "run").read_bytes())
    assert len(set(drawn[:3])) == 3 and drawn[3] == drawn[2]
    assert as_text(record) == as_text({**record, "plan": None})
    assert not any(key.startswith("plan") for key in line_of(record, "run", "now"))


def test_the_record_keeps_how_the_donors_had_learned(result, tmp_path):
    log = tmp_path / "training_log.csv"
    log.write_text("epoch,loss,test_accuracy\n1,2.5,0.25\n2,1.5,\n")
    made = replace(result, front=replace(result.front, path=tmp_path / "model.pt"))
    donors = as_record(made, "")["donors"]
    assert donors["front"]["learning_curve"] == {"epoch": [1, 2], "test_accuracy": [0.25, None]}
    assert donors["end"]["learning_curve"] is None
    for content in ("epoch,test_accuracy\n", "epoch\n1\n", "epoch,test_accuracy\na,b\n", "\0"):
        log.write_text(content)
        assert learning_curve(tmp_path / "model.pt") is None


def test_what_is_no_finished_stitch_is_told(result, tmp_path):
    folder = tmp_path / "run"
    paths = write_files(result, as_record(result, ""), folder)
    whole = {kind: path.read_bytes() for kind, path in paths.items()}

    def refused(reason):
        with pytest.raises(UserError, match=reason):
            draw(folder)
        assert not list(folder.glob("pdf/*"))
        for kind, path in paths.items():
            path.write_bytes(whole[kind])

    paths["matrix"].unlink()
    refused(r"matrix/.*\.pt does not exist")
    paths["matrix"].write_bytes(whole["matrix"][:100])
    refused(r"\.pt is no ")
    checkpoints.write(paths["matrix"], {"weight": torch.zeros(2, 2)})
    refused("holds no maps of a stitch")
    paths["json"].write_text("{")
    refused("cannot be read")
    paths["json"].write_text('{"measures": {}}')
    refused("is no report of a stitch")
    record = strict_json(paths["json"])
    del record["curve"]
    write_json(paths["json"], record)
    refused("has no 'curve'")
    second = paths["json"].with_name("second.json")
    second.write_bytes(whole["json"])
    refused("holds 2 reports")
    second.unlink()
    paths["json"].unlink()
    refused("holds 0 reports")
    assert draw(folder) == only(folder / "pdf")


def test_reports_know_no_result_objects():
    """Whatever is drawn or printed can be drawn from the files of a run: no class but those
    of errors and of names of files comes from the rest of the library, outside of reports."""
    for path in Path(report.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("robust_stitching"):
                if node.module.startswith("robust_stitching.report"):
                    continue
                classes = {n.name for n in node.names if re.match("[A-Z]+[a-z]", n.name)}
                assert classes <= {"UserError", "Names"}, f"{path.name} knows {classes}"
