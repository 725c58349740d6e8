"""The library on networks and images that live in memory."""

import copy
import json
import os
import random
import subprocess
import sys
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import robust_stitching as rs
from robust_stitching import library, models
from robust_stitching.basics.errors import UserError
from robust_stitching.models.adopting import adopted
from robust_stitching.report.stitch.text import as_text
from robust_stitching.stitching.controls import with_random_weights

MEAN, STD = (0.3,), (0.25,)


class Small(nn.Module):
    """Takes grey images of 28×28 pixels alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 5, stride=2, padding=2)
        self.bn = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(6 * 14 * 14, 10)

    def forward(self, x, mask=None):
        return self.fc(self.relu(self.bn(self.conv(x))).flatten(1))


class Anywhere(nn.Module):
    """Takes images of any shape."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(1, 10)

    def forward(self, x):
        return self.fc(x.mean(dim=(1, 2, 3))[:, None])


@pytest.fixture(scope="module")
def small(digits):
    """A network of 28×28 images that plain PyTorch has trained for a moment on normalised ones."""
    torch.manual_seed(0)
    net = Small()
    train, _ = rs.load_data("digits", image_size=28)
    steps = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(3):
        for images, labels in train.epoch(64, seed=0, epoch=epoch):
            loss = nn.functional.cross_entropy(net((images - MEAN[0]) / STD[0]), labels)
            steps.zero_grad()
            loss.backward()
            steps.step()
    return net


@pytest.fixture
def known(small):
    return rs.network(small, mean=MEAN, std=STD, dataset="digits")


def test_what_stands_at_the_top_is_the_library():
    assert rs.__all__ == library.__all__
    assert all(getattr(rs, name) is getattr(library, name) for name in rs.__all__)
    assert set(rs.__all__) <= set(dir(rs))
    with pytest.raises(AttributeError, match="no attribute 'stich'"):
        _ = rs.stich


def test_to_import_it_takes_no_torch():
    code = "import sys, robust_stitching; sys.exit('torch' in sys.modules)"
    where = os.environ | {"PYTHONPATH": str(Path(rs.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=where, check=False)
    assert done.returncode == 0


def test_a_network_in_memory_answers_as_it_does_and_stays_as_it_was(small):
    before, mode = copy.deepcopy(small.state_dict()), small.training
    made = rs.network(small, mean=MEAN, std=STD)
    images = torch.rand(5, 1, 28, 28)
    with torch.no_grad():
        own = copy.deepcopy(small).eval()((images - MEAN[0]) / torch.tensor(STD[0]))
    assert torch.equal(made.network(images), own)
    assert made.network.input_shape == (1, 28, 28) and made.classes == 10 and made.path is None
    assert type(small) is Small and small.training is mode and not hasattr(small, "normalize")
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())
    assert [layer.name for layer in rs.layers(made)] == [
        *("normalize", "conv", "bn", "relu", "flatten", "fc"),
    ]
    assert [layer.name for layer in rs.layers(small)] == [layer.name for layer in rs.layers(made)]


def test_networks_that_go_through_all_their_modules_are_normalised_once():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 4))
    made = rs.network(net, mean=(0.2,), std=(0.5,), image_size=8)
    images = torch.rand(3, 1, 8, 8)
    assert torch.allclose(made.network(images), net((images - 0.2) / 0.5), atol=1e-6)
    assert [layer.name for layer in rs.layers(made)] == ["normalize", "0", "1", "2", "3"]
    assert adopted(copy.deepcopy(net), 1).normalize is not None


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: rs.network("resnet18"), r"is an nn\.Module, not 'resnet18'"),
        (lambda: rs.network(Anywhere()), r"several shapes, 3×32×32, .*`image_size`, or `dataset`"),
        (lambda: rs.network(Anywhere(), image_size=8), r"several shapes.*: `in_channels`"),
        (lambda: rs.network(Anywhere(), dataset="mnist", in_channels=1), r"1×32×32, 1×28×28;"),
        (lambda: rs.network(Anywhere(), dataset="digits"), r"made for: `in_channels`\.$"),
        (
            lambda: rs.network(nn.Linear(3, 3)),
            r"the shapes 3×32×32, 1×32×32, .*, … \(at 32×32 pixels: .*\); say",
        ),
        (lambda: rs.network(Small(), image_size=20), r"not work on images of 20×20 pixels \(Runt"),
        (lambda: rs.network(Small(), in_channels=3), r"none of the shapes 3×32×32"),
        (lambda: rs.network(Small(), classes=10), r"classes=10 is no list of different names"),
        (lambda: rs.network(Small(), classes="abcdefghij"), "no list of different names"),
        (lambda: rs.network(Small(), image_size=28.0), r"image_size=28\.0 is not a whole number"),
        (lambda: rs.network(Small(), image_size=0), r"image_size=0 is not a whole number"),
        (lambda: rs.network(Small(), in_channels=2), r"in_channels=2, but images have 1 channel"),
        (lambda: rs.network(Small(), classes=("a", "b")), r"10 logits, but 2 classes are named"),
        (lambda: rs.network(Small(), mean=(33.3,)), r"mean of Small is 33\.3, but images are in"),
        (
            lambda: rs.network(Small(), mean=[None]),
            r"mean of Small is \[None\], which is no list of",
        ),
        (
            lambda: rs.network(Small(), std=object()),
            r"std of Small is <object .*, which is no list",
        ),
        (lambda: rs.network(nn.Conv2d(1, 4, 3), image_size=8), r"values of shape \(4, 6, 6\)"),
        (lambda: rs.network(Small(), dataset="digts"), r"unknown dataset 'digts'; did you mean"),
        (lambda: rs.evaluate(Small(), 3), r"are a dataset's name, or .*, not 3"),
        (lambda: rs.stitch(Small(), Small(), "bn", "bn", "digits", epoch=3), "setting 'epoch'"),
        (lambda: rs.stitch(Small(), Small(), "bn", "nb", "digits"), "unknown end layer 'nb'"),
    ],
)
def test_what_cannot_be_is_told(make, told):
    with pytest.raises(UserError, match=told):
        make()


def test_weights_of_other_precisions_are_converted_and_said(small):
    made = rs.network(copy.deepcopy(small).double(), mean=MEAN, std=STD)
    assert made.notes == ("The weights of Small were converted to float32.",)
    assert next(made.network.parameters()).dtype == torch.float32


def test_a_network_that_holds_its_last_pass_is_copied(small):
    net = copy.deepcopy(small)
    net.kept = net(torch.rand(2, 1, 28, 28))
    assert rs.evaluate(rs.network(net, mean=MEAN, std=STD), "digits").accuracy > 0.7
    net.kept = (i for i in ())
    with pytest.raises(UserError, match=r"Small cannot be copied \(TypeError: .*no part of it"):
        rs.network(net)


class Frozen(Small):
    """Does not return itself when its mode is changed, as much code of frozen batch norms."""

    def train(self, mode=True):
        super().train(mode)
        self.bn.eval()


def test_a_mode_that_is_set_need_not_return_the_network(small):
    made = rs.network(nn.Sequential(Frozen()), image_size=28)
    settings = {"epochs": 1, "no_robustness": True, "controls": True}
    result = rs.stitch(made, Frozen(), "0.bn", "bn", "digits", **settings)
    assert result.front.network is made.network
    assert rs.attack(Frozen(), "digits", tier="quick").accuracies()


def test_probabilities_in_the_place_of_logits_are_told(small):
    pair = [
        rs.network(nn.Sequential(small, last), mean=MEAN, std=STD, dataset="digits")
        for last in (nn.Softmax(dim=1), nn.LogSoftmax(dim=1))
    ]
    sigmoids = rs.network(nn.Sequential(small, nn.Sigmoid()), mean=MEAN, std=STD)
    told = "answers with probabilities, which are taken for log"
    for call in (rs.evaluate, lambda *of: rs.attack(*of, tier="quick")):
        for network in (pair[0], sigmoids):
            with pytest.warns(UserWarning, match=told):
                call(network, "digits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rs.evaluate(pair[1], "digits")
    told = rs.stitch(*pair, "0.bn", "0.bn", "digits", epochs=1, no_robustness=True).notes
    assert sum("answers with probabilities" in note for note in told) == 1


REGISTERED = {}


class Registered(Small):
    def __init_subclass__(cls, *, tag, **rest):
        super().__init_subclass__(**rest)
        assert tag not in REGISTERED
        REGISTERED[tag] = cls


class Once(type):
    names: ClassVar = set()

    def __new__(cls, name, *rest):
        assert name not in cls.names
        cls.names.add(name)
        return super().__new__(cls, name, *rest)


class Tagged(Registered, tag="tagged"):
    pass


class Unique(Small, metaclass=Once):
    __slots__ = ("more",)


@pytest.mark.parametrize("kind", [Tagged, Unique])
def test_classes_that_hear_of_those_derived_from_them_hear_of_none_of_ours(kind):
    made = rs.network(kind(), dataset="digits")
    assert isinstance(made.network, kind) and type(made.network).__name__ == kind.__name__
    other = models.answering(made.network, [*range(9, -1, -1)])
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(other(images), made.network(images).flip(1))
    assert {"tagged": Tagged} == REGISTERED


class Named(NamedTuple):
    features: torch.Tensor
    logits: torch.Tensor


@dataclass
class Data:
    logits: torch.Tensor
    features: torch.Tensor


@dataclass
class Both:
    one: torch.Tensor
    other: torch.Tensor


@pytest.mark.parametrize("kind", [Named, Data, dict, Both])
def test_the_part_called_logits_is_taken(kind):
    class Several(Small):
        def forward(self, x):
            answers = super().forward(x)
            parts = {"one": answers, "other": -answers}
            return kind(**parts if kind is Both else {"logits": answers, "features": -answers})

    net = Several().eval()
    if kind is Both:
        with pytest.raises(UserError, match=r"a Both of 'one', values of shape \(10,\), 'other'"):
            rs.network(net)
        return
    made, images = rs.network(net), torch.rand(2, 1, 28, 28)
    assert torch.equal(made.network(images), Small.forward(net, images))
    assert "fc" in [layer.name for layer in rs.layers(made)]


def test_a_sparse_buffer_is_looked_through():
    class Sparse(Small):
        def __init__(self):
            super().__init__()
            self.register_buffer("order", torch.eye(10).flip(0).to_sparse())

        def forward(self, x):
            return torch.sparse.mm(self.order, super().forward(x).t()).t()

    net = Sparse().eval()
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(rs.network(net).network(images), Small.forward(net, images).flip(1))
    net.order = (net.order * float("nan")).coalesce()
    with pytest.raises(UserError, match=r"order in Sparse has \d+ of 100 numbers that are NaN"):
        rs.network(net)


@contextmanager
def double_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": double_by_default,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_torch_was_told_outside_changes_nothing(settings, digits):
    pixels, labels = next(digits[1].between(0, 60).batches(60))

    def results():
        torch.manual_seed(0)
        net = Small().float()
        split = rs.split(pixels[:, :, 2:30, 2:30], labels)
        known = rs.attack(net, split, tier="quick").accuracies()
        brief = {"epochs": 1, "batch_size": 30, "no_robustness": True}
        stitched = rs.stitch(net, rs.network(net), "bn", "bn", (split, split), **brief)
        made = {"measures": ["cka"], "layers1": ["bn"], "layers2": ["bn"]}
        compared = rs.compare(net, net, split, **made).layerwise["cka"]
        return rs.evaluate(net, split).loss, known, stitched.cka, compared.tolist()

    def as_told():
        settings = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        return *settings, torch.get_default_dtype(), torch.is_autocast_enabled("cpu")

    expected = results()
    with SETTINGS[settings]():
        before = as_told()
        found = results()
        assert as_told() == before
    if settings == "float64":  # its weights are drawn from other numbers
        return
    assert found == expected


def test_no_generator_is_moved(small):
    class Drawing(Small):
        def forward(self, x):
            noise = float(np.random.randn()) + random.random()
            return super().forward(x + torch.randn_like(x) + noise)

    def states():
        numpys = np.random.get_state()
        return torch.get_rng_state().tolist(), numpys[1].tolist(), numpys[2], random.getstate()

    net, before = Drawing(), states()
    made = rs.network(net, image_size=28)
    with pytest.raises(UserError):
        rs.layers(made)
    assert states() == before


def test_errors_of_a_forward_are_told_with_their_line():
    class Typo(Small):
        def forward(self, x):
            return self.fc(self.rel(self.conv(x)))

    class Double(Small):
        def forward(self, x):
            return super().forward(x.double())

    class Silent(Small):
        def forward(self, x):
            raise AssertionError

    with pytest.raises(UserError, match=r"\(AssertionError, line \d+ of .*test_library\.py\)"):
        rs.network(Silent(), image_size=28)

    class Leaving(Small):
        def forward(self, x):
            sys.exit("no such images")

    for said in ({}, {"image_size": 28}, {"image_size": 28, "in_channels": 1}):
        with pytest.raises(UserError, match=r"SystemExit: no such images, line \d+ of"):
            rs.network(Leaving(), **said)
    line = Typo.forward.__code__.co_firstlineno + 1
    for said in ({}, {"dataset": "digits"}, {"image_size": 28, "in_channels": 1}):
        told = rf"\(.*AttributeError: .* no attribute 'rel', line {line} of .*test_library\.py\)"
        with pytest.raises(UserError, match=told):
            rs.network(Typo(), **said)
        told = r"\(.*RuntimeError: .*, line \d+ of .*test_library.*The weights of Double were conv"
        with pytest.raises(UserError, match=told):
            rs.network(Double().double(), **said)
    with pytest.raises(UserError, match=r"shapes 3×32×32, 1×32×32, 3×28×28, 1×28×28, … \("):
        rs.network(Typo(), dataset="digits")


def test_names_that_are_needed_are_not_overwritten(small):
    net = copy.deepcopy(small)
    net.architecture = "deep"
    with pytest.raises(UserError, match="has architecture of its own, names that are needed"):
        rs.network(net)


def test_weights_that_are_none_yet_or_no_numbers_are_refused(small):
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(UserError, match="Sequential has no weights yet; run it once"):
        rs.network(lazy, image_size=8)
    net = copy.deepcopy(small)
    net.fc.bias.data[3] = float("nan")
    with pytest.raises(UserError, match=r"fc\.bias in Small has 1 of 10 numbers that are NaN"):
        rs.network(net)


class Masked(nn.Module):
    """Rows of an image look at those above them."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 10)
        self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))

    def forward(self, x):
        rows = x[:, 0]
        return self.fc(((rows @ rows.mT + self.mask).softmax(-1) @ rows).mean(1))


def test_a_mask_may_be_infinite(tmp_path):
    net, images = Masked(), torch.rand(2, 1, 8, 8)
    made = rs.network(net, image_size=8, in_channels=1)
    assert torch.equal(made.network(images), net(images))
    assert [layer.name for layer in rs.layers(made)][-1] == "fc"
    net.mask[0] = torch.nan
    with pytest.raises(UserError, match="mask in Masked has 8 of 64 numbers that are NaN:"):
        rs.network(net)
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    net[1].running_var[3] = torch.inf
    with pytest.raises(UserError, match=r"1\.running_var in Sequential has 1 of 64"):
        rs.network(net, image_size=8)


def test_doubts_are_warnings(known, digits):
    _, test = rs.load_data("digits", image_size=28)
    other = replace(test, classes=tuple("abcdefghij"))
    with pytest.warns(UserWarning, match="have other names than those of Small"):
        rs.evaluate(known, other)
    untrained = Small()
    nn.init.zeros_(untrained.fc.weight)
    untrained = rs.network(untrained, dataset="digits")
    with pytest.warns(UserWarning, match="near chance"):
        rs.attack(untrained, test.between(0, 40), tier="quick")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"step_size": 0.0}, r"step_size=0\.0 is not a number above 0"),
        ({"restarts": 0}, "restarts=0 is not"),
        ({"steps": -1}, "steps=-1 is not"),
        ({"epsilon": "8/255"}, "epsilon='8/255' is not"),
        ({"norm": "l7"}, "unknown norm 'l7'"),
        ({"batch_size": 0}, "batch_size=0 is not"),
        ({"tier": "best"}, "unknown tier 'best'"),
    ],
)
def test_settings_of_attacks_are_checked(known, settings, told):
    with pytest.raises(UserError, match=told):
        rs.attack(known, "digits", **settings)


def test_a_forward_that_was_put_on_the_object_is_refused(small):
    net = copy.deepcopy(small)
    net.forward = lambda x: -small(x)
    with pytest.raises(UserError, match=r"forward of this Small was replaced on the object"):
        rs.network(net)


def test_networks_of_the_registry_and_wrapped_ones():
    made = rs.network(models.build("tiny10", num_classes=10, in_channels=1), dataset="digits")
    assert (made.model, made.network.input_shape) == ("tiny10", (1, 32, 32))
    assert made.class_names == tuple("0123456789")
    assert rs.network(nn.DataParallel(Small())).model == "Small"
    assert rs.network(Small(), name="mine").model == "mine"


def test_accuracy_and_attacks_are_those_of_the_network(small, known):
    _, test = rs.load_data("digits", image_size=28)
    ((images, labels),) = test.batches(len(test))
    with torch.no_grad():
        right = copy.deepcopy(small).eval()((images - MEAN[0]) / STD[0]).argmax(1) == labels
    found = rs.evaluate(known, "digits")
    assert found.accuracy == right.double().mean().item() > 0.7
    assert rs.evaluate(known, test).loss == found.loss
    left = rs.attack(known, test.between(0, 40), tier="quick", epsilon=0.1).accuracies()
    assert left["worst case"] <= left["FGSM"] < right[:40].double().mean().item()


def test_a_stitch_of_networks_in_memory_is_that_of_their_files(tiny10s, run_script, tmp_path):
    args = ["bn3", "bn3", "digits", "-e", 1, "-i", "ps_inv", "--no-robustness", "-o", tmp_path]
    done = run_script("find_transform.py", *tiny10s, *args, "--run-name", "r", cwd=tmp_path)
    assert done.status == 0, done.err
    (path,) = (tmp_path / "r" / "json").glob("*.json")
    record = json.loads(path.read_text())
    pair = [rs.network(rs.load(p).network, dataset="digits", name="tiny10") for p in tiny10s]
    found = rs.stitch(*pair, "bn3", "bn3", "digits", epochs=1, init="ps_inv", no_robustness=True)
    assert found.cka == record["cka"]
    for name in ("front", "end", "untrained", "stitched", "direct_matching"):
        assert found.scores[name].accuracy == record[name]["accuracy"], name
        assert found.scores[name].loss == record[name]["loss"], name


def test_a_stitch_of_modules_is_reported(small, known, tmp_path):
    found = rs.stitch(
        small, known, "bn", "bn", "digits", epochs=1, controls=True, random_fronts=1,
        robust_images=20, tier="quick",
    )  # fmt: skip
    assert found.scores["random_front"].accuracy < 1
    paths = rs.write_report(found, tmp_path / "report")
    assert set(paths) == {"pdf", "json", "matrix"}  # no file could say how a frank model is made
    record = json.loads(paths["json"].read_text())
    assert record["donors"]["front"]["path"] is None
    assert "front  Small up to bn" in as_text(record)
    with pytest.raises(UserError, match="exists already"):
        rs.write_report(found, tmp_path / "report")


def test_random_fronts_of_memory_begin_as_their_modules_do(small, known):
    class Learned(Small):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return super().forward(x * self.scale)

    with pytest.raises(UserError, match=r"Learned: it has weights \(scale\) and no reset_param"):
        rs.stitch(Learned(), known, "bn", "bn", "digits", epochs=1, controls=True)


class Reset(Small):
    """Grey images; `reset` sets its weights, or some of them."""

    def __init__(self, reset):
        super().__init__()
        self.one, self.two = (nn.Parameter(torch.randn(3)) for _ in range(2))
        self.reset = reset

    def reset_parameters(self, *given):
        self.reset(self, *given)

    def forward(self, x):
        return super().forward(x * self.one.sum() * self.two.sum())


def set_both(net):
    nn.init.normal_(net.one)
    net.two = nn.Parameter(torch.rand(3))


@pytest.mark.parametrize(
    ("reset", "told"),
    [
        (set_both, None),
        (lambda net: nn.init.normal_(net.one), r"weights \(two\) that no reset_parameters sets"),
        (lambda net: net.one.data.mul_(2), r"weights \(one, two\) that no reset_parameters sets"),
        (lambda net, std: None, r"a reset_parameters that fails \(TypeError: .*'std', line \d+ of"),
    ],
)
def test_weights_that_nothing_sets_are_refused_in_random_fronts(reset, told, digits):
    train, _ = rs.load_data("digits", image_size=28)
    net = nn.Sequential(Reset(reset))
    made = rs.network(net, image_size=28)
    if told is None:
        front = with_random_weights(made.network, train, 0, 0)
        assert not torch.equal(front[0].one, net[0].one)
        assert all(bool(p.isfinite().all()) for p in front.parameters())
        return
    with pytest.raises(UserError, match=f"its part '0', a Reset, has {told}"):
        rs.stitch(made, made, "0.bn", "0.bn", "digits", epochs=1, controls=True)
    assert bool(net[0].one.isfinite().all()) and bool(made.network[0].one.isfinite().all())


def test_modules_are_compared(small, known):
    found = rs.compare(small, known, "digits", layers1=["relu"], measures=["cka", "agreement"])
    assert found.layers2 == ("normalize", "conv", "bn", "relu", "flatten", "fc")
    assert found.layerwise["cka"].shape == (1, 6)
    same = rs.compare(known, known, "digits", layers1=["bn"], layers2=["bn"], measures=["cka"])
    assert same.layerwise["cka"].item() == pytest.approx(1, abs=1e-12)


def test_what_load_could_not_read_is_not_saved(known, tmp_path, tiny10s):
    with pytest.raises(UserError, match=r"Small was made in memory, and no file could say how"):
        rs.save(tmp_path / "x.pt", known)
    assert not (tmp_path / "x.pt").exists()
    loaded = rs.load(tiny10s[0])
    rs.save(tmp_path / "y.pt", loaded)
    again = rs.load(tmp_path / "y.pt")
    assert rs.evaluate(again, "digits") == rs.evaluate(loaded, "digits")
    with pytest.raises(UserError, match="exists already"):
        rs.save(tmp_path / "y.pt", loaded)
    unnamed = rs.network(models.build("lenet", num_classes=10, in_channels=1))
    with pytest.raises(UserError, match="what lenet was trained on"):
        rs.save(tmp_path / "z.pt", unnamed)


def test_own_images(digits):
    _, test = digits
    whole = rs.split(test.images, test.labels, name="mine")
    assert torch.equal(whole.images, test.images)
    assert whole.images.data_ptr() != test.images.data_ptr() and whole.classes == tuple(
        "0123456789"
    )
    fractions = test.images.numpy().astype("float64") / 255
    assert torch.equal(rs.split(fractions, test.labels).images, test.images)
    last = np.repeat(fractions, 3, axis=1).transpose(0, 2, 3, 1)
    assert rs.split(last, test.labels).images.shape == (len(test), 3, 32, 32)
    assert rs.split(test.images[:, 0], test.labels).channels == 1
    attributes = rs.split(test.images, torch.stack([test.labels % 2, test.labels // 5], dim=1))
    assert attributes.attributes and attributes.classes == ("0", "1")


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (torch.rand(4, 1, 8, 9), torch.zeros(4).long(), r"\(4, 1, 8, 9\) are none of"),
        (torch.rand(4, 5, 8, 8), torch.zeros(4).long(), r"with 1 or 3 channels"),
        (torch.randn(4, 1, 8, 8) * 3, torch.zeros(4).long(), r"have to be in \[0, 1\]"),
        (torch.zeros(4, 1, 8, 8).int(), torch.zeros(4).long(), r"int32 are neither uint8 nor"),
        (torch.rand(4, 1, 8, 8), torch.zeros(3).long(), r"do not fit 4 images"),
        (torch.rand(4, 1, 8, 8), torch.zeros(4), r"kind torch.float32"),
        (torch.rand(4, 1, 8, 8), torch.arange(4) - 1, r"run from -1 to 2"),
        (torch.rand(0, 1, 8, 8), torch.zeros(0).long(), r"there are no images"),
        (torch.rand(4, 1, 8, 8), torch.eye(4).long(), r"give labels\.argmax\(1\)"),
        (torch.rand(4, 1, 8, 8), list("abcd"), r"labels are no array of numbers"),
    ],
)
def test_images_and_labels_that_cannot_be(images, labels, told):
    with pytest.raises(UserError, match=told):
        rs.split(images, labels)


def test_more_labels_than_classes_are_refused():
    with pytest.raises(UserError, match=r"labels run from 0 to 3, but 2 classes are named"):
        rs.split(torch.rand(4, 1, 8, 8), torch.arange(4), classes=("a", "b"))


class Answering(Small):
    """Returns what `make` makes of its logits (N, 10) and its features (N, 6, 14, 14)."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        features = self.relu(self.bn(self.conv(x)))
        return self.make(self.fc(features.flatten(1)), features)


PLAIN = {
    "logits, features": lambda z, f: (z, f),
    "features, logits": lambda z, f: [f, z],
    "a dictionary of one": lambda z, f: {"out": z},
    "one called logits": lambda z, f: {"embedding": f.mean((2, 3)), "logits": z},
    "logits and none": lambda z, f: (z, None),
    "images inside": lambda z, f: (z, {"maps": [f, f]}),
    "as many as classes": lambda z, f: (f.mean((2, 3)), z),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_logits_are_taken_from_what_a_network_returns(small, kind):
    net = Answering(PLAIN[kind])
    net.load_state_dict(small.state_dict())
    made, plain = (rs.network(n, dataset="digits", mean=MEAN, std=STD) for n in (net, small))
    images = torch.rand(4, 1, 28, 28)
    assert torch.equal(made.network(images), plain.network(images))
    assert {layer.name for layer in rs.layers(made)} >= {layer.name for layer in rs.layers(plain)}
    assert rs.evaluate(made, "digits") == rs.evaluate(plain, "digits")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda z, f: z[:, :1], r"values of shape \(1,\) instead of one logit a class"),
        (lambda z, f: z[:, 0], r"values of shape \(\) instead of"),
        (lambda z, f: f, r"values of shape \(6, 14, 14\)"),
        (
            lambda z, f: (z, z),
            r"a tuple of values of shape \(10,\) and values of shape \(10,\) ins",
        ),
        (
            lambda z, f: {"a": f, "b": 3},
            r"dictionary of 'a', values of .*, 'b', another kind \(int",
        ),
        (lambda z, f: None, r"another kind \(NoneType\)"),
        (
            lambda z, f: {"out": {"logits": z}, "features": z + 1},
            r"dictionary of 'out', a dictionary of 'logits', values of shape \(10,\), 'features'",
        ),
        (
            lambda z, f: {"logits": z[:, :, None, None], "features": z + 1},
            r"dictionary of 'logits', values of shape \(10, 1, 1\), 'features', values of",
        ),
    ],
)
def test_answers_that_are_not_plain_are_described(make, told):
    with pytest.raises(UserError, match=told):
        rs.network(Answering(make), dataset="digits")


class Branching(Small):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


def test_a_network_without_a_graph_is_evaluated_and_attacked(small):
    net = Branching()
    net.load_state_dict(small.state_dict())
    made, plain = (rs.network(n, dataset="digits", image_size=28) for n in (net, small))
    _, test = rs.load_data("digits", image_size=28)
    few = test.between(0, 20)
    assert rs.evaluate(made, few) == rs.evaluate(plain, few)
    attacked = [rs.attack(n, few, tier="quick", epsilon=0.1).accuracies() for n in (made, plain)]
    assert attacked[0] == attacked[1]
    with pytest.raises(UserError, match="Branching cannot be written as a graph of layers"):
        rs.layers(made)


def test_a_map_of_stitches_is_made_of_what_lives_in_memory(small, digits, tmp_path):
    """Each cell is the stitch of its layers; what is said is refused where it cannot be meant."""
    front, end = (rs.network(small, mean=MEAN, std=STD, image_size=28) for _ in "ab")
    splits = rs.load_data("digits", image_size=28)
    settings = {"epochs": 1, "no_robustness": True}
    layers = {"front_layers": ("conv", "bn"), "end_layers": ("bn", "relu")}
    found = rs.stitch_map(front, end, splits, **layers, **settings)
    table = found.table()
    assert list(table.index) == ["conv", "bn"] and list(table.columns) == ["bn", "relu"]
    alone = rs.stitch(front, end, "conv", "relu", splits, recipe="fast", **settings)
    assert table.loc["conv", "relu"] == alone.scores["stitched"].accuracy
    assert found.table("stitched.agreement_with_end").to_numpy().min() > 0.5
    with pytest.raises(UserError, match=r"no cell has a number 'stitched\.acuracy'"):
        found.table("stitched.acuracy")
    for wrong, told in (
        ({"cells": "some"}, "'some'"),
        ({"front_layer": ("conv",)}, "front_layers"),
        ({"eval_dataset": "mnist"}, "`elsewhere`"),
        ({"front_layers": ("nowhere",)}, "nowhere"),
    ):
        with pytest.raises(UserError, match=told):
            rs.stitch_map(front, end, splits, **settings | wrong)
    paths = rs.write_report(found, tmp_path / "map")
    assert {"json", "maps", "pdf", "html", "csv", "figures"} == paths.keys()
    assert all(path.exists() for path in paths.values())
    record = json.loads(paths["json"].read_text())
    assert "in memory" in record["plan"]["front"]["path"]
    assert len(list(paths["maps"].iterdir())) == 4


def test_what_is_no_result_and_no_text_is_told_and_nothing_is_left(small, digits, tmp_path):
    pair = [rs.network(small, mean=MEAN, std=STD, image_size=28) for _ in "ab"]
    splits = rs.load_data("digits", image_size=28)
    settings = {"front_layers": ("relu",), "end_layers": ("relu",), "no_robustness": True}
    found = rs.stitch_map(*pair, splits, epochs=1, **settings)
    for call, told in (
        (lambda: rs.write_report(3, tmp_path / "a"), "`stitch` or `stitch_map` returned, not 3"),
        (lambda: rs.write_report(found, None), "folder=None is no text"),
        (lambda: rs.write_report(found, tmp_path / "a", command=4), "command=4 is no text"),
        (lambda: found.table(3), "3 is no key"),
        (lambda: rs.stitch_map(*pair, splits, donors={}, **settings), r"donors=\{\}"),
        (lambda: rs.stitch_map(*pair, splits, warn=None, **settings), "warn=None"),
    ):
        with pytest.raises(UserError, match=told):
            call()
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for folder, told in (
        ("file/below", "Not a directory"),
        ("link", "exists already"),
        ("link/below", "choose another"),
        ("/proc/nowhere/below", "No such file or directory"),
        ("n" * 300, "too long"),
        ("new/" + "n" * 300, "too long"),
        ("a\0b", "null byte"),
        ("", "exists already"),
    ):
        with pytest.raises(rs.UserError, match=told):
            rs.write_report(found, tmp_path / folder)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}
    (tmp_path / "made").mkdir()
    rs.write_report(found, tmp_path / "made" / "report")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["report"]
