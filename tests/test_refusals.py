"""What readers who meant no good once found."""

import json
from dataclasses import replace

import pytest
import torch

from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints.state import StateFile
from robust_stitching.command_line.parser import Parser
from robust_stitching.plans import (
    ComparePlan,
    Cut,
    DataRef,
    EvaluatePlan,
    NetworkRef,
    Objective,
    Optimisation,
    StitchPlan,
    as_values,
    differences,
    from_values,
    identity,
    read,
)
from robust_stitching.runs.done import done_in
from robust_stitching.runs.inputs import hash_of_data
from robust_stitching.runs.unfinished import begun
from robust_stitching.similarity import cka, debiased_cka, mutual_knn, procrustes
from robust_stitching.similarity.stream import Kept
from robust_stitching.stitching.terms import terms_of

NETWORK = NetworkRef("model.pt")


def plan(**settings):
    parts = {"cut": Cut("a", "b"), "dataset": DataRef("digits")}
    return StitchPlan(front=NETWORK, end=NETWORK, **parts | settings)


# A weight of a term is one weight, said once.


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        (Objective(l1=5.0, terms=("l1=0.5",)), "the term l1 is a setting of its own"),
        (Objective(terms=("cka_reg=0",)), "the term cka_reg is a setting of its own"),
        (Objective(terms=("other=1",)), "unknown term 'other'"),
    ],
)
def test_terms_that_are_said_elsewhere_are_refused(objective, told):
    with pytest.raises(UserError, match=told):
        terms_of(objective)


# What a plan may hold.


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 1e308},
        {"lr": 10**401},
        {"weight_decay": float("inf")},
        {"epochs": 2**63},
        {"epochs": True},
    ],
)
def test_numbers_that_nothing_can_be_computed_with_are_refused(settings):
    with pytest.raises(UserError, match=f"{next(iter(settings))}=.* is not a"):
        Optimisation(**{"epochs": 1, "lr": 0.1} | settings)


@pytest.mark.parametrize("name", ["a\0b", "/tmp/\ud800"])
def test_texts_that_no_file_is_called_are_refused(name):
    with pytest.raises(UserError, match="is not a text that a file could be called"):
        DataRef(name)
    assert DataRef("caf\udce9").name  # the bytes of a file name need be no UTF-8


def test_lists_of_nothing_are_refused():
    with pytest.raises(UserError, match=r"mean=\(\) is not a list with something in it"):
        NetworkRef("model.pt", mean=())
    pair = {"model1": NETWORK, "model2": NETWORK, "dataset": DataRef("digits")}
    with pytest.raises(UserError, match=r"layers1=\(\) is not"):
        ComparePlan(**pair, layers1=())


def test_zero_has_no_sign():
    first, second = (Optimisation(epochs=1, lr=0.1, weight_decay=zero) for zero in (0.0, -0.0))
    assert as_values(first) == as_values(second)
    assert identity(plan(training=first)) == identity(plan(training=second))


def test_the_format_of_a_plan_is_a_whole_number():
    for other in (True, 1.0):
        with pytest.raises(UserError, match="has the format"):
            from_values(StitchPlan, as_values(plan()) | {"format": other})


def test_brackets_without_end_are_no_plan(tmp_path):
    (tmp_path / "plan.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"is no JSON \(RecursionError"):
        read(tmp_path / "plan.json", StitchPlan)


# Which plans are the same.


def test_how_a_network_is_read_does_not_count_once_it_was():
    plain = NetworkRef("a.pt", hash="h")
    said = NetworkRef("b.pt", hash="h", mean=(0.5,), std=(0.5,), weights="ema", model="lenet")
    assert identity(EvaluatePlan(checkpoint=plain)) == identity(EvaluatePlan(checkpoint=said))
    unread = [
        NetworkRef("a.pt"),
        NetworkRef("a.pt", weights="ema"),
        NetworkRef("a.pt", mean=(1.0,)),
    ]
    assert len({identity(EvaluatePlan(checkpoint=ref)) for ref in unread}) == 3


def test_kinds_and_formats_are_other_plans(monkeypatch):
    first = identity(EvaluatePlan(checkpoint=NETWORK))
    monkeypatch.setattr(EvaluatePlan, "FORMAT", 2)
    second = identity(EvaluatePlan(checkpoint=NETWORK))
    monkeypatch.setattr(EvaluatePlan, "KIND", "other")
    assert len({first, second, identity(EvaluatePlan(checkpoint=NETWORK))}) == 3


def test_whatever_of_the_images_differs_makes_other_data(digits):
    train, test = digits
    labels = test.labels.clone()
    labels[-1] = 1 - labels[-1].clamp(max=1)
    pixels = train.images.clone()
    pixels[0, 0, 0, 0] ^= 1
    others = [
        (replace(train, images=pixels), test),
        (train, replace(test, labels=labels)),
        (replace(train, classes=tuple("9876543210")), test),
        (train.between(0, len(train) - 1), test),
        (replace(train, size=28), test),
    ]
    hashes = [hash_of_data(*pair) for pair in ((train, test), *others)]
    assert len(set(hashes)) == len(hashes) and hash_of_data(*digits) == hashes[0]


def test_a_state_is_gone_on_with_under_the_same_circumstances_only(tmp_path):
    def begin(**circumstances):
        return begun(tmp_path, "run", EvaluatePlan(checkpoint=NETWORK), circumstances=circumstances)

    with pytest.raises(ValueError), begin(precision="float32") as run:
        run.state.mkdir()
        (run.state / "x.pt").write_bytes(b"1")
        raise ValueError
    told = r"precision was float32 and is bfloat16"
    with pytest.raises(UserError, match=told), begin(precision="bfloat16"):
        pass
    with pytest.raises(ValueError), begin(precision="float32") as run:
        assert run.goes_on
        raise ValueError


def test_what_becomes_visible_with_its_states_loses_them_later(tmp_path):
    with begun(tmp_path, "run", EvaluatePlan(checkpoint=NETWORK)) as run:
        run.state.mkdir()
        (run.folder / "json").mkdir()
        run.finish({})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["json"]
    (tmp_path / "run" / "plan.json").write_text("{}")  # as by a process that was killed then
    (tmp_path / "run" / "state").mkdir()
    with pytest.raises(UserError, match="exists already"):
        begun(tmp_path, "run", EvaluatePlan(checkpoint=NETWORK)).__enter__()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["json"]


# What is told in the words of the command line.


def test_places_and_files_are_spelled_as_they_are_given():
    parser = Parser("", StitchPlan)
    parser.setting("front.path", "front_model")
    parser.setting("objective.l1")
    (told,) = differences(plan(), plan(objective=Objective(l1=0.5)))
    assert parser.spelled(told) == "--l1 was 0.0 and is 0.5"
    assert parser.spelled("name it by `front.path`") == "name it by FRONT_MODEL"
    parser.by_plan = True
    assert parser.spelled("name it by `front.path`") == "name it by --front"
    assert parser.spelled("leave `eval_dataset.name` out") == "leave --eval-dataset out"


# States that cannot be gone on with.


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", None, {"x": 1}, [1, 2]])
def test_a_damaged_state_says_to_remove_it(tmp_path, content):
    path = tmp_path / "gathered.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content if content is not None else {"parts": 3}, path)
    kept = Kept(StateFile(path), ())
    with pytest.raises(UserError, match=r"gathered\.pt holds no state .*; remove it, and what"):
        kept.take_up(None)


def test_a_finished_run_that_is_not_whole_is_told(tiny10s, call_script, tmp_path):
    args = (*tiny10s, "bn3", "bn3", "digits", "-e", 1, "--no-robustness", "--no-pinv")
    where = ("-o", tmp_path, "--run-name", "r")
    assert call_script("find_transform.py", *args, *where).status == 0
    path = done_in(tmp_path / "r").paths["json"]
    record = json.loads(path.read_text())
    for lacking in ("stitched", "params", "data", "donors", "estimators"):
        path.write_text(json.dumps({k: v for k, v in record.items() if k != lacking}))
        done = call_script("find_transform.py", *args, *where, "--reuse")
        assert done.status == 2 and f"(KeyError: '{lacking}')" in done.err
    for name in ("../r", "n" * 201):
        done = call_script(
            "find_transform.py", *args, "-o", tmp_path, "--run-name", name, "--reuse"
        )
        assert done.status == 2 and "--run-name" in done.err
    done = call_script("find_transform.py", *args, "-o", path)
    assert done.status == 2 and "is a file, and results go into a folder; choose another (--out-d"
    path.write_text(json.dumps(record))
    done = call_script("find_transform.py", "--plan", path, "-o", tmp_path / "s", "--front", "")
    assert done.status == 2


# Arrays of any size.


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("measure", [cka, debiased_cka, procrustes, mutual_knn])
def test_sizes_do_not_matter_where_they_should_not(measure, size):
    x, y = torch.randn(2, 40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert measure(x * size, y) == pytest.approx(measure(x, y), rel=1e-12)


def test_neighbours_are_whole_numbers():
    x = torch.randn(40, 5)
    with pytest.raises(ValueError, match=r"k is a whole number, not 1\.5"):
        mutual_knn(x, x, k=1.5)
