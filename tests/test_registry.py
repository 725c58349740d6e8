"""The laws of the measures and of what is prepared for them, over all that are registered; and a
measure of one's own, which is one file."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from conftest import REPOSITORY
from left_behind import only
from robust_stitching import models
from robust_stitching.data import Split
from robust_stitching.similarity import MEASURES, Measure, compare, register
from robust_stitching.similarity.forms import (
    CHANNELS,
    Channels,
    Form,
    Gram,
    Logits,
    MinibatchGram,
    Settings,
)
from robust_stitching.similarity.measure import (
    LINEAR,
    LINEAR_MAPS,
    ORTHOGONAL,
    PAIRING,
    PERMUTATION,
    ROTATIONS,
    SCALE,
    SHIFT,
    UNIT_SCALES,
)
from robust_stitching.similarity.measures.neighbours import Neighbours

N, SETTINGS = 120, Settings(batch_size=30, k=5)
ALL = list(MEASURES.values())
OF_LAYERS = [measure for measure in ALL if not measure.of_outputs]
OVER_BATCHES = [measure for measure in ALL if measure.form is MinibatchGram]


def each(measures):
    return pytest.mark.parametrize("measure", measures, ids=lambda measure: measure.name)


def sides(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two float64 representations that share a part."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 9, generator=g).double() * torch.linspace(0.3, 2, 9) + 1
    y = x @ torch.randn(9, 9, generator=g).double() / 3
    return x, y + torch.randn(N, 9, generator=g).double()


def form(measure: Measure, values: Tensor, per_image: int = 1) -> Form:
    seen = Channels(values, per_image) if measure.of == CHANNELS else values
    return measure.form.prepared(seen, SETTINGS)


def near(expected: float, measure: Measure):
    """Equal but for rounding, of which the root of a difference makes more."""
    return pytest.approx(expected, abs=1e-9 if measure.same else 1e-6)


def value(measure: Measure, x: Tensor, y: Tensor) -> float:
    return measure.value(form(measure, x), form(measure, y))


# Laws


@each(ALL)
def test_two_copies_of_one_thing(measure):
    x, _ = sides()
    assert value(measure, x, x.clone()) == near(measure.same, measure)
    assert measure.same in (measure.low, measure.high)


@each(ALL)
def test_symmetry_is_as_declared(measure):
    x, y = sides()
    there, back = value(measure, x, y), value(measure, y, x)
    assert (there == pytest.approx(back, abs=1e-9)) is measure.symmetric


@each(ALL)
def test_values_are_in_their_range(measure):
    """Near-independent sides too, where only the unbiased estimates may fall below it by chance."""
    x, y = sides()
    noise = torch.randn(N, 9, generator=torch.Generator().manual_seed(9)).double()
    for other in (x, y, noise, x.flip(0)):
        found = value(measure, x, other)
        low = -0.1 if measure.of == "maps" else measure.low
        assert low <= found <= measure.high + 1e-9


@each(ALL)
def test_the_order_of_the_images_says_nothing(measure):
    """But that of images in batches, which are others then."""
    x, y = sides()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    moved = value(measure, x[order], y[order])
    tolerance = 0.1 if measure in OVER_BATCHES else 1e-9
    assert moved == pytest.approx(value(measure, x, y), abs=tolerance)


def change(kind: str, v: Tensor) -> Tensor:
    g = torch.Generator().manual_seed(3)
    mixing = torch.randn(9, 9, generator=g).double()
    changes = {
        ORTHOGONAL: lambda: v @ torch.linalg.qr(mixing)[0],
        PERMUTATION: lambda: v[:, torch.randperm(9, generator=g)],
        LINEAR: lambda: v @ (mixing + 3 * torch.eye(9)),
        SCALE: lambda: 37 * v,
        UNIT_SCALES: lambda: v * torch.linspace(0.2, 7, 9, dtype=torch.float64),
        SHIFT: lambda: v + torch.linspace(-4, 5, 9, dtype=torch.float64),
        PAIRING: lambda: v[torch.randperm(N, generator=g)],
    }
    return changes[kind]()


@each(ALL)
@pytest.mark.parametrize(
    "kind", [ORTHOGONAL, PERMUTATION, LINEAR, SCALE, UNIT_SCALES, SHIFT, PAIRING]
)
def test_what_a_measure_ignores_is_as_declared(measure, kind):
    """Of either side. What is not declared changes something."""
    x, y = sides()
    before = value(measure, x, y)
    same = [
        value(measure, *changed) == pytest.approx(before, abs=1e-8)
        for changed in ((change(kind, x), y), (x, change(kind, y)))
    ]
    assert all(same) is (kind in measure.ignores)


@each(ALL)
def test_what_follows_from_what_is_declared_is_declared(measure):
    if ORTHOGONAL in measure.ignores:
        assert measure.ignores >= ROTATIONS
    if LINEAR in measure.ignores:
        assert measure.ignores >= LINEAR_MAPS


@each(OF_LAYERS)
@pytest.mark.parametrize("constant", [0.0, 0.1, 7.0])
def test_a_constant_side_has_no_value(measure, constant):
    """But that a constant explains nothing of what varies."""
    for x in (sides()[0], sides()[0].float()):
        side = torch.full_like(x, constant)
        assert math.isnan(value(measure, side, side))
        for other, *pair in (("reverse-regression", x, side), ("regression", side, x)):
            found = value(measure, *pair)
            assert found == 0 if measure.name == other else math.isnan(found)


@each(OF_LAYERS)
def test_dead_units_and_repeated_rows_have_a_value(measure):
    x, y = (side.relu() for side in sides())
    x[:, 3] = y[:, 0] = 0
    same = (
        8 / 9 if "correlation-match" in measure.name else measure.same
    )  # a dead unit has no match
    assert value(measure, x, x) == near(same, measure)
    x[40:80], y[80:] = x[:40], y[:40]
    x[5], y[6] = 0, 0
    assert -0.1 <= value(measure, x, y) <= measure.high


# Prepared forms


@each(ALL)
def test_a_form_of_permuted_images_is_that_of_the_permuted_rows(measure):
    x, y = sides()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    own, other = form(measure, x), form(measure, y)
    measure.value(own, other)  # what is known by then is kept
    expected = value(measure, x, y[order])
    for permuted in (other.permuted(order), other.permuted(order.tolist())):
        assert len(permuted) == N
        assert measure.value(own, permuted) == pytest.approx(expected, abs=1e-9)
    tolerance = 1e-9 if PAIRING in measure.ignores else 1e-3
    as_before = expected == pytest.approx(measure.value(own, other), abs=tolerance)
    assert as_before is (PAIRING in measure.ignores)
    back = other.permuted(order).permuted(order.argsort())
    assert measure.value(own, back) == pytest.approx(measure.value(own, other), abs=1e-9)


@each(ALL)
@pytest.mark.parametrize("block", [slice(30, 42), [3, 119, 50, 7, 8]], ids=["slice", "list"])
def test_a_form_without_a_block_is_that_of_the_remaining_rows(measure, block):
    x, y = sides()
    own, other = form(measure, x), form(measure, y)
    measure.value(own, other)
    kept = torch.ones(N, dtype=torch.bool)
    kept[block] = False
    found = measure.value(own.without(block), other.without(block))
    assert found == pytest.approx(value(measure, x[kept], y[kept]), abs=1e-9)
    order = torch.randperm(int(kept.sum()), generator=torch.Generator().manual_seed(4))
    both = measure.value(own.without(block), other.without(block).permuted(order))
    assert both == pytest.approx(value(measure, x[kept], y[kept][order]), abs=1e-9)


@each([measure for measure in ALL if measure.of == CHANNELS])
def test_the_rows_of_an_image_stay_together(measure):
    x, y = sides()
    order = torch.randperm(N // 4, generator=torch.Generator().manual_seed(2))
    rows = (4 * order[:, None] + torch.arange(4)).flatten()
    own, other = form(measure, x, 4), form(measure, y, 4)
    assert len(other) == N // 4
    expected = value(measure, x, y[rows])
    assert measure.value(own, other.permuted(order)) == pytest.approx(expected, abs=1e-9)
    rest = measure.value(own.without([0, 2]), other.without([0, 2]))
    kept = torch.cat([torch.arange(4, 8), torch.arange(12, N)])
    assert rest == pytest.approx(value(measure, x[kept], y[kept]), abs=1e-9)


def test_a_gram_matrix_is_not_copied():
    gram = form(MEASURES["cka"], sides()[0])
    order = torch.arange(N).flip(0)
    assert gram.permuted(order).without([1]).matrix is gram.matrix


# The registry


def test_names_are_taken_once():
    with pytest.raises(ValueError, match="there is a measure 'cka' already"):
        register(MEASURES["cka"])
    with pytest.raises(ValueError, match="'all'"):
        register(replace(MEASURES["cka"], name="all"))


def test_a_setting_that_changes_a_measure_stands_in_its_estimator():
    x, y = sides()
    for measure in ALL:
        for name, other in (("batch_size", 40), ("k", 9)):
            seen = [Channels(v) if measure.of == CHANNELS else v for v in (x, y)]
            values = [
                measure.value(*(measure.form.prepared(v, settings) for v in seen))
                for settings in (SETTINGS, replace(SETTINGS, **{name: other}))
            ]
            assert (values[0] != values[1]) is measure.uses(name), measure.name


def toy(kind: type[Form]) -> Measure:
    """The ratio of the sizes of the sides, which follows from no sums of products of both."""

    def size(side: Form) -> float:
        if isinstance(side, Gram):
            every = slice(0, len(side))
            gram = side.part(every, every).double()
            return float(gram.trace() - gram.sum() / len(side))
        if isinstance(side, Neighbours):
            side = side.channels
        values = side.values.double() if isinstance(side, Logits) else side.centred()
        return float(values.square().sum())

    def ratio(x: Form, y: Form) -> float:
        return min(size(x), size(y)) / max(size(x), size(y))

    about = {"name": "toy", "title": "toy", "estimator": "ratio of sizes", "cost": "nothing"}
    return Measure(**about, low=0, high=1, same=1, form=kind, value=ratio)


@pytest.mark.parametrize("kind", [Gram, MinibatchGram, Channels, Neighbours, Logits])
def test_networks_are_compared_by_a_measure_of_any_form(monkeypatch, kind):
    monkeypatch.setitem(MEASURES, "toy", toy(kind))
    networks = [models.build("lenet", num_classes=10, in_channels=1, seed=seed) for seed in (0, 1)]
    g = torch.Generator().manual_seed(5)
    images = torch.randint(256, (40, 1, 32, 32), generator=g, dtype=torch.uint8)
    split = Split("Some", images, torch.zeros(40, dtype=torch.long), tuple("0123456789"))
    found = compare(*networks, split, ["conv1"], ["relu3"], ["toy"], batch_size=16)
    sizes = []
    for network, layer in zip(networks, ("conv1", "relu3"), strict=True):
        kept = []
        network.get_submodule(layer).register_forward_hook(lambda m, x, out, k=kept: k.append(out))
        with torch.no_grad():
            logits = network(images / 255).double()
        values = kept[0].double()
        if issubclass(kind, Gram):
            values = values.flatten(1)
        elif values.ndim == 4:
            values = values.mean(dim=(2, 3))
        values = logits if kind is Logits else values - values.mean(dim=0)
        sizes.append(float(values.square().sum()))
    value = found.outputs["toy"] if kind is Logits else found.layerwise["toy"].item()
    assert value == pytest.approx(min(sizes) / max(sizes), rel=1e-5)
    assert found.notes == () and found.n_images == {"toy": 40}


TOY = '''
"""A measure that somebody wrote."""

from robust_stitching.similarity.arrays import between
from robust_stitching.similarity.forms import Channels
from robust_stitching.similarity.measure import Measure

(TOY,) = MEASURES = (
    Measure(
        name="toy", title="toy measure", estimator="ratio of the norms (toy)", low=0, high=1,
        same=1, cost="next to nothing", form=Channels, default=True,
        value=lambda x, y: float(min(x.norm, y.norm) / max(x.norm, y.norm)),
    ),
)


def toy(x, y):
    return between(TOY, x, y)
'''
CALL = "import torch; from robust_stitching.similarity.measures.toy import toy; "
CALL += "x = torch.eye(5); print(toy(x, 2 * x))"


def test_a_file_is_all_that_a_measure_takes(lenets, tmp_path):
    """A copy of the library in which nothing is changed but that this file is there."""
    shutil.copytree(REPOSITORY / "src", tmp_path / "src")
    measures = tmp_path / "src" / "robust_stitching" / "similarity" / "measures"
    (measures / "toy.py").write_text(TOY)

    def python(*arguments):
        kept = {key: v for key, v in os.environ.items() if key != "PYTHONPATH"}
        kept |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path / "src", env=kept, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    script = tmp_path / "src" / "bin" / "compare_nets.py"
    options = ["digits", "--n-images", "40", "--layers1", "relu1", "fc3", "--layers2", "relu2"]
    out = python(script, *lenets, *options, "-o", tmp_path / "out", "--run-name", "r")
    assert "ratio of the norms (toy), channels, averaged over positions; 40 images" in out
    record = json.loads(only(tmp_path / "out" / "r" / "json").read_text())
    assert record["measures"]["toy"]["range"] == [0, 1]
    values = [row[0] for row in record["measures"]["toy"]["values"]]
    assert all(0 < value < 1 for value in values) and f"{values[0]:.3f}" in out
    assert (tmp_path / "out" / "r" / "figures" / "toy.png").stat().st_size > 10_000
    assert "toy,relu1,relu2" in only(tmp_path / "out" / "r" / "csv").read_text()
    shown = python(script, "--help")
    assert re.search(r"^  toy +ratio of the norms \(toy\), channels", shown, re.MULTILINE)
    assert "Cost: next to nothing." in " ".join(shown.split())
    assert float(python("-c", CALL)) == 0.5
