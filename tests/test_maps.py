"""Masks, ranks, orthogonal and flattened maps, as the mathematical facts that they are."""

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs import graph
from robust_stitching.graphs.layout import Layout
from robust_stitching.graphs.stitched import StitchedNetwork, rebuild
from robust_stitching.graphs.transform import Form, LinearMap, factors
from robust_stitching.plans import Transform, stitching
from robust_stitching.similarity import Moments
from robust_stitching.stitching import matching
from robust_stitching.stitching.check import check_history, check_map
from robust_stitching.stitching.fit import find_map
from robust_stitching.stitching.initial import initial_values
from robust_stitching.stitching.masks import correlations, mask_of

FULL = Form()


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def moments(x: Tensor, y: Tensor) -> Moments:
    found = Moments(x.shape[1], y.shape[1])
    for a, b in zip(x.split(70), y.split(70), strict=True):
        found.update(a, b)
    return found


def related(inputs: int, outputs: int, n: int = 400) -> tuple[Tensor, Tensor]:
    """x with channels of unequal size and y that follows it but for noise."""
    x = randn(n, inputs) * torch.linspace(0.3, 3, inputs) + 1
    return x, x @ randn(inputs, outputs, seed=1) + 0.5 * randn(n, outputs, seed=2) - 2


def lenet(seed: int) -> torch.nn.Module:
    return models.build("lenet", num_classes=10, in_channels=1, seed=seed).eval()


def fit(digits, layers=("relu2", "relu2"), **options):
    """A short training between two fresh LeNets."""
    config = stitching(*layers, **{"epochs": 2, "batch_size": 64, "lr": 1e-2, **options})
    train = digits[0].between(0, 256)
    cuts = [(lenet(seed), layer) for seed, layer in enumerate(layers)]
    return find_map(*cuts, train, digits[1].between(0, 50), config)


# --- correlations and masks ---


def test_correlations_are_pearsons():
    x, y = related(6, 4)
    x[:, 2], y[:, 1] = 0.1, 7.0  # constant channels
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(np.corrcoef(y.T, x.T)[:4, 4:])
    np.testing.assert_allclose(correlations(moments(x, y)), expected, atol=1e-10)


def test_semi_match_keeps_the_largest_correlation():
    x, y = related(6, 9)
    found = np.corrcoef(y.T, x.T)[:9, 9:]
    assert (found.argmax(1) != abs(found).argmax(1)).any()  # the two masks differ here
    for kind, value in (("semi-match", found), ("abs-semi-match", abs(found))):
        mask = mask_of(kind, 6, 9, 0, moments(x, y)).numpy()
        assert mask.shape == (9, 6) and (mask.sum(1) == 1).all()
        assert (mask.argmax(1) == value.argmax(1)).all()


def test_a_dead_channel_is_nobodys_match():
    x, y = related(3, 1)
    y = -x.sum(1, keepdim=True)  # every living channel correlates negatively
    x[:, 0] = 0
    mask = mask_of("semi-match", 3, 1, 0, moments(x, y))
    assert not mask[0, 0] and mask.sum() == 1


@pytest.mark.parametrize(("inputs", "outputs"), [(7, 7), (9, 5), (4, 6)])
def test_hungarian_is_the_best_assignment(inputs, outputs):
    x, y = related(inputs, outputs)
    mask = mask_of("hungarian", inputs, outputs, 0, moments(x, y)).numpy()
    found = np.corrcoef(y.T, x.T)[:outputs, outputs:]
    rows, columns = linear_sum_assignment(-found)
    assert (mask.sum(0) <= 1).all() and (mask.sum(1) <= 1).all()
    assert mask.sum() == min(inputs, outputs)
    assert found[mask].sum() == pytest.approx(found[rows, columns].sum())


def test_a_permutation_is_found_again():
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    x = randn(300, 8)
    for kind in ("hungarian", "semi-match"):
        mask = mask_of(kind, 8, 8, 0, moments(x, x[:, order] * 3 + 1))
        assert (mask.int().argmax(1) == order).all(), kind


def test_a_random_permutation_is_one_and_depends_on_the_seed():
    one, again, other = (mask_of("random-permutation", 8, 8, seed) for seed in (0, 0, 1))
    assert (one.sum(0) == 1).all() and (one.sum(1) == 1).all()
    assert torch.equal(one, again) and not torch.equal(one, other)
    with pytest.raises(UserError, match=r"mask='random-permutation' needs equally many .* 4 .* 6"):
        mask_of("random-permutation", 4, 6, 0)


def test_no_mask_and_an_unknown_one():
    assert mask_of("identity", 3, 4, 0) is None
    with pytest.raises(UserError, match="unknown mask 'semimatch'; did you mean semi-match"):
        mask_of("semimatch", 3, 4, 0)


@pytest.mark.parametrize(
    "mask", ["semi-match", "abs-semi-match", "hungarian", "random-permutation"]
)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_masked_entries_stay_exactly_zero(digits, mask, optimizer):
    found = fit(digits, mask=mask, optimizer=optimizer, save_frequency=1, weight_decay=0.1)
    kept = found.network.transform.mask
    assert kept.sum() == 16
    assert len(found.maps) > 2
    for one in found.maps:
        assert (one.weight[~kept] == 0).all()
        assert (one.weight[kept] != 0).any()
    assert (found.direct.weight[~kept] == 0).all()
    assert not torch.equal(found.maps[0].weight, found.maps[-1].weight)
    state = found.network.state_dict()
    again = rebuild(found.network.architecture)
    again.load_state_dict(state)
    assert torch.equal(again.transform.mask, kept)
    assert torch.equal(again.transform.matrix, found.network.transform.matrix)


def test_a_mask_lets_ones_be():
    layer = LinearMap(Layout.of((4, 2, 2)), Layout.of((4, 2, 2)), Form(masked=True))
    mask = mask_of("random-permutation", 4, 4, 0)
    layer.mask.copy_(mask)
    layer.set(*initial_values("ones-zeros", 4, 4, 0))
    assert torch.equal(layer.matrix, mask.float())


# --- rank ---


def test_factors_give_the_matrix_back():
    matrix = (randn(7, 3) @ randn(3, 9, seed=1)).float()
    for rank in (3, 5):
        left, right = factors(matrix, rank)
        assert left.shape == (7, rank) and right.shape == (rank, 9)
        torch.testing.assert_close(left @ right, matrix)
        assert (right.abs().sum(dim=1) > 0).all()  # every direction can be learned
    with pytest.raises(ValueError, match="rank 3 has no factors of rank 2"):
        factors(matrix, 2)


@pytest.mark.parametrize("init", ["random", "zeros", "ones-zeros", "ps_inv"])
def test_the_rank_stays_what_was_asked(digits, init):
    found = fit(digits, low_rank=3, init=init, save_frequency=1)
    start = {"zeros": 0, "ones-zeros": 1}.get(init, 3)
    ranks = [np.linalg.matrix_rank(one.weight.numpy(), rtol=1e-5) for one in found.maps]
    assert ranks[0] == start and set(ranks[1:]) == {3}
    assert np.linalg.matrix_rank(found.direct.weight.numpy(), rtol=1e-5) == 3
    again = rebuild(found.network.architecture)
    again.load_state_dict(found.network.state_dict())
    torch.testing.assert_close(again.transform.matrix, found.maps[-1].weight)
    assert sum(p.numel() for p in again.transform.parameters()) == 3 * (16 + 16) + 16


def test_random_factors_have_the_variance_of_a_full_matrix():
    full, low = (initial_values("random", 400, 300, 0, rank)[0] for rank in (None, 50))
    assert low.std().item() == pytest.approx(full.std().item(), rel=0.05)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_direct_matching_of_a_rank_is_the_best_of_that_rank(rank):
    """The best approximation of that rank of the fitted values (Eckart and Young, 1936)."""
    x, y = related(6, 4)
    matrix, bias = (v.double() for v in matching.direct(moments(x, y), rank=rank))
    centred_x, centred_y = ((v - v.mean(0)).numpy() for v in (x, y))
    full = np.linalg.lstsq(centred_x, centred_y, rcond=None)[0]
    u, s, v = np.linalg.svd(centred_x @ full, full_matrices=False)
    expected = (u[:, :rank] * s[:rank]) @ v[:rank] + y.mean(0).numpy()
    np.testing.assert_allclose(x @ matrix.T + bias, expected, atol=1e-4)
    assert np.linalg.matrix_rank(matrix, rtol=1e-5) == rank


def test_direct_matching_under_a_mask_is_least_squares_of_each_row():
    x, y = related(6, 4)
    x[:, 5] = 2.0
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[[0, 1, 2], [3, 3, 5]] = True  # a dead channel, and a row with nothing
    matrix, bias = matching.direct(moments(x, y), mask)
    for row in (0, 1):
        slope, offset = np.polyfit(x[:, 3], y[:, row], 1)
        assert matrix[row, 3].item() == pytest.approx(slope, rel=1e-5)
        assert bias[row].item() == pytest.approx(offset, rel=1e-5)
    assert (matrix[~mask] == 0).all() and (matrix[2:] == 0).all()
    torch.testing.assert_close(bias[2:], y.mean(0)[2:].float())


# --- orthogonal ---


def test_procrustes_is_the_best_orthogonal_matrix():
    x, y = related(5, 5)
    matrix, bias = (v.double() for v in matching.procrustes(moments(x, y)))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(5).double(), atol=1e-6, rtol=0)
    expected, _ = scipy.linalg.orthogonal_procrustes(x - x.mean(0), y - y.mean(0))
    np.testing.assert_allclose(matrix, expected.T, atol=1e-6)
    torch.testing.assert_close((x @ matrix.T + bias).mean(0), y.mean(0), atol=1e-5, rtol=1e-5)


def test_a_planted_rotation_is_found_again(digits):
    rotation = torch.linalg.qr(randn(6, 6))[0]
    x = randn(100, 6)
    matrix, bias = matching.procrustes(moments(x, x @ rotation.T + 3))
    torch.testing.assert_close(matrix.double(), rotation, atol=1e-6, rtol=0)
    torch.testing.assert_close(bias, torch.full((6,), 3.0))
    first = fit(digits, init="procrustes").maps[0].weight.double()
    torch.testing.assert_close(first @ first.T, torch.eye(16).double(), atol=1e-5, rtol=0)


# --- all units ---


def test_flattened_maps_take_every_unit_to_every_unit(digits):
    shapes = (6, 14, 14), (16, 5, 5)
    layer = LinearMap(*map(Layout.of, shapes), Form(flatten=True))
    matrix = randn(400, 6 * 14 * 14).float()
    layer.set(matrix, randn(400).float())
    x = randn(3, *shapes[0]).float()
    expected = x.flatten(1).double() @ matrix.double().T + layer.bias.double()
    assert layer(x).shape == (3, 16, 5, 5)
    torch.testing.assert_close(layer(x).flatten(1).double(), expected, atol=1e-3, rtol=1e-4)
    assert not layer.resizes
    network = StitchedNetwork(lenet(0), "pool1", lenet(1), "pool2", form=layer.form)
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 10)


def test_flattened_direct_matching_is_least_squares_over_units(digits):
    train = digits[0].between(0, 1400)
    cuts = (lenet(0), "pool2"), (lenet(1), "relu3")
    found = matching.moments_of(*cuts[0], *cuts[1], train, Form(flatten=True))
    assert found.n == 1400 and found.xy.shape == (400, 120)
    matrix, bias = matching.direct(found)
    x, y = (
        graph.features(net, [layer])(train.images / 255)[0].detach().double().flatten(1)
        for net, layer in cuts
    )
    design = np.column_stack([x, np.ones(len(x))])
    expected = design @ np.linalg.lstsq(design, y.numpy(), rcond=1e-9)[0]
    np.testing.assert_allclose(x @ matrix.double().T + bias, expected, atol=1e-3)


# --- what goes together ---


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Transform("random", "semi-match", 2), "low_rank=2 and mask='semi-match' exclude"),
        (
            Transform("eye", "hungarian"),
            "init='eye' has its entries elsewhere than mask='hungarian",
        ),
        (Transform("procrustes", "semi-match"), "init='procrustes' has its entries elsewhere"),
        (Transform("random", low_rank=9), "low_rank=9 is more than a matrix of 8×8"),
        (Transform("perm", low_rank=7), "init='perm' has rank 8, low_rank=7 less"),
        (Transform("procrustes", low_rank=7), "init='procrustes' has rank 8"),
    ],
)
def test_what_excludes_each_other(plan, said):
    with pytest.raises(UserError, match=said):
        check_map(plan, 8, 8)


def test_full_rank_may_start_from_the_identity():
    check_map(Transform("eye", low_rank=8), 8, 8)
    layer = LinearMap(Layout(8), Layout(8), Form(rank=8))
    layer.set(*initial_values("eye", 8, 8, 0))
    torch.testing.assert_close(layer.matrix, torch.eye(8))


def test_procrustes_needs_a_square():
    with pytest.raises(UserError, match=r"init='procrustes' needs equally many channels .* 6 .* 8"):
        check_map(Transform("procrustes"), 8, 6)


def test_maps_that_are_too_large():
    with pytest.raises(UserError, match="a map of 16,384×16,384 units has 268,435,456 weights"):
        check_map(Transform(flatten=True), 16384, 16384)
    with pytest.raises(UserError, match="save_frequency=13 or more"):
        check_history(10**7, 300, 1, 1)
    check_history(10**7, 300, 13, 1)  # 25 maps of 40 MB
    with pytest.raises(UserError, match="between 16,384 and 16,384 units would take too long"):
        network = models.build("resnet_w1", num_classes=10, in_channels=1)
        matching.moments_of(network, "relu", network, "relu", None, Form(flatten=True))
