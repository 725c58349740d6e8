"""What a sweep looks at before it begins, and what it says of folders that it cannot use."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from digit_folders import write_digits
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import NotWritten, write_json
from robust_stitching.command_line import sweeping
from robust_stitching.plans.places import UNITS
from robust_stitching.plans.sweep import read
from robust_stitching.runs import sweep as sweeps
from robust_stitching.runs import unit as units
from robust_stitching.runs.engines import Ended, ended
from robust_stitching.runs.standing import diverged
from robust_stitching.runs.sweep import Resolved
from robust_stitching.runs.units import Unit, units_in

PLAN = """
dataset = "digits"
pairs = [["A", "B"]]
layers = [["relu1", "relu2"]]
no_robustness = true
{}
[networks]
A = "{}"
B = "{}"
{}
"""
TRAINED = 'C = {{ model = "lenet", epochs = {} }}'


@pytest.fixture
def resolved(lenets, tmp_path):
    """A sweep that was looked at."""

    def look(top="", network="", files=lenets):
        path = tmp_path / "plan.toml"
        path.write_text(PLAN.format(top, *files, network))
        return Resolved(read(path), tmp_path / "out")

    return look


@pytest.fixture
def prepared(resolved):
    """The folder of a sweep of one pair."""
    sweep = resolved()
    sweep.prepare()
    return sweep.folder


def test_each_pair_has_a_unit_of_its_own_however_networks_are_called(lenets, tmp_path):
    path = tmp_path / "plan.toml"
    long = ["a" * 80, "b" * 80]
    networks = "\n".join(f'{key} = "{lenets[0]}"' for key in ("a-b", "c", "a", "b-c", *long))
    pairs = [["a-b", "c"], ["a", "b-c"], long]
    path.write_text(
        f'dataset = "digits"\npairs = {pairs}\nlayers = ["relu1"]\n[networks]\n{networks}'
    )
    sweep = Resolved(read(path), tmp_path / "out")
    sweep.prepare()
    found = {(unit.about["front"], unit.about["end"]): unit.name for unit in units_in(sweep.folder)}
    assert found.keys() == {*map(tuple, pairs)}
    assert found["a-b", "c"].rpartition("-")[0] == "a-b-c"
    assert found[tuple(long)].rpartition("-")[0] == "-".join(long)


# What cannot be done


@pytest.mark.parametrize(
    ("top", "told"),
    [
        ("low_rank = 999", "low_rank=999 is more than a matrix of"),
        ('init = "eye"', "init='eye'"),
        ("cka_reg = 0.1\nbatch_size = 1", "needs at least"),
    ],
)
def test_mistakes_are_found_before_anything_is_begun(top, told, resolved):
    with pytest.raises(UserError, match=told):
        resolved(top)


def test_a_dataset_to_measure_on_has_as_many_classes(resolved, digits, tmp_path):
    folder = tmp_path / "few"
    write_digits(folder, digits)
    for part in ("train", "test"):
        for path in (folder / part / "9").iterdir():
            path.unlink()
        (folder / part / "9").rmdir()
    with pytest.raises(UserError, match=r"tells 10 classes apart, but .* has 9"):
        resolved('eval_dataset = "few"')


# Folders of other sweeps


def test_a_network_that_is_trained_otherwise_is_told(resolved):
    """Also one that no pair has."""
    resolved(network=TRAINED.format(1)).prepare()
    resolved(network=TRAINED.format(1)).require_own()
    with pytest.raises(UserError, match="is of another sweep, which has C"):
        resolved(network=TRAINED.format(2)).require_own()


def test_a_file_of_a_network_that_changed_is_named(resolved, prepared, lenets):
    told = "the file of the network B holds another network than when the units there were planned"
    with pytest.raises(UserError, match=told) as refused:
        resolved(files=(lenets[0], lenets[0])).require_own()
    assert "network A" not in str(refused.value)


def test_images_that_changed_are_named(resolved, prepared):
    sweep = resolved()
    for number, unit in enumerate(sweep.units):
        data = replace(unit.plan.dataset, hash="other")
        plan = replace(unit.plan, dataset=data)
        sweep.units[number] = replace(unit, name=f"other{number}", plan=plan)
    with pytest.raises(UserError, match=r"\(the dataset digits holds other images than when"):
        sweep.require_own()


# Damaged files


@pytest.mark.parametrize("text", ["", '{"plan": {}, "un', "[]", '{"plan": {}}'])
def test_a_plan_that_is_damaged(text, resolved, prepared):
    (path,) = (prepared / "plans" / UNITS).iterdir()
    path.write_text(text)
    told = f"{path} cannot be read .*; remove it, and run the sweep again."
    for look in (resolved().require_own, lambda: units_in(prepared)):
        with pytest.raises(UserError, match=told):
            look()
    path.unlink()
    resolved().prepare()
    assert len(units_in(prepared)) == 1


def test_a_result_that_is_damaged(prepared):
    (unit,) = units_in(prepared)
    path = unit.folder / "json" / "x.json"
    write_json(path, {"cells": []})
    path.write_text(path.read_text()[:5])
    told = f"{path} cannot be read .*; remove {unit.folder}, and run the sweep again."
    for look in (lambda: diverged([unit]), lambda: sweeping.gather(prepared)):
        with pytest.raises(UserError, match=told):
            look()
    path.write_text("{}")
    with pytest.raises(UserError, match="is no result of a unit"):
        sweeping.gather(prepared)


def test_what_is_whole_and_not_what_it_should_be_is_told_in_a_sentence(prepared):
    (unit,) = units_in(prepared)
    record = unit.folder / "json" / "x.json"
    wrong = {
        '{"plan": {}, "cells": [{}]}': ("lacks", "lacks 'front_layer'"),
        '{"cells": null}': ("lacks 'front_layers'", "'cells' is no list"),
        '{"cells": [{"front_layer": 1, "end_layer": "b"}]}': ("lacks", r"'front_layer' is 1"),
        '{"measures": {}}': ("lacks 'layers1'", None),
        '{"cells": [{"front_layer": "a", "end_layer": "b", "error": null}, 3]}': (
            "lacks",
            r"'cells' has 3|'cells'",
        ),
        '{"cells": []}': ("lacks", None),
    }
    told = f"{record} cannot be read \\({{}}\\); remove {unit.folder}, and run the sweep again."
    for text, (gathered, looked_at) in wrong.items():
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(text)
        with pytest.raises(UserError, match=told.format(f".*{gathered}.*")):
            sweeping.gather(prepared)
        if looked_at is not None:
            with pytest.raises(UserError, match=told.format(f".*{looked_at}.*")):
                diverged([unit])
    record.unlink()
    for text in ('{"seconds": "x"}', '{"seconds": 1, "error": 3}', "null"):
        unit.folder.with_name(f".{unit.name}.ended.json").write_text(text)
        assert sweeping.status(prepared).split()[-5:] == ["0", "0", "0", "1", "–"]
    for text, told in (
        ('{"plan": {"kind": "grid"}, "unit": {}}', "'unit' lacks 'needs'"),
        ('{"plan": {}, "unit": null}', "'unit' is no table"),
        ('{"plan": {}, "unit": {"needs": 3, "parameters": 1}}', "'needs' is no list"),
        ('{"plan": {}, "unit": {"needs": [], "parameters": 1}}', None),
    ):
        unit.plan_file.write_text(text)
        if told is not None:
            with pytest.raises(UserError, match=f"cannot be read .{told}.; remove it, and run"):
                sweeping.status(prepared)
    with pytest.raises(UserError, match="'unit' lacks 'number'"):
        sweeping.gather(prepared)


# A full disk


def refuse(*args):
    raise NotWritten("no space")


def test_what_failed_is_told_where_its_end_cannot_be_noted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(units, "note_end", refuse)
    args = SimpleNamespace(plan=tmp_path / "none.json", folder=tmp_path / "u", threads=1)
    assert units._status_of(args) == 2
    unit = Unit(tmp_path, UNITS, "u")
    assert ended(unit, 2).error == "its process ended with status 2"
    unit.log.parent.mkdir()
    unit.log.write_text(f"before\n{capsys.readouterr().err}\n")
    told = "its process ended with status 2, and said last: the plan "
    assert ended(unit, 2).error.startswith(told) and "none.json" in ended(unit, 2).error
    assert ended(unit, -9).error == "its process was ended by SIGKILL"


class Failing:
    """An engine whose units fail but for one."""

    orders = False

    def room(self):
        return 9

    def submit(self, given):
        self.given = given

    def wait(self, seconds):
        write_json(self.given[0].folder / "json" / "x.json", {"cells": []})
        return [Ended(unit, again=False) for unit in self.given]


@pytest.mark.parametrize("error", [NotWritten("no space"), OSError("no space")])
def test_what_failed_counts_where_nothing_can_be_gathered(error, tmp_path, monkeypatch, capsys):
    def gather(folder):
        raise error

    monkeypatch.setattr(sweeping, "gather", gather)
    some = [Unit(tmp_path, UNITS, name) for name in ("u0", "u1")]
    sweep = SimpleNamespace(units=some, folder=tmp_path)
    assert sweeping.carry_out(sweep, Failing(), 0, wait=True)
    err = capsys.readouterr().err
    assert "failed: u1: it ended without a result" in err and "no space" in err
    with pytest.raises(type(error)):
        sweeping.carry_out(SimpleNamespace(units=some[:1], folder=tmp_path), Failing(), 0, True)


def test_what_invariant_images_exclude_is_told_before_a_unit_begins(resolved):
    plan = resolved('images = "invariant"\nobjective = "fula"').units[0].plan
    assert plan.images == "invariant" and plan.no_bn
    with pytest.raises(UserError, match="which no attack would leave them; leave `madry`"):
        resolved('images = ["real", "invariant"]\nmadry = true')


def test_a_folder_in_the_making_is_no_other_sweep(resolved):
    """As one that is killed early leaves it, and as another process makes it meanwhile."""
    sweep = resolved()
    (sweep.folder / "plans" / "networks").mkdir(parents=True)
    sweep.require_own()
    sweep.prepare()
    assert units_in(sweep.folder)


def test_who_makes_the_folder_meanwhile_is_no_other_sweep(resolved, monkeypatch):
    sweep, other = resolved(), resolved()
    look = sweeps.units_in

    def meanwhile(folder):
        found = look(folder)
        monkeypatch.setattr(sweeps, "units_in", look)
        other.prepare()
        return found

    monkeypatch.setattr(sweeps, "units_in", meanwhile)
    sweep.require_own()
    assert units_in(sweep.folder)
    sweep.require_own()


def test_a_permutation_of_unequal_channels_is_refused_before_any_work(resolved, lenets, tmp_path):
    path = tmp_path / "plan.toml"
    text = PLAN.replace('[["relu1", "relu2"]]', '[["relu3", "fc3"]]')
    path.write_text(text.format('mask = "random-permutation"\nrecipe = "paper"', *lenets, ""))
    with pytest.raises(UserError, match=r"needs equally many channels .* 120 .* 10"):
        Resolved(read(path), tmp_path / "out").require_own()
    assert not (tmp_path / "out").exists()


def test_a_strangers_folder_of_that_name_is_not_taken(resolved):
    sweep = resolved()
    (sweep.folder / "plans").mkdir(parents=True)
    (sweep.folder / "plans" / "mine.txt").touch()
    with pytest.raises(UserError, match="holds no sweep"):
        sweep.require_own()
