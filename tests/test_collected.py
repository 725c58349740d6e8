"""results.csv: a line for each run, from its JSON; nothing is lost, whoever writes it and how."""

import csv
import json
import threading
from multiprocessing import get_context

import pandas as pd
import pytest

from killed import done_elsewhere, killed_before
from records import leave, record_of
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import write_json
from robust_stitching.basics.locks import Locked, locked
from robust_stitching.report.collected import collect, line_of

HEADING = [
    *("run", "time", "front", "end", "front_model", "end_model", "front_layer", "end_layer"),
    *("dataset", "seed", "n_images", "epochs", "flatten", "cka", "front.accuracy"),
    *("front.overlap_with_end.rr", "end.accuracy", "end.overlap_with_end.rr"),
    *("untrained.accuracy", "untrained.overlap_with_end.rr", "stitched.accuracy"),
    *("stitched.overlap_with_end.rr", "command"),
]


def lines_of(folder):
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def runs_in(folder):
    return [line["run"] for line in lines_of(folder)]


def heading_of(folder):
    return (folder / "results.csv").read_text().splitlines()[0].split(",")


# What a line has


def test_the_columns_of_a_line(tmp_path):
    leave(tmp_path, "a", accuracy=1 / 3)
    found = collect(tmp_path)
    assert (found.added, found.aside, found.unreadable) == (["a"], None, [])
    assert heading_of(tmp_path) == HEADING
    (line,) = lines_of(tmp_path)
    assert (line["run"], line["time"], line["seed"]) == ("a", "2026-01-02 03:04:05", "7")
    assert (line["front_model"], line["end_model"]) == ("lenet", "tiny10")
    assert (line["flatten"], float(line["stitched.accuracy"])) == ("False", 1 / 3)
    assert all(line.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "results.csv"]


def test_new_columns_go_behind_the_others(tmp_path):
    leave(tmp_path, "a")
    collect(tmp_path)
    leave(tmp_path, "b", low_rank=3, adversary={"kind": "madry", "epsilon": 0.1})
    collect(tmp_path)
    leave(tmp_path, "c")
    collect(tmp_path)
    assert heading_of(tmp_path) == [*HEADING, "low_rank", "adversary.kind", "adversary.epsilon"]
    assert runs_in(tmp_path) == ["a", "b", "c"]
    assert [line["low_rank"] for line in lines_of(tmp_path)] == ["", "3", ""]
    assert {line["command"] for line in lines_of(tmp_path)} == {record_of()["command"]}


def test_a_table_that_is_made_again_has_its_columns_in_order(tmp_path):
    leave(tmp_path, "b", "2026-01-02_03-04-06", low_rank=3)
    path = leave(tmp_path, "a", "2026-01-02_03-04-05", rank=1)
    record = json.loads(path.read_text())
    record["elsewhere"] = {"data": {"name": "MNIST"}, "cka": 0.5, "front": {"accuracy": 0.25}}
    write_json(path, record)
    collect(tmp_path)
    assert runs_in(tmp_path) == ["a", "b"]  # the older first
    heading = heading_of(tmp_path)
    assert heading.index("eval_dataset") == heading.index("dataset") + 1
    assert heading[heading.index("epochs") : heading.index("cka")] == [
        *("epochs", "low_rank", "flatten", "rank"),
    ]
    assert heading[-3:] == ["elsewhere.cka", "elsewhere.front.accuracy", "command"]
    before = (tmp_path / "results.csv").read_bytes()
    (tmp_path / "results.csv").unlink()
    collect(tmp_path)
    assert (tmp_path / "results.csv").read_bytes() == before


def test_intervals_have_two_columns():
    record = record_of()
    record["stitched"] = {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "histogram": [1, 2, 3]}
    record["random_fronts"] = [0.25, 0.5]
    line = line_of(record, "a", "")
    assert line["random_fronts.mean"] == "0.375"
    assert line["stitched.accuracy_interval.low"] == "0.4"
    assert line["stitched.accuracy_interval.high"] == "0.6"
    assert not [column for column in line if "histogram" in column]


# Which runs have one


def test_only_finished_stitches_have_lines(tmp_path):
    leave(tmp_path, "run")
    leave(tmp_path, "debugging", debug=True)
    leave(tmp_path, ".other.unfinished")
    leave(tmp_path / "sweep", "deeper")
    write_json(tmp_path / "compared" / "json" / "lenet-lenet.json", {"measures": {}, "params": {}})
    (tmp_path / "broken" / "json").mkdir(parents=True)
    (tmp_path / "broken" / "json" / "x_2026-01-02_03-04-05.json").write_text('{"params"')
    (tmp_path / "empty").mkdir()
    foreign = {key: {} for key in ("params", "donors", "data", "stitched")}
    write_json(tmp_path / "foreign" / "json" / "x.json", foreign)
    write_json(tmp_path / "list" / "json" / "x.json", [1])
    found = collect(tmp_path)
    assert runs_in(tmp_path) == found.added == ["run"]
    assert {path.parents[1].name for path in found.unreadable} == {"broken", "foreign"}


def test_every_run_that_has_no_line_gets_one(tmp_path):
    for second, name in enumerate("cab"):
        leave(tmp_path, name, f"2026-01-02_03-04-0{second}")
    collect(tmp_path)
    assert runs_in(tmp_path) == ["c", "a", "b"]
    assert collect(tmp_path).added == []
    assert runs_in(tmp_path) == ["c", "a", "b"]


def test_a_name_that_is_used_again_has_two_lines(tmp_path):
    path = leave(tmp_path, "a", "2026-01-02_03-04-05", accuracy=0.25)
    collect(tmp_path)
    path.unlink()
    leave(tmp_path, "a", "2026-01-03_00-00-00", accuracy=0.75)
    assert collect(tmp_path).added == ["a"]
    assert collect(tmp_path).added == []
    assert [line["stitched.accuracy"] for line in lines_of(tmp_path)] == ["0.25", "0.75"]


@pytest.mark.parametrize("name", ["NA", "nan", "null", "007", "1e3"])
def test_words_stay_as_they_are(name, tmp_path):
    leave(tmp_path, name)
    collect(tmp_path)
    leave(tmp_path, "second", "2026-01-02_03-04-06")
    collect(tmp_path)
    assert runs_in(tmp_path) == [name, "second"]


# Tables that were there


OLD = (
    "run,time,front,end,dataset,n_images,front_layer,seed,low_rank,cka,command\n"
    'gone,2025-01-01 00:00:00,"x, y.pt",b.pt,Digits,360,relu1,0,,0.1,find_transform.py\n'
    "a,2026-01-02 03:04:09,a.pt,b.pt,Digits,360,relu1,0,,0.75,find_transform.py\n"
)


def test_an_older_table_is_gone_on_with(tmp_path):
    (tmp_path / "results.csv").write_text(OLD)
    leave(tmp_path, "a")  # its line was written four seconds after its JSON
    leave(tmp_path, "b")
    assert collect(tmp_path).added == ["b"]
    text = (tmp_path / "results.csv").read_text()
    heading = [*OLD.split("\n")[0].split(","), "end_model"]
    assert [c for c in heading_of(tmp_path) if c in heading] == heading
    assert text.splitlines()[1].startswith(OLD.splitlines()[1])
    assert [(line["run"], line["front_model"]) for line in lines_of(tmp_path)] == [
        *(("gone", ""), ("a", ""), ("b", "lenet")),
    ]
    assert lines_of(tmp_path)[0]["front"] == "x, y.pt"


def test_what_users_add_stays(tmp_path):
    """A column and a line of their own, in the way that a spreadsheet writes them."""
    leave(tmp_path, "a")
    collect(tmp_path)
    path = tmp_path / "results.csv"
    table = pd.read_csv(path, dtype=str)
    table["remark"] = "good, é"
    table = pd.concat([table, pd.DataFrame([{"run": "by hand", "remark": "line\nbreak"}])])
    table.to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n")
    leave(tmp_path, "b", "2026-01-02_03-04-06")
    collect(tmp_path)
    lines = lines_of(tmp_path)
    assert [(line["run"], line["remark"]) for line in lines] == [
        *(("a", "good, é"), ("by hand", "line\nbreak"), ("b", "")),
    ]


def test_bytes_that_are_no_text_stay(tmp_path):
    path = tmp_path / "results.csv"
    path.write_bytes(b"run,time,remark\nx,y,caf\xe9\n")
    leave(tmp_path, "b\udce9", "2026-01-02_03-04-06")
    collect(tmp_path)
    assert b"\nx,y,caf\xe9," in path.read_bytes() and b"\nb\xe9," in path.read_bytes()


@pytest.mark.parametrize("empty", ["", "\n", "\ufeff"])
def test_an_empty_table_is_begun_anew(empty, tmp_path):
    (tmp_path / "results.csv").write_text(empty, encoding="utf-8")
    leave(tmp_path, "a")
    collect(tmp_path)
    assert heading_of(tmp_path) == HEADING and runs_in(tmp_path) == ["a"]


def test_half_lines_are_put_aside_and_made_again(tmp_path):
    for second, name in enumerate("abc"):
        leave(tmp_path, name, f"2026-01-02_03-04-0{second}")
    collect(tmp_path)
    path = tmp_path / "results.csv"
    whole = path.read_text()
    half = whole[: whole.index("\nc,") + 40]
    path.write_text(half)
    found = collect(tmp_path)
    assert path.read_text() == whole
    assert found.aside.read_text() == half and found.added == ["c"]
    assert found.aside.parent == tmp_path and found.aside.name.startswith("results-20")


@pytest.mark.parametrize(
    "content",
    [
        *(b"a,b\n1,2\n", b"run;time;front\n1;2;3\n", b"run,run\n1,2\n", b"\x89PNG\r\n\x1a\n\0\0"),
        *(b'run,"time\n1,2\n', b"hello\n", bytes(range(256))),
    ],
)
def test_another_file_of_that_name_is_refused_and_stays(content, tmp_path):
    path = tmp_path / "results.csv"
    path.write_bytes(content)
    leave(tmp_path, "a")
    with pytest.raises(UserError, match=r"results\.csv is no table .*move it away"):
        collect(tmp_path)
    assert path.read_bytes() == content
    collect(tmp_path, anew=True)
    (aside,) = tmp_path.glob("results-20*.csv")
    assert aside.read_bytes() == content and runs_in(tmp_path) == ["a"]


def test_a_folder_of_that_name(tmp_path):
    (tmp_path / "results.csv").mkdir()
    with pytest.raises(UserError, match="is no table"):
        collect(tmp_path)


def test_the_command(tmp_path, call_script):
    leave(tmp_path, "a")
    broken = leave(tmp_path, "b")
    broken.write_text("{")
    done = call_script("collect_results.py", tmp_path)
    assert (done.status, done.err) == (0, "")
    assert done.out == (
        f"left out: {broken} cannot be read\n1 line added to {tmp_path / 'results.csv'}\n"
    )
    assert "0 lines added" in call_script("collect_results.py", tmp_path).out
    done = call_script("collect_results.py", tmp_path, "--anew")
    assert "the earlier table is in" in done.out and "1 line added" in done.out
    assert len(list(tmp_path.glob("results-20*.csv"))) == 1 and runs_in(tmp_path) == ["a"]
    assert "no stitching runs" in call_script("collect_results.py", tmp_path / "a").out
    done = call_script("collect_results.py", tmp_path / "nowhere")
    assert done.status == 2 and "nowhere is no folder" in done.err


# Many at a time


def one_of_many(folder, i, go):
    go.wait()
    leave(folder, f"run{i}", f"2026-01-02_03-04-0{i}", **{f"option{i}": i})
    collect(folder)


def test_many_writers_of_a_new_table_lose_nothing(tmp_path):
    context = get_context("fork")
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        go = context.Event()
        crowd = [context.Process(target=one_of_many, args=(folder, i, go)) for i in range(6)]
        for process in crowd:
            process.start()
        go.set()
        for process in crowd:
            process.join()
            assert process.exitcode == 0
        assert sorted(runs_in(folder)) == [f"run{i}" for i in range(6)]
        assert {f"option{i}" for i in range(6)} <= set(heading_of(folder))
        for line in lines_of(folder):
            i = line["run"][-1]
            assert line[f"option{i}"] == i


def test_a_table_is_read_and_written_under_the_lock(tmp_path):
    leave(tmp_path, "a")
    with locked(tmp_path):
        with pytest.raises(Locked):
            collect(tmp_path, wait=0)
        other = threading.Thread(target=collect, args=(tmp_path,))
        other.start()
        leave(tmp_path, "b", "2026-01-02_03-04-06")
    other.join()
    assert runs_in(tmp_path) == ["a", "b"]


def test_killed_at_any_moment_it_is_whole(tmp_path):
    step = 0
    while True:
        step += 1
        folder = tmp_path / str(step)
        leave(folder, "a")
        collect(folder)
        before = (folder / "results.csv").read_bytes()
        leave(folder, "b", "2026-01-02_03-04-06", low_rank=2)
        killed = killed_before(step, folder, lambda folder=folder: collect(folder))
        after = (folder / "results.csv").read_bytes()
        assert after == before or runs_in(folder) == ["a", "b"]
        if not killed:
            break
        done_elsewhere(folder, lambda folder=folder: collect(folder))
        assert runs_in(folder) == ["a", "b"]
    assert step > 10
