"""Gram matrices made while batches stream past."""

import numpy as np
import pytest
import torch

from robust_stitching import models
from robust_stitching.data import Split
from robust_stitching.similarity import compare, minibatch_cka
from robust_stitching.similarity.blocks import Room, grams
from robust_stitching.similarity.stream import AT_ONCE
from test_measures import dense_minibatch

LAYERS = ["bn1", "layer1.0.add", "layer2.0.add", "layer3.0.add"]


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
        torch.testing.assert_close(values, other.layerwise[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["drifts", "begins far off", "has a large constant"])
def test_batches_far_from_the_first_images_lose_no_digits(kind):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 600, 4, 5, 5, generator=g)
    y = y + x / 2
    if kind == "drifts":
        x, y = (side + torch.arange(600)[:, None, None, None] // 100 * 1000 for side in (x, y))
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
    room = Room(9)
    room.put(0, [maps[:8].contiguous(memory_format=torch.channels_last)])
    room.put(8, [maps[8:]])  # of a single image it could lie either way
    (rows,) = room.rows(0, 9)
    moved = (maps - maps[:8].mean(dim=0)).flatten(1)
    torch.testing.assert_close(rows @ rows.T, moved @ moved.T)
    assert rows.is_contiguous() and room.rows(3, 5)[0].data_ptr() == rows[3].data_ptr()
