"""What a run leaves behind: table, JSON, CSV, PDF, matrix."""

import csv
import json
import math
import re
from dataclasses import replace

import pytest
import torch

from robust_stitching import checkpoints
from robust_stitching.report import write
from robust_stitching.report.collected import collect
from robust_stitching.report.figures import donor_log
from robust_stitching.report.record import as_record
from robust_stitching.report.table import aligned, as_text, rows, shown
from robust_stitching.report.write import write_results
from robust_stitching.stitching.run import StitchConfig, stitch

NETWORKS = ["front", "end", "untrained", "stitched", "direct_matching"]
SCORES = [
    *("accuracy", "loss", "agreement_with_end", "relative_accuracy", "cross_entropy_to_end"),
    *("cka_to_end", "l2_to_end", "logit_cka_to_end", "logit_l2_to_end", "overlap_with_end"),
]


def run(lenets, digits, **options):
    front, end = map(checkpoints.load, lenets)
    train, test = digits[0].between(0, 256), digits[1].between(0, 60)
    config = StitchConfig("relu2", "relu2", epochs=2, save_frequency=1, **options)
    return stitch(front, end, train, test, config)


@pytest.fixture(scope="module")
def result(lenets, digits):
    return run(lenets, digits)


@pytest.fixture(scope="module")
def without_pinv(lenets, digits):
    return run(lenets, digits, no_pinv=True)


@pytest.fixture
def no_pdf(monkeypatch):
    """Spare the pages where a test is about the other files."""
    monkeypatch.setattr(write, "write_pdf", lambda path, *rest: path.write_bytes(b"%PDF"))


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
    assert json.loads(json.dumps(record)) == json.loads(json.dumps(record, default=str))


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


def test_the_files_of_a_run(result, tmp_path, no_pdf):
    paths = write_results(result, as_record(result, ""), tmp_path / "run")
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


def test_the_matrix_is_that_of_the_stitched_network(result, tmp_path, no_pdf):
    paths = write_results(result, as_record(result, ""), tmp_path / "run")
    matrix = torch.load(paths["matrix"], weights_only=True)
    frank = checkpoints.load(paths["frank_model"])
    assert torch.equal(matrix["weight"], frank.network.transform.weight)
    assert torch.equal(matrix["bias"], frank.network.transform.bias)
    assert not torch.equal(matrix["weight"], matrix["initial"]["weight"])
    assert matrix["direct_matching"]["weight"].shape == (16, 16)
    assert matrix["history"]["iteration"].tolist() == [0, 2, 4]
    assert torch.equal(matrix["history"]["weight"][-1], matrix["weight"])


def test_the_stitched_network_says_what_it_was_stitched_on(result, tmp_path, no_pdf):
    front, end = (replace(donor, dataset="mnist") for donor in (result.front, result.end))
    elsewhere = replace(result, front=front, end=end)  # the donors were trained on other data
    paths = write_results(elsewhere, as_record(elsewhere, ""), tmp_path / "run")
    assert checkpoints.load(paths["frank_model"]).dataset == "digits"


def test_nan_becomes_null(result, tmp_path, no_pdf):
    scores = {**result.scores, "stitched": replace(result.scores["stitched"], loss=math.nan)}
    scores["end"] = replace(scores["end"], l2_to_end=math.inf)
    spoilt = replace(result, measured=replace(result.measured, scores=scores))
    paths = write_results(spoilt, as_record(spoilt, ""), tmp_path / "run")

    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads(paths["json"].read_text(), parse_constant=refuse)
    assert found["stitched"]["loss"] is None
    assert found["end"]["l2_to_end"] is None
    assert found["end"]["accuracy"] == result.scores["end"].accuracy


def test_a_run_as_a_line_of_the_csv(result, without_pinv, tmp_path, no_pdf):
    for made, name in ((without_pinv, "first"), (result, "second")):
        write_results(made, as_record(made, f"command {name}"), tmp_path / name)
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
    path = write_results(made, record, tmp_path / "run")["pdf"]
    assert path.read_bytes().startswith(b"%PDF")
    assert 1 <= pages(path) <= 6


def test_a_front_without_accuracy_has_a_report(lenets, digits, result, tmp_path):
    blank = replace(result.scores["front"], accuracy=None, loss=None, outputs=None)
    scores = {**result.scores, "front": blank}
    made = replace(result, measured=replace(result.measured, scores=scores))
    path = write_results(made, as_record(made, ""), tmp_path / "run")["pdf"]
    assert pages(path) >= 1


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("epoch,x,test_accuracy\n1,0.5,0.25\n2,0.5,1e-1\n", [(1, 0.25), (2, 0.1)]),
        ("test_accuracy,epoch\n,3\n0.5,4\n", [(3, math.nan), (4, 0.5)]),
        ("epoch,test_accuracy\n", None),
        ("epoch,loss\n1,0.5\n", None),
        ("epoch,test_accuracy\n1\n\n,0.5\n", None),
        ("epoch,test_accuracy\none,0.5\n", None),
        ("", None),
        ("\0,\n\0", None),
        ("epoch,test_accuracy\n1,\udcff", None),
    ],
)
def test_the_log_of_a_donor_is_drawn_if_it_can_be_read(written, read, tmp_path):
    log = tmp_path / "training_log.csv"
    log.write_text(written, encoding="utf-8", errors="surrogateescape")
    found = donor_log(tmp_path / "model.pt")
    expected = read and [{"epoch": n, "test_accuracy": share} for n, share in read]
    assert str(found) == str(expected)


def test_a_donor_without_a_log_is_drawn_without(tmp_path):
    assert donor_log(tmp_path / "model.pt") is None
