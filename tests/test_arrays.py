"""Measures on plain arrays against formulas in float64 NumPy and SciPy, against `compare`, and what
they say of arrays that they cannot take."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import orth, orthogonal_procrustes, subspace_angles
from scipy.spatial.distance import cdist, jensenshannon
from scipy.special import softmax

from measure_formulas import FORMULAS as MORE
from robust_stitching import models, similarity
from robust_stitching.data import Split
from robust_stitching.similarity import MEASURES, compare
from robust_stitching.similarity.forms import Settings

N = 90


def function(name: str):
    return getattr(similarity, name.replace("-", "_"))


def centred(x):
    return x - x.mean(axis=0)


def hsic(x, y):
    """Song et al. (2012), equation 3: over Gram matrices without diagonal."""
    k, m = ((side @ side.T) * (1 - np.eye(len(side))) for side in (x, y))
    n = len(k)
    total = (k @ m).trace() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
    return total / (n * (n - 3))


def by_hsic(x, y, size):
    cuts = [slice(i, i + size) for i in range(0, len(x), size) if len(x[i : i + size]) >= 4]
    xy, xx, yy = (
        sum(len(a[cut]) * hsic(a[cut], b[cut]) for cut in cuts) for a, b in ((x, y), (x, x), (y, y))
    )
    return xy / np.sqrt(xx * yy)


def exact(x, y):
    x, y = centred(x), centred(y)
    return np.sum((x.T @ y) ** 2) / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


def procrustes(x, y):
    x, y = (centred(side) / np.linalg.norm(centred(side)) for side in (x, y))
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (x, y))
    return np.linalg.norm(x @ orthogonal_procrustes(x, y)[0] - y) ** 2


def correlations(x, y):
    return np.cos(subspace_angles(orth(centred(x)), orth(centred(y))))


def principal(x):
    u, s, _ = np.linalg.svd(centred(x), full_matrices=False)
    return u[:, : np.searchsorted(np.cumsum(s**2) / np.sum(s**2), 0.99) + 1]


def explained(x, y):
    design = np.column_stack([x, np.ones(len(x))])
    rest = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - np.sum(rest**2) / np.sum(centred(y) ** 2)


def shared_neighbours(x, y, k):
    near = []
    for side in (x, y):
        distances = cdist(side, side, "cosine")
        np.fill_diagonal(distances, np.inf)
        near.append(distances.argsort(axis=1)[:, :k])
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(*near, strict=True)])


FORMULAS = {
    "minibatch-cka": lambda x, y: by_hsic(x, y, 250),
    "debiased-cka": lambda x, y: by_hsic(x, y, N),
    "cka": exact,
    "procrustes": procrustes,
    "cca": lambda x, y: correlations(x, y).mean(),
    "squared-cca": lambda x, y: (correlations(x, y) ** 2).mean(),
    "svcca": lambda x, y: correlations(principal(x), principal(y)).mean(),
    "regression": explained,
    "mutual-knn": lambda x, y: shared_neighbours(x, y, 10),
    "disagreement": lambda x, y: np.mean(x.argmax(1) != y.argmax(1)),
    "agreement": lambda x, y: np.mean(x.argmax(1) == y.argmax(1)),
    "jensen-shannon": lambda x, y: np.mean(
        jensenshannon(softmax(x, axis=1), softmax(y, axis=1), axis=1) ** 2
    ),
    **MORE,
}
RANKED = [name for name in MEASURES if "knn" in name or name in ("imd", "second-order-cosine")]
RANKED += [name for name in MEASURES if "rank" in name or "spearman" in name]
LEAST = {"debiased-cka": 4, "minibatch-cka": 4, "unbiased-distance-correlation": 4, "imd": 7}
LEAST |= {name: 3 for name in MEASURES if name.startswith("rsa")}
OF_LAYERS = [name for name, measure in MEASURES.items() if not measure.of_outputs]
OF_CHANNELS = [name for name, measure in MEASURES.items() if measure.of == "channels"]
OF_MAPS = [name for name, measure in MEASURES.items() if measure.of == "maps"]


def pair(name: str = "cka", n: int = N) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 8)) * np.linspace(0.3, 2, 8) + 1
    other = 8 if MEASURES[name].of_outputs else 5
    return x, x @ rng.normal(size=(8, other)) / 3 + rng.normal(size=(n, other))


def maps(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 5, 6, 4)) + rng.normal(size=(n, 5, 1, 1))
    y = x[:, :3, ::2, ::2] + rng.normal(size=(n, 3, 3, 2)) / 2
    return x, y


# Values


@pytest.mark.parametrize("name", MEASURES)
def test_the_formula_in_float64(name):
    x, y = pair(name)
    found = function(name)(x, y)
    assert type(found) is float and found == pytest.approx(FORMULAS[name](x, y), abs=1e-10)
    assert function(name)(torch.from_numpy(x), torch.from_numpy(y)) == found


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    "convert",
    [
        lambda v: v.astype(np.float32),
        lambda v: v.astype(np.float16),
        lambda v: v.astype(">f4"),
        lambda v: np.asfortranarray(v)[::-1][::-1],
        lambda v: torch.from_numpy(v).bfloat16(),
        lambda v: torch.from_numpy(v).half(),
        lambda v: torch.from_numpy(v).float().requires_grad_(),
        lambda v: (10 * v).astype(np.int64),
        lambda v: torch.from_numpy(10 * v).int(),
        lambda v: (10 * v).clip(0, 255).astype(np.uint8),
        lambda v: v > 1,
    ],
)
def test_other_kinds_of_numbers(name, convert):
    arrays = [convert(side) for side in pair(name)]
    plain = [
        side.detach().double().numpy() if isinstance(side, torch.Tensor) else side.astype(float)
        for side in arrays
    ]
    # Rounded numbers have ties among neighbours, which are a subject of their own.
    expected = (function if name in RANKED else FORMULAS.get)(name)(*plain)
    assert function(name)(*arrays) == pytest.approx(expected, rel=1e-7, abs=1e-6)
    mixed = function(name)(arrays[0], torch.from_numpy(plain[1]))
    assert mixed == pytest.approx(expected, rel=1e-7, abs=1e-6)


def test_arrays_stay_as_they_are():
    for name in MEASURES:
        arrays = pair(name)
        for side in arrays:
            side.flags.writeable = False
        before = [side.copy() for side in arrays]
        function(name)(*arrays)
        for side, copy in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(side, copy)


@pytest.mark.parametrize("name", OF_MAPS)
def test_cka_takes_whole_maps(name):
    x, y = maps()
    expected = FORMULAS[name](x.reshape(N, -1), y.reshape(N, -1))
    assert function(name)(x, y) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", OF_CHANNELS)
def test_measures_of_channels_take_means_over_positions(name):
    x, y = maps()
    expected = FORMULAS[name](x.mean((2, 3)), y.mean((2, 3)))
    assert function(name)(x, y) == pytest.approx(expected, abs=1e-10)
    assert function(name)(x, y.mean((2, 3))) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", OF_CHANNELS)
def test_or_all_positions_of_the_coarser_grid(name):
    x, y = maps()
    coarse = F.adaptive_avg_pool2d(torch.from_numpy(x), (3, 2)).numpy()
    rows = [side.transpose(0, 2, 3, 1).reshape(-1, side.shape[1]) for side in (coarse, y)]
    found = function(name)(x, y, positions="all")
    assert found == pytest.approx(FORMULAS[name](*rows), abs=1e-10)


def test_settings():
    x, y = pair()
    assert similarity.minibatch_cka(x, y, batch_size=20) == pytest.approx(by_hsic(x, y, 20))
    assert similarity.minibatch_cka(x, y, batch_size=87) == pytest.approx(by_hsic(x, y, 87))
    assert similarity.mutual_knn(x, y, k=3) == pytest.approx(shared_neighbours(x, y, 3))
    p, q = pair("disagreement")
    differ = similarity.disagreement(p, q, multi_label=True)
    assert differ == pytest.approx(np.mean((p > 0) != (q > 0)))
    assert similarity.agreement(p, q, multi_label=True) == 1 - differ


@pytest.fixture(scope="module")
def compared():
    """Activations at conv1 and pool2, answers, and all that `compare` says of them."""
    networks = [models.build("lenet", num_classes=10, in_channels=1, seed=seed) for seed in (0, 1)]
    g = torch.Generator().manual_seed(5)
    images = torch.randint(256, (N, 1, 32, 32), generator=g, dtype=torch.uint8)
    split = Split("Some", images, torch.arange(N), tuple("0123456789"))
    kept, answers = [], []
    for network, layer in zip(networks, ("conv1", "pool2"), strict=True):
        network.get_submodule(layer).register_forward_hook(lambda m, x, out: kept.append(out))
    with torch.no_grad():
        order = torch.cat([numbers for _, numbers in split.epoch(250, seed=0, epoch=0)])
        for network in networks:
            answers.append(network(images[order] / 255))
    seen = kept[:2]
    return seen, answers, compare(*networks, split, ["conv1"], ["pool2"], ["all"])


@pytest.mark.parametrize("name", MEASURES)
def test_the_number_is_that_of_compare(name, compared):
    seen, answers, found = compared
    if MEASURES[name].of_outputs:
        assert function(name)(*answers) == pytest.approx(found.outputs[name], abs=1e-7)
    else:
        value = found.layerwise[name].item()
        assert function(name)(*seen) == pytest.approx(value, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", OF_LAYERS)
def test_what_does_not_vary_has_no_value(name):
    x, _ = pair()
    for constant in (np.zeros((N, 3)), np.full((N, 3), 0.1, np.float32)):
        assert math.isnan(function(name)(constant, constant))
        found = (constant, x) if name == "reverse-regression" else (x, constant)
        assert math.isnan(function(name)(*found))


# What is refused


def refused(name, x, y, **settings) -> str:
    with pytest.raises(ValueError) as error:
        function(name)(x, y, **settings)
    told = str(error.value)
    assert "\n" not in told
    return told


@pytest.mark.parametrize("name", MEASURES)
def test_arrays_that_are_no_representations(name):
    x, y = pair(name)
    takes = "takes (n, answers)" if MEASURES[name].of_outputs else "takes (n, d) or (n, C, H, W)"
    for wrong in (x[:, 0], x[:, :, None], x[:, :, None, None, None], np.float64(3)):
        told = refused(name, wrong, y)
        assert told.startswith("x is of shape (") and takes in told
        assert refused(name, x, wrong).startswith("y is of shape (")
    for value in (np.nan, np.inf, -np.inf):
        broken = y.copy()
        broken[3, 1] = value
        assert refused(name, x, broken) == "y holds values that are NaN or infinite"
        assert refused(name, broken, y) == "x holds values that are NaN or infinite"
    assert refused(name, x + 1j, y) == "x holds no real numbers but complex128"
    assert refused(name, torch.from_numpy(x) + 1j, y).startswith("x holds no real numbers")
    assert refused(name, np.array([["a"]]), y).startswith("x holds no real numbers but <U1")
    assert refused(name, x[:0], y[:0]) == "x is empty: its shape is (0, 8)"
    assert refused(name, x, y[:7]) == f"x has {N} images and y 7; {name} needs the same ones"


@pytest.mark.parametrize("name", OF_LAYERS)
def test_too_few_images(name):
    x, y = pair()
    assert f"{name} needs at least 2 images, not 1" == refused(name, x[:1], y[:1])
    measure, least = MEASURES[name], 2
    while told := measure.too_few(least, Settings()):
        if least > 2:
            assert refused(name, x[:least], y[:least]) == told
        least += 1
    assert least == LEAST.get(name, 12 if measure.uses("k") else 2)
    if not measure.more_rows_than:
        assert math.isfinite(function(name)(x[:least], y[:least]))
        return
    wide = {1: (x, y), 2: (y, x)}
    for number, sides in wide.items():
        enough = number not in measure.more_rows_than
        if enough:  # the other side may have as many as it likes
            assert function(name)(*(side[:8] for side in sides)) < 1
        else:
            told = refused(name, *(side[:8] for side in sides))
            shapes = "x is {} and y {}".format(*(side[:8].shape for side in sides))
            assert told == f"{name} needs more rows than channels, but {shapes}"
        assert math.isfinite(function(name)(*(side[:9] for side in sides)))


def test_settings_that_mean_nothing():
    x, y = pair()
    told = refused("minibatch-cka", x, y, batch_size=3)
    assert told == "minibatch-cka needs batches of at least 4 images, not 3"
    assert "batches of 0 images" in refused("minibatch-cka", x, y, batch_size=0)
    assert "at least 1 neighbour" in refused("mutual-knn", x, y, k=0)
    assert "needs at least 91 images" in refused("mutual-knn", x, y, k=89)
    told = refused("cca", x, y, positions="some")
    assert told == "positions are pooled or all, not 'some'"


@pytest.mark.parametrize("name", ["disagreement", "agreement", "jensen-shannon"])
def test_answers_to_other_questions(name):
    x, y = pair(name)
    assert refused(name, x, y[:, :6]) == "x has 8 answers for an image and y 6"
