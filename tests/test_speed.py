"""The claims of speed and precision: what is promised, how all of them are run, what is written."""

import ast
import importlib
import math
import re
import sys

import pytest

from conftest import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
COMMAND = re.compile(r"`(python benchmarks/[^`]*)`")


@pytest.fixture(scope="module", autouse=True)
def found():
    """The modules there, by names that are common elsewhere, for these tests alone."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    yield {name: importlib.import_module(name) for name in ("_claims", "_common", "_page", "all")}
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


@pytest.fixture
def claims(found):
    return found["_claims"]


@pytest.fixture
def page(found):
    return found["_page"]


@pytest.fixture
def run_all(found):
    return found["all"]


def a_claim(claims, name="quick", command="python -c pass", minutes=1.0, **fields):
    quantities = (claims.Quantity("ratio", 0.6, margin=0.05),)
    return claims.Claim(name, f"words of {name}", command, quantities, minutes, **fields)


# What is promised


@pytest.mark.parametrize(
    "side, value, met",
    [
        ("at most", 0.5, True),
        ("at most", 0.65, True),
        ("at most", 0.66, False),
        ("at least", 0.55, True),
        ("at least", 0.54, False),
        ("at most", math.nan, False),
        ("at least", math.nan, False),
    ],
)
def test_a_promise_is_kept_within_its_margin(claims, side, value, met):
    assert claims.Quantity("ratio", 0.6, side, 0.05001).met(value) is met


def test_a_bound_below_zero_has_its_margin_on_the_right_side(claims):
    quantity = claims.Quantity("points", -0.3, claims.LEAST, 0.1)
    assert quantity.met(-0.39) and not quantity.met(-0.41)


def test_a_number_without_a_bound_is_only_shown(claims):
    quantity = claims.Quantity("theirs", None, form="{:.0e}", label="theirs")
    assert quantity.met(math.inf) and not quantity.promise
    assert quantity.told(1e-4) == "theirs 1e-04"


def test_names_are_unique_and_promises_are_kept_by_what_they_promise(claims):
    names = [claim.name for claim in claims.CLAIMS]
    assert len(names) == len(set(names))
    for claim in claims.CLAIMS:
        bounds = {q.name: 0 if q.bound is None else q.bound for q in claim.quantities}
        assert not claim.broken(bounds) and not claim.missing(bounds)


def test_every_claim_has_a_script_that_parses_and_tells_its_quantities(claims):
    for claim in claims.CLAIMS:
        script = REPOSITORY / claim.command.split()[1]
        tree = ast.parse(script.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert "told" in names, f"{script} tells nothing"


def test_every_command_of_the_tables_is_a_claim(claims):
    known = {claim.command for claim in claims.CLAIMS}
    for name in ("README.md", "docs/speed.md"):
        for line in (REPOSITORY / name).read_text().splitlines():
            if line.startswith("|"):
                assert set(COMMAND.findall(line)) <= known, line


def test_every_script_is_a_claim_or_is_a_part_of_others(claims):
    run = {REPOSITORY / claim.command.split()[1] for claim in claims.CLAIMS}
    scripts = {path for path in BENCHMARKS.rglob("*.py") if path.name[0] != "_"}
    assert scripts - run == {BENCHMARKS / "all.py"}


@pytest.fixture
def peers(monkeypatch):
    """The scripts beside other packages find what they share."""
    monkeypatch.syspath_prepend(BENCHMARKS / "peers")
    before = set(sys.modules)
    yield importlib.import_module("_peers")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


def test_a_peer_is_asked_for_by_a_sentence(peers, capsys):
    with pytest.raises(SystemExit) as ended:
        peers.peer("no_such_module", "no-such-distribution")
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told == (
        "no-such-distribution cannot be imported; install it by pip install --no-deps -r "
        "benchmarks/peers/requirements.txt.\n"
    )


def test_a_peer_is_not_a_script_of_the_same_name(peers, tmp_path, monkeypatch):
    (tmp_path / "cka.py").write_text("installed = True")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert peers.peer("cka", "pytorch-cka").installed
    assert str(BENCHMARKS / "peers") in sys.path


def test_tools_take_turns_and_ratios_are_of_rounds(peers, monkeypatch):
    clock, calls = iter(range(1000)), []
    monkeypatch.setattr(peers, "_memory_of", lambda name, extra: 2**20)
    monkeypatch.setattr(peers.time, "perf_counter", lambda: next(clock))
    asked = peers.options("doc", 2).parse_args([])
    tools = {name: lambda name=name: calls.append(name) or len(calls) for name in ("ours", "b")}
    found = peers.side_by_side(tools, asked)
    assert calls == ["ours", "b"] * 3
    assert found.seconds == {"ours": 1, "b": 1} and found.ratios == {"b": 1}
    assert found.answers == {"ours": 5, "b": 6}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of other systems grows")
def test_memory_of_a_tool_is_what_it_takes_beyond_what_was_there(peers):
    there = bytearray(64 * 2**20)
    taken = peers.memory_taken(lambda: len(bytearray(32 * 2**20)))
    assert 30 * 2**20 < taken < 40 * 2**20 and there


def test_every_peer_of_a_claim_is_pinned(claims):
    text = (BENCHMARKS / "peers/requirements.txt").read_text()
    pinned = set(re.findall(r"^([\w-]+)==", text, re.MULTILINE))
    assert {peer for claim in claims.CLAIMS for peer in claim.peers} <= pinned


# What is told


def test_quantities_are_read_from_the_last_line(found, capsys):
    print("ratio 3 (median)")
    found["_common"].told(ratio=1.05, difference=3e-9, same=True)
    output = capsys.readouterr().out
    assert output.endswith("claim: ratio=1.05 difference=3e-09 same=1\n")
    read = found["_common"].quantities(output)
    assert read == {"ratio": 1.05, "difference": 3e-9, "same": 1.0}
    assert found["_common"].quantities(output + "more\n") == {}
    assert found["_common"].quantities("") == {}


# What is written


def test_the_pages_are_what_the_results_say(claims, page, run_all):
    results = run_all.read(run_all.RESULTS)
    assert (REPOSITORY / "docs/speed.md").read_text() == page.page(results)
    text = (REPOSITORY / "README.md").read_text()
    assert text == page.readme(text, results, claims.CLAIMS)


def test_a_row_has_its_promise_its_number_and_where_it_comes_from(claims, page):
    rows = [a_claim(claims, "old"), a_claim(claims, "new"), a_claim(claims, "never", minutes=7)]
    peer = a_claim(claims, "peer", peers=("torchattacks",))
    where = {"machine": "a machine", "versions": "Python 3.12"}
    results = {
        "old": page.Result({"ratio": 0.5}, note="on a quiet machine"),
        "new": page.Result({"ratio": 0.7}, 0.5, "2026-01-02", "abc1234", load=1.5, **where),
        "peer": page.Result(
            {"ratio": 0.1}, 3.2, "2026-01-03", "abc1235+", peers={"torchattacks": "3.5.1"}, **where
        ),
    }
    written = page.page(results, rows, (peer,))
    own, _, beside = written.partition("## Beside other packages")
    command = "`python -c pass` |"
    assert (
        f"| words of old | at most 0.60 | 0.50 | 60 s | earlier, on a quiet machine | {command}"
        in own
    )
    when = "A, 2026-01-02, `abc1234`, load 1.5"
    assert f"| words of new | at most 0.60 | **0.70: not kept** | 30 s | {when} | {command}" in own
    assert f"| words of never | at most 0.60 | not yet | 7 min |  | {command}" in own
    assert "3 min | A, 2026-01-03, `abc1235+`, torchattacks 3.5.1 |" in beside
    assert written.endswith("- A: a machine; Python 3.12\n")


def test_the_readme_keeps_everything_but_its_table(claims, page):
    rows = [a_claim(claims, "told", in_readme=True), a_claim(claims, "untold")]
    text = f"# Title\n\n{page.README_HEAD}\n| --- |\n| old | row |\n\nEnd\n"
    written = page.readme(text, {}, rows)
    assert written.startswith("# Title\n\n") and written.endswith("|\n\nEnd\n")
    assert "words of told | at most 0.60 | not yet" in written
    assert "untold" not in written and "| old |" not in written
    with pytest.raises(ValueError, match="no table"):
        page.readme("# Title\n", {}, rows)


def test_links_of_a_page_of_docs_are_turned_for_the_readme(page):
    assert page.in_readme("all ([maps.md](maps.md))") == "all ([maps.md](docs/maps.md))"


# How they are run


def test_a_failing_script_stops_no_other_and_is_named(claims, page, run_all, tmp_path, capsys):
    scripts = {
        "good": "print('half'); print('claim: ratio=0.5')",
        "bad": "import sys; print('claim: ratio=0.1'); sys.exit(3)",
        "silent": "print('ratio 0.5')",
        "slow": "print('claim: ratio=0.9')",
    }
    chosen = []
    for name, code in scripts.items():
        (tmp_path / f"{name}.py").write_text(code)
        chosen.append(a_claim(claims, name, f"python {tmp_path / name}.py"))
    chosen.append(a_claim(claims, "unmeasured", f"python there.py {claims.PHOTOGRAPHS}"))
    chosen.append(a_claim(claims, "lonely", peers=("no-such-distribution",)))
    before = page.Result({"ratio": 0.4})
    results, kept = {"bad": before, "lonely": before}, []
    status = run_all.measured(chosen, results, None, write=lambda now: kept.append(set(now)))
    assert status == 1
    assert results["bad"] is before and results["lonely"] is before
    assert results["good"].values == {"ratio": 0.5} and results["good"].commit
    assert kept == [{"good"}, {"slow"}]  # each beside what lies there already
    out = capsys.readouterr().out
    assert "[1/6] good, about 1 min: python " in out and "    half\n" in out
    *_, alone, without, bad, silent, slow, last = out.splitlines()
    assert alone.startswith("unmeasured: left out, it needs --photographs")
    assert without.startswith("lonely: left out, not installed: no-such-distribution (pip install")
    assert bad.startswith("bad: failed, exit status 3: python ")
    assert silent.startswith("silent: failed, it told nothing of ratio: python ")
    assert slow == "slow: not kept, ratio 0.90, at most 0.60"
    assert last == "4 of 6 claims run, 3 complaints."


def test_all_that_is_well_ends_well(claims, run_all, tmp_path):
    (tmp_path / "good.py").write_text("import sys; print('claim: ratio=' + sys.argv[1])")
    command = f"python {tmp_path / 'good.py'} {claims.PHOTOGRAPHS}"
    chosen = [a_claim(claims, "good", command)]
    results = {}
    assert run_all.measured(chosen, results, "0.6", write=lambda now: None) == 0
    assert results["good"].values == {"ratio": 0.6}


def test_results_survive_their_file(page, run_all, tmp_path):
    result = page.Result({"ratio": 0.5}, 1.5, "2026-01-02", "abc", "m", "v", {"p": "1"}, 0.0)
    path = tmp_path / "results.json"
    path.write_text(run_all.json.dumps({"a": result.plain(), "b": page.Result({"x": 1}).plain()}))
    assert run_all.read(path) == {"a": result, "b": page.Result({"x": 1})}
    assert run_all.read(tmp_path / "none.json") == {}


def test_which_are_run(claims, run_all, monkeypatch, capsys):
    chosen = []
    monkeypatch.setattr(run_all, "measured", lambda some, *rest: chosen.append(some) or 0)
    assert run_all.main(["--quick"]) == 0
    assert chosen[0] and all(claim.minutes <= claims.QUICK_MINUTES for claim in chosen[0])
    run_all.main(["--only", "sweep", "grid"])
    assert {claim.name for claim in chosen[1]} == {"sweep", "grid"}
    run_all.main([])
    assert chosen[2] == list(claims.CLAIMS)
    assert run_all.main(["--list"]) == 0
    assert all(claim.command in capsys.readouterr().out for claim in claims.CLAIMS[:1])
    for wrong in (["--only", "nothing"], ["--photographs", "no/such/folder"]):
        with pytest.raises(SystemExit) as ended:
            run_all.main(wrong)
        assert ended.value.code == 2
    assert "no/such/folder has no folders train/ and test/" in capsys.readouterr().err


def test_numbers_that_are_none_keep_no_promise(found, claims):
    common = found["_common"]
    for output in ("claim: ratio=abc", "claim: ratio", "claim ratio=1", ""):
        assert common.quantities(output) == {}
    promised = claims.ratio(1, 0.5)
    assert [promised.met(value) for value in (0.9, 1.4, 1.6, 0, -1)] == [True, True, *[False] * 3]
    assert not promised.met(float("nan")) and not promised.met(-float("inf"))
    assert promised.strictly(0.9) and not promised.strictly(1.4)


def test_results_of_two_runs_at_once_are_both_kept(run_all, page, monkeypatch, tmp_path):
    for name in ("RESULTS", "PAGE", "README"):
        monkeypatch.setattr(run_all, name, tmp_path / name)
    (tmp_path / "README").write_text(f"{page.README_HEAD}\n| --- |\n")
    run_all.written({"cka": page.Result({"difference": 1e-9})})
    run_all.written({"graph": page.Result({"new": 0.1})})
    assert set(run_all.read(tmp_path / "RESULTS")) == {"cka", "graph"}
    (tmp_path / "RESULTS").write_text('{"cka": ')
    with pytest.raises(SystemExit, match="holds no results"):
        run_all.read(tmp_path / "RESULTS")
