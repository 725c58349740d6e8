"""Gram matrices made while batches stream past."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from robust_stitching import models
from robust_stitching.data import Split
from robust_stitching.graphs.layout import Layout
from robust_stitching.similarity import cka, compare, debiased_cka, minibatch_cka
from robust_stitching.similarity.blocks import Batches, Room, grams
from robust_stitching.similarity.forms import POOLED
from robust_stitching.similarity.gram import GramSums, normalised
from robust_stitching.similarity.rows import Rows
from robust_stitching.similarity.stream import AT_ONCE
from test_measures import dense_debiased, dense_minibatch
from test_similarity import dense_cka

LAYERS = ["conv1", "bn1", "layer1.0.add", "layer2.0.add", "layer3.0.add"]


def images(n: int, channels: int = 1) -> Split:
    g = torch.Generator().manual_seed(7)
    pixels = torch.randint(256, (n, channels, 32, 32), generator=g, dtype=torch.uint8)
    return Split("Noise", pixels, torch.arange(n) % 10, tuple("0123456789"))


def resnet(seed: int) -> torch.nn.Module:
    """A resnet_w1 whose batch norms do something, as those of a trained one."""
    network = models.build("resnet_w1", num_classes=10, in_channels=1, seed=seed).eval()
    g = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            size = module.running_mean.shape
            module.running_mean.copy_(0.3 * torch.randn(size, generator=g))
            module.running_var.copy_(0.2 + torch.rand(size, generator=g))
            module.weight.data.copy_(0.5 + torch.rand(size, generator=g))
            module.bias.data.copy_(0.3 * torch.randn(size, generator=g))
    return network


def seen(network: torch.nn.Module, split: Split) -> list[torch.Tensor]:
    """What hooks see in float64, which knows of no folding."""
    kept, network = {}, network.double()
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: kept.__setitem__(name, out)
        )
        for name in LAYERS
    ]
    with torch.no_grad():
        network(split.images.double() / 255)
    for handle in handles:
        handle.remove()
    network.float()
    return [kept[name] for name in LAYERS]


def test_cka_of_networks_run_folded_and_in_parts_is_that_of_float64():
    networks, split = [resnet(0), resnet(1)], images(150)
    order = torch.cat([n for _, n in numbered(split).epoch(75, seed=0, epoch=0)])
    found = compare(*networks, split, LAYERS, LAYERS, ["minibatch-cka"], batch_size=75)
    first, second = (seen(network, split) for network in networks)
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            expected = dense_minibatch(x[order], y[order], 75)
            value = found.layerwise["minibatch-cka"][i, j].item()
            assert value == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("block_bytes", [2**30, 1])
@pytest.mark.parametrize("measure", ["cka", "debiased-cka"])
def test_so_is_that_of_all_images_where_blocks_are_of_a_few(monkeypatch, block_bytes, measure):
    monkeypatch.setattr("robust_stitching.similarity.blocks.BLOCK_BYTES", block_bytes)
    networks, split = [resnet(0), resnet(1)], images(250)
    found = compare(*networks, split, LAYERS[:2], LAYERS[2:3], [measure], batch_size=100)
    dense = {"cka": dense_cka, "debiased-cka": dense_debiased}[measure]
    (y,) = seen(networks[1], split)[2:3]
    for i, x in enumerate(seen(networks[0], split)[:2]):
        assert found.layerwise[measure][i, 0].item() == pytest.approx(dense(x, y), abs=2e-6)


class Own(torch.nn.Module):
    """A network of somebody's own, of one channel."""

    def __init__(self, seed: int, norm: torch.nn.Module):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.input_shape, self.conv = (1, 32, 32), torch.nn.Conv2d(1, 8, 5, stride=4)
            self.norm, self.fc = norm, torch.nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.after(self.norm(self.conv(x)).mean((2, 3))))

    def after(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Turned(Own):
    """Whose tensor is a copy of itself, but for a single image, where it lies as it should."""

    def after(self, x: torch.Tensor) -> torch.Tensor:
        return x.T.contiguous().T.contiguous()


@pytest.mark.parametrize("n", [64, 65])
def test_a_layer_keeps_its_place_whatever_tensors_are_the_same_in_a_part(n):
    networks = [Turned(seed, torch.nn.Identity()) for seed in (0, 1)]
    found = compare(*networks, images(n), measures=["cka"])
    with torch.no_grad():
        pixels = images(n).images.double() / 255
        answers = [network.double()(pixels) for network in networks]
    assert found.layers1[-1] == "fc"
    assert found.layerwise["cka"][-1, -1].item() == pytest.approx(dense_cka(*answers), abs=1e-6)


def test_a_network_whose_images_depend_on_each_other_is_given_whole_batches():
    norms = [torch.nn.BatchNorm2d(8, track_running_stats=False) for _ in range(2)]
    networks = [Own(seed, norm).eval() for seed, norm in enumerate(norms)]
    split = images(129)
    split.images[:] = split.images // 8 + (torch.arange(129) * 220 // 129)[:, None, None, None]
    found = compare(*networks, split, ["norm"], ["conv"], ["cka"], batch_size=129)
    with torch.no_grad():
        pixels = split.images.double() / 255
        x = norms[0].double()(networks[0].double().conv(pixels))
        y = networks[1].double().conv(pixels)
    assert found.layerwise["cka"].item() == pytest.approx(dense_cka(x, y), abs=1e-6)


def numbered(split: Split) -> Split:
    return Split(split.name, split.images, torch.arange(len(split)), split.classes)


def test_a_network_beside_itself_is_run_once_and_gives_what_a_copy_gives():
    network, copy, split, runs = resnet(0), resnet(0), images(140), []
    handle = network.fc.register_forward_hook(lambda *given: runs.append(len(given[1][0])))
    measures = ["minibatch-cka", "cka", "procrustes", "disagreement"]
    itself = compare(network, network, split, LAYERS, LAYERS[1:], measures)
    handle.remove()
    assert runs.count(AT_ONCE) == 140 // AT_ONCE  # besides what looks for its graph
    other = compare(network, copy, split, LAYERS, LAYERS[1:], measures)
    assert itself.outputs == other.outputs == {"disagreement": 0}
    for name, values in itself.layerwise.items():
        torch.testing.assert_close(values, other.layerwise[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["drifts", "begins far off", "has a large constant"])
def test_batches_far_from_the_first_images_lose_no_digits(kind):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 600, 4, 5, 5, generator=g)
    y = y + x / 2
    if kind == "drifts":
        x = x + torch.arange(600)[:, None, None, None] // 100 * 1000  # one of the two
    elif kind == "begins far off":
        x[:64] *= 1e4
    else:
        x, y = torch.cat([x, torch.full((600, 1, 5, 5), 1e5)], dim=1), y
    exact = [
        torch.cat([part - part.mean(dim=0) for part in side.double().split(100)]) for side in (x, y)
    ]
    expected = dense_minibatch(*exact, 100)
    assert minibatch_cka(x, y, batch_size=100) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_do_not_depend_on_the_number_of_threads(dtype):
    g, before = torch.Generator().manual_seed(0), torch.get_num_threads()
    rows = [torch.randn(90, 300 + i, generator=g).to(dtype) for i in range(5)]
    try:
        torch.set_num_threads(1)
        alone = grams(rows)
        torch.set_num_threads(3)
        beside = grams(rows)
    finally:
        torch.set_num_threads(before)
    for own, one, other in zip(rows, alone, beside, strict=True):
        assert one.dtype == dtype and torch.equal(one, other) and torch.equal(one, one.T)
        exact = np.asarray(own.double()) @ np.asarray(own.double()).T
        assert np.abs(exact - one.numpy()).max() < (1e-3 if dtype == torch.float32 else 1e-11)


def test_rows_are_no_copies_and_in_one_order_for_all_images():
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(9, 4, 3, 2, generator=g)
    room = Room(9, range(1))
    room.put(0, [maps[:8].contiguous(memory_format=torch.channels_last)])
    room.put(8, [maps[8:]])  # of a single image it could lie either way
    (rows,) = room.rows(0, 9)
    moved = (maps - maps[:8].mean(dim=0)).flatten(1)
    torch.testing.assert_close(rows @ rows.T, moved @ moved.T)
    assert rows.is_contiguous() and room.rows(3, 5)[0].data_ptr() == rows[3].data_ptr()


def test_rows_of_channels_have_their_place_from_the_first_images_on():
    """Small ones that are added would hold the memory of activations around them."""
    layout = Layout.of((4, 3, 3))
    rows = Rows(([layout], [layout]), 130, POOLED, seed=0)
    maps, places = torch.randn(130, 4, 3, 3), set()
    for part in maps.split(64):
        rows.add([part, part])
        ((own,), _) = [kept.values() for kept in rows.state()["kept"]]
        places.add((own.data_ptr(), own.shape))
    assert {shape for _, shape in places} == {(130, 4)} and len(places) == 1
    rows.finish()
    torch.testing.assert_close(rows.any_of()[0].rows, maps.mean(dim=(2, 3)))


def test_a_few_features_that_vary_count_beside_large_constant_ones():
    g = torch.Generator().manual_seed(0)
    x, y = torch.full((300, 40), 1e5), torch.randn(300, 6, generator=g)
    x[:, 0] = 0.1 * (torch.randn(300, generator=g) + y[:, 0])
    varying, exact = x[:, :1].double(), y.double()
    assert cka(x, y) == pytest.approx(dense_cka(varying, exact), abs=1e-6)
    assert debiased_cka(x, y) == pytest.approx(dense_debiased(varying, exact), abs=1e-6)
    expected = dense_minibatch(varying, exact, 100)
    assert minibatch_cka(x, y, batch_size=100) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("estimate", [cka, debiased_cka, minibatch_cka])
def test_what_varies_by_rounding_alone_is_constant(estimate):
    g = torch.Generator().manual_seed(0)
    constant = torch.full((300, 40), 1e5) * (1 + 2e-7 * torch.rand(300, 40, generator=g))
    assert len(constant[:, 0].unique()) > 1
    assert math.isnan(estimate(constant, torch.randn(300, 6, generator=g)))


def test_a_number_that_is_none_is_told_in_a_last_batch_that_is_too_small_to_count():
    x, y = torch.randn(2, 131, 4, generator=torch.Generator().manual_seed(0))
    batches = Batches(131, 64, range(2))
    x[-1, 0] = torch.nan
    for at in (0, 64, 128):
        batches.add(at, [x[at : at + 64], y[at : at + 64]])
    assert batches.sums.products.diagonal().isnan().tolist() == [True, False]


def test_comparisons_beside_each_other_leave_the_threads_of_numpy_as_they_were():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 200, 30, generator=g)
    with threadpool_limits(2, user_api="blas"):
        before = threadpool_info()
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(minibatch_cka, x, y, batch_size=20) for _ in range(24)]
            assert len({one.result() for one in asked}) == 1
        assert threadpool_info() == before


def test_autocast_of_the_caller_changes_nothing():
    x, y = torch.randn(2, 300, 30, generator=torch.Generator().manual_seed(0))
    plain = [estimate(x, y) for estimate in (cka, debiased_cka, minibatch_cka)]
    with torch.autocast("cpu", torch.bfloat16):
        assert [estimate(x, y) for estimate in (cka, debiased_cka, minibatch_cka)] == plain


def test_what_centring_leaves_of_a_constant_counts_as_nothing():
    """Of seven rows alike the unbiased HSIC is 8e-12 in float32 sums, not 0."""
    rows = torch.tensor([[0.1, 0.7, 1 / 3, 12.3]], dtype=torch.float64).expand(7, -1)
    sums = GramSums(7, 1)
    sums.add(slice(0, 7), slice(0, 7), (rows @ rows.T)[None].float())
    assert sums.unbiased().item() == sums.biased().item() == 0
    assert not sums.varies().any()
    assert normalised(sums.unbiased()).isnan().all()
