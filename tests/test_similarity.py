"""Similarity measures against dense float64 formulas in NumPy, and the laws they obey."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import norm
from sklearn.metrics import cohen_kappa_score
from torch import Tensor, nn

from robust_stitching import models
from robust_stitching.data import Split
from robust_stitching.similarity import Moments, cka, compare_outputs, debiased_cka
from robust_stitching.similarity.blocks import Blocks
from robust_stitching.similarity.gram import GramMatrices, GramSums, normalised
from robust_stitching.similarity.stream import ArrayStream
from robust_stitching.stitching.scores import measure

N = 2000
BLOCK_BYTES = "robust_stitching.similarity.blocks.BLOCK_BYTES"


def dense_cka(x: Tensor, y: Tensor) -> float:
    """Kornblith et al. (2019), equation 5, from centred Gram matrices."""
    rows = [values.flatten(1).double().numpy() for values in (x, y)]
    k, m = ((r - r.mean(0)) @ (r - r.mean(0)).T for r in rows)  # HKH = (HX)(HX)ᵀ
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def dense_debiased(x: Tensor, y: Tensor) -> float:
    """With the unbiased HSIC of Song et al. (2012), equation 4: Gram matrices without diagonal."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n, ones = len(k), np.ones(len(k))
        total = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return np.trace(k @ m) + total - 2 / (n - 2) * ones @ k @ m @ ones

    rows = [values.flatten(1).double().numpy() for values in (x, y)]
    grams = [(r - r.mean(0)) @ (r - r.mean(0)).T for r in rows]
    k, m = (gram - np.diag(np.diag(gram)) for gram in grams)
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def related(n: int = N, p: int = 300, q: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two float32 representations that share a part."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=g) * torch.rand(p, generator=g)
    return x, x @ torch.randn(p, q, generator=g) / p**0.5 + torch.randn(n, q, generator=g) / 2


def in_batches(x: Tensor, y: Tensor, size: int) -> Moments:
    moments = Moments(x.shape[1], y.shape[1])
    for a, b in zip(x.split(size), y.split(size), strict=True):
        moments.update(a, b)
    return moments


ORTHOGONAL = torch.linalg.qr(torch.randn(300, 300, generator=torch.Generator().manual_seed(1)))[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x @ ORTHOGONAL,
        lambda x: 1e-3 * x,
        lambda x: -50 * x,
        lambda x: x + 100 * torch.rand(300, generator=torch.Generator().manual_seed(2)),
        lambda x: x.flip(1).reshape(N, 3, 10, 10),
    ],
    ids=["same", "orthogonal", "smaller", "negative", "shifted", "rearranged"],
)
def test_cka_does_not_see(change):
    x, y = related()
    assert cka(x, change(x)) == pytest.approx(1, abs=1e-6)
    assert cka(change(x), y) == pytest.approx(dense_cka(x, y), abs=1e-6)


@pytest.mark.parametrize("k", [1, 10, 40])
def test_cka_of_a_part_of_orthonormal_features_is_known(k):
    x, _ = related(n=500, p=40)
    basis = torch.linalg.qr((x - x.mean(0)).double())[0]
    expected = (k / 40) ** 0.5
    assert cka(basis.float(), basis[:, :k].float()) == pytest.approx(expected, abs=1e-6)
    assert in_batches(basis, basis[:, :k], 100).cka() == pytest.approx(expected, abs=1e-10)


def streamed(arrays: list[Tensor], batch_size: int, *takers: type) -> Blocks:
    stream = ArrayStream(arrays, batch_size)
    blocks = Blocks(stream.n, batch_size, len(arrays), stream.image_bytes, takers)
    stream.gather([], blocks)
    return blocks


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("batch_size", [250, 300, 5000])
@pytest.mark.parametrize("block_bytes", [2**30, 8_000_000, 1])
def test_streamed_cka_is_the_dense_formula(monkeypatch, batch_size, block_bytes, offset):
    monkeypatch.setattr(BLOCK_BYTES, block_bytes)
    x, y = related(n=1100)
    values = [x + offset, y - offset, (y[:, :50] - x[:, :50]).relu()]
    blocks = streamed(values, batch_size, GramSums)
    assert len(blocks.starts) == -(-1100 // blocks.size)
    assert (len(blocks.starts) > 1) is (block_bytes < 2**30 and batch_size < 1100)
    sums = blocks.taken[GramSums]
    exact, debiased = normalised(sums.biased()), normalised(sums.unbiased())
    for i, j in ((0, 1), (2, 1), (0, 0)):
        pair = values[i], values[j]
        assert exact[i, j].item() == pytest.approx(dense_cka(*pair), abs=1e-6)
        assert debiased[i, j].item() == pytest.approx(dense_debiased(*pair), abs=1e-6)


@pytest.mark.parametrize("block_bytes", [2**30, 1])
def test_gram_matrices_are_whole_where_they_are_kept(monkeypatch, block_bytes):
    monkeypatch.setattr(BLOCK_BYTES, block_bytes)
    values = [side.double() for side in related(n=130, p=9, q=4)]
    blocks = streamed(values, 40, GramMatrices)
    for side, matrix in zip(values, blocks.taken[GramMatrices].matrices, strict=True):
        shifted = side - side[:40].mean(0)
        torch.testing.assert_close(matrix, shifted @ shifted.T)


def test_cka_in_float64_is_exact_to_float64():
    x, y = (side.double() + 3 for side in related(n=300))
    assert cka(x, y) == pytest.approx(dense_cka(x, y), abs=1e-12)
    assert debiased_cka(x, y) == pytest.approx(dense_debiased(x, y), abs=1e-12)


def test_cka_does_not_depend_on_the_order_of_the_images():
    x, y = related(n=500)
    x[:250] += 1000  # the first batch, whose mean is the shift, is unlike all the others
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    expected = dense_cka(x, y)
    assert cka(x, y) == pytest.approx(expected, abs=1e-6)
    assert cka(x[order], y[order]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("block_bytes", [2**30, 500_000])
def test_a_stream_passes_as_often_as_blocks_need_it_and_takers_see_it_once(
    monkeypatch, block_bytes
):
    monkeypatch.setattr(BLOCK_BYTES, block_bytes)
    asked, seen = [], []

    class Watched(ArrayStream):
        def batches(self, start=0):
            asked.append(start)
            return super().batches(start)

    stream = Watched(list(related(n=450)), 100)
    blocks = Blocks(450, 100, 2, stream.image_bytes, [GramSums])
    stream.gather([lambda batch: seen.append(batch.at)], blocks)
    assert asked == list(blocks.starts) and len(asked) == (1 if block_bytes == 2**30 else 5)
    assert seen == [0, 100, 200, 300, 400]


@pytest.mark.parametrize(
    ("n", "constant"), [(1000, 0.0), (1500, 3.7), (237, 0.0017876971), (1790, -0.0023587353)]
)
def test_the_similarity_to_a_constant_is_not_defined(n, constant):
    x, y = torch.full((n, 3), constant), related(n=n)[1]
    found = [cka(x, y), cka(y, x), cka(x, x), in_batches(x, y, 97).cka()]
    assert np.isnan(found).all(), found


def test_cka_needs_the_same_images():
    with pytest.raises(ValueError, match="x has 5 images and y 4"):
        cka(torch.rand(5, 2), torch.rand(4, 2))


@pytest.mark.parametrize("size", [1, 7, 300, 999, 5000])
def test_moments_are_numpys_covariance_however_the_data_is_batched(size):
    x, y = related(p=12, q=5)
    x, y = 1000 + 0.01 * x, 30 * y
    moments = in_batches(x, y, size)
    expected = np.cov(x.double().numpy(), y.double().numpy(), rowvar=False) * (N - 1)
    upper, lower = ([moments.xx, moments.xy], [moments.xy.T, moments.yy])
    found = torch.cat([torch.cat(upper, dim=1), torch.cat(lower, dim=1)]).numpy()
    scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-10)
    np.testing.assert_allclose(moments.mean_x, x.double().mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.mean_y, y.double().mean(0), rtol=1e-12)
    assert moments.n == N and moments.xx.dtype == torch.float64
    assert moments.cka() == pytest.approx(dense_cka(x, y), abs=1e-10)


@pytest.mark.parametrize("scales", [(1, 1), (1e-3, 1e3)])
def test_least_squares_recovers_a_planted_map(scales):
    x, _ = related(p=20)
    x = x.double() * torch.logspace(*np.log10(scales), 20) + 5
    g = torch.Generator().manual_seed(3)
    planted, shift = torch.randn(7, 20, generator=g).double(), torch.randn(7, generator=g).double()
    weight, bias = in_batches(x, x @ planted.T + shift, 300).least_squares()
    torch.testing.assert_close(weight, planted, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(bias, shift, atol=1e-6, rtol=0)


def test_least_squares_is_numpys_with_an_intercept():
    x, y = (values.double() for values in related(p=20, q=7))
    weight, bias = in_batches(x, y + 3, 300).least_squares()
    design = np.column_stack([x, np.ones(N)])
    expected = np.linalg.lstsq(design, (y + 3).numpy())[0]
    np.testing.assert_allclose(weight.T, expected[:-1], atol=1e-9)
    np.testing.assert_allclose(bias, expected[-1], atol=1e-9)


@pytest.mark.parametrize("n", [N, 15])
def test_least_squares_with_dead_and_duplicated_channels(n):
    """Also with fewer rows than channels."""
    x, y = (values.double() for values in related(n=n, p=20, q=7))
    x[:, 3], x[:, 8], x[:, 5], x[:, 9] = 0, 0.5, x[:, 4], 3 * x[:, 4] - 1
    weight, bias = in_batches(x, y, 97).least_squares()
    design = np.column_stack([x, np.ones(n)])
    expected = design @ np.linalg.lstsq(design, y.numpy(), rcond=1e-10)[0]
    np.testing.assert_allclose(x @ weight.T + bias, expected, atol=1e-6)
    assert (weight[:, [3, 8]] == 0).all()
    np.testing.assert_allclose(weight[:, 4], weight[:, 5], atol=1e-9)


@pytest.mark.parametrize("ulps", [0, 1])
def test_a_channel_that_is_constant_but_for_rounding_gets_no_huge_weight(ulps):
    """As bilinear resizing makes one of a constant. The map is applied in float32."""
    x, y = (values.double() for values in related(p=20, q=7))
    x[:, 8] = 0.1
    x[::3, 8] += ulps * 2**-27
    weight, bias = in_batches(x, y, 97).least_squares()
    assert weight[:, 8].abs().max() < 1e3
    assert bias.abs().max() < 1e3


def test_answers_against_plain_numpy():
    g = torch.Generator().manual_seed(0)
    logits, reference = (4 * torch.randn(500, 5, generator=g) for _ in range(2))
    labels = torch.randint(5, (500,), generator=g)
    logits[:200] = reference[:200] + 0.1
    found = compare_outputs(logits, reference, labels)
    own, other, truth = logits.double().numpy(), reference.double().numpy(), labels.numpy()
    right, expected = own.argmax(1) == truth, other.argmax(1) == truth
    assert found.agreement == np.mean(own.argmax(1) == other.argmax(1))
    log_p, log_q = log_softmax(other, axis=1), log_softmax(own, axis=1)
    assert found.cross_entropy == pytest.approx(-(np.exp(log_p) * log_q).sum(1).mean(), abs=1e-10)
    p, q = np.exp(log_p), np.exp(log_q)
    each = (p * q).sum(1) / np.maximum((p * p).sum(1), (q * q).sum(1))
    assert found.agreement_probability == pytest.approx(each.mean(), abs=1e-12)
    half = norm.ppf(0.975) * each.std(ddof=1) / 500**0.5
    low, high = found.agreement_probability_interval
    assert (low, high) == pytest.approx((each.mean() - half, each.mean() + half), abs=1e-9)
    assert found.kappa == pytest.approx(cohen_kappa_score(right, expected), abs=1e-12)
    assert found.overlap == {
        "rr": np.mean(right & expected),
        "rw": np.mean(right & ~expected),
        "wr": np.mean(~right & expected),
        "ww": np.mean(~right & ~expected),
    }


def test_answers_that_are_the_same_agree_wholly():
    """And kappa has no value where there is nothing that chance would leave open."""
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 5
    found = compare_outputs(logits, logits, labels)
    assert found.agreement_probability == pytest.approx(1) and found.kappa == pytest.approx(1)
    assert compare_outputs(logits, logits, logits.argmax(1)).kappa is None
    far = torch.eye(5)[labels] * 100
    assert compare_outputs(far, far.roll(1, dims=1), labels).agreement_probability < 1e-9
    one = compare_outputs(logits[:1], logits[:1], labels[:1])
    assert one.agreement_probability_interval == (0, 1)


def lenet(seed: int, classes: int = 10) -> nn.Module:
    return models.build("lenet", num_classes=classes, in_channels=1, seed=seed)


def some_images(n: int = 300) -> Split:
    g = torch.Generator().manual_seed(5)
    images = torch.randint(256, (n, 1, 32, 32), generator=g, dtype=torch.uint8)
    return Split("Some", images, torch.randint(10, (n,), generator=g), tuple("0123456789"))


def seen(network: nn.Module, layer: str, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Float64 activations, flat, and logits, by a forward hook."""
    kept = []
    handle = network.get_submodule(layer).register_forward_hook(lambda m, x, out: kept.append(out))
    with torch.no_grad():
        logits = network(split.images / 255)
    handle.remove()
    return kept[0].flatten(1).double().numpy(), logits.double().numpy()


@pytest.mark.parametrize("block_bytes", [2**30, 1])
def test_scores_against_plain_numpy(monkeypatch, block_bytes):
    monkeypatch.setattr(BLOCK_BYTES, block_bytes)
    split, front, end = some_images(), lenet(0), lenet(1)
    scores = measure({"front": (front, "relu2"), "end": (end, "relu2")}, split)
    x, own = seen(front, "relu2", split)
    y, other = seen(end, "relu2", split)
    truth = split.labels.numpy()
    found = scores["front"]
    accuracy, best = (np.mean(values.argmax(1) == truth) for values in (own, other))
    assert found.accuracy == pytest.approx(accuracy) and found.n_images == 300
    assert found.relative_accuracy == pytest.approx(accuracy / best)
    loss = -log_softmax(own, axis=1)[np.arange(300), truth].mean()
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert found.l2_to_end == pytest.approx(np.linalg.norm(x - y, axis=1).mean(), rel=1e-6)
    relative = np.linalg.norm(x - y) / np.linalg.norm(y)
    assert found.relative_l2_to_end == pytest.approx(relative, rel=1e-6)
    relative = np.linalg.norm(own - other) / np.linalg.norm(other)
    assert found.relative_logit_l2_to_end == pytest.approx(relative, rel=1e-5)
    logit_l2 = np.linalg.norm(own - other, axis=1).mean()
    assert found.logit_l2_to_end == pytest.approx(logit_l2, rel=1e-5)
    dense = [dense_cka(torch.tensor(a), torch.tensor(b)) for a, b in ((x, y), (own, other))]
    assert found.cka_to_end == pytest.approx(dense[0], abs=1e-6)
    assert found.logit_cka_to_end == pytest.approx(dense[1], abs=1e-5)
    assert found.outputs.agreement == np.mean(own.argmax(1) == other.argmax(1))
    same = scores["end"].as_dict()
    assert same["agreement_with_end"] == same["relative_accuracy"] == 1
    assert same["l2_to_end"] == same["logit_l2_to_end"] == 0
    assert same["cka_to_end"] == pytest.approx(1) == same["logit_cka_to_end"]
    assert same["overlap_with_end"] == {"rr": best, "rw": 0, "wr": 0, "ww": pytest.approx(1 - best)}


def test_only_answers_are_compared_without_similarity():
    split, networks = some_images(60), {"front": (lenet(0), "relu2"), "end": (lenet(1), "relu2")}
    full, short = (measure(networks, split, similarity=s)["front"].as_dict() for s in (True, False))
    left_out = {
        "cka_to_end",
        "debiased_cka_to_end",
        "debiased_cka_to_end_interval",
        "l2_to_end",
        "relative_l2_to_end",
        "logit_cka_to_end",
        "logit_l2_to_end",
        "relative_logit_l2_to_end",
    }
    assert {key for key, value in short.items() if value is None} == left_out
    shared = set(full) - left_out - {"overlap_with_end_interval"}
    assert all(short[key] == pytest.approx(full[key], rel=1e-6) for key in shared)


def test_a_front_for_other_classes_is_compared_at_the_cut_alone():
    split, front, end = some_images(100), lenet(0, classes=7), lenet(1)
    found = measure({"front": (front, "relu2"), "end": (end, "relu2")}, split)["front"]
    (x, _), (y, _) = seen(front, "relu2", split), seen(end, "relu2", split)
    assert found.accuracy is found.loss is found.outputs is found.logit_cka_to_end is None
    assert found.cka_to_end == pytest.approx(dense_cka(*map(torch.tensor, (x, y))), abs=1e-6)
    assert found.l2_to_end == pytest.approx(np.linalg.norm(x - y, axis=1).mean(), rel=1e-6)


def test_activations_of_other_shapes_and_constant_ones():
    split, front, end = some_images(60), lenet(0), lenet(1)
    other = measure({"front": (front, "fc1"), "end": (end, "relu2")}, split)["front"]
    assert other.l2_to_end is None and 0 < other.cka_to_end < 1
    with torch.no_grad():
        front.fc1.bias.fill_(-1e3)  # every ReLU behind it is dead
    dead = measure({"front": (front, "relu3"), "end": (end, "relu3")}, split)["front"]
    assert dead.cka_to_end is None and dead.logit_cka_to_end is None
    assert dead.l2_to_end > 0 and dead.relative_l2_to_end == 1
    lone = measure({"front": (end, "relu3"), "end": (front, "relu3")}, split)["front"]
    assert lone.l2_to_end > 0 and lone.relative_l2_to_end is None  # a share of nothing


def test_measuring_leaves_every_mode_as_it_was():
    networks = {name: models.build("tiny10", num_classes=10, in_channels=1) for name in "ab"}
    networks["b"].eval()
    before = [m.training for n in networks.values() for m in n.modules()]
    mean = networks["a"].bn1.running_mean.clone()
    measure({"front": (networks["a"], "bn1"), "end": (networks["b"], "bn1")}, some_images(20))
    assert before == [m.training for n in networks.values() for m in n.modules()]
    assert torch.equal(networks["a"].bn1.running_mean, mean)


def test_blocks_shrink_where_features_are_many(monkeypatch):
    """The numbers stay, and no block holds more than its bytes."""
    x, y = (torch.randn(50, 30, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    expected = cka(x, y)
    monkeypatch.setattr(BLOCK_BYTES, (4 * 60 + 16 * 2 * 7) * 15)
    blocks = streamed([x, y], 7, GramSums)
    assert blocks.size == 14 and list(blocks.starts) == [0, 14, 28, 42]
    found = normalised(blocks.taken[GramSums].biased())[0, 1].item()
    assert found == pytest.approx(expected, abs=1e-6)
