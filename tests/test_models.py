"""The networks, against published parameter counts, torchvision and their own formulas."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.data.vision import torchvision
from robust_stitching.models.registry import register

BUILT = ["lenet", "tiny10", *(f"resnet_w{k}" for k in range(1, 6)), "resnet18"]


def net(name: str, classes: int = 10, channels: int = 3, **options) -> nn.Module:
    return models.build(name, num_classes=classes, in_channels=channels, **options)


def residual(groups: int, blocks: int, pool: str) -> set[str]:
    """All module paths of a residual network."""
    inside = ["", ".conv1", ".bn1", ".relu", ".conv2", ".bn2", ".add"]
    down = [".downsample", ".downsample.0", ".downsample.1"]
    paths = {"normalize", "conv1", "bn1", "relu", pool, "fc"}
    for g in range(1, groups + 1):
        paths |= {f"layer{g}"} | {f"layer{g}.{b}{part}" for b in range(blocks) for part in inside}
        if g > 1:
            paths |= {f"layer{g}.0{part}" for part in down}
    return paths


TINY10 = {f"{kind}{i}" for kind in ("conv", "bn", "relu") for i in range(1, 9)}
LENET = "normalize conv1 relu1 pool1 conv2 relu2 pool2 fc1 relu3 fc2 relu4 fc3"


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("lenet", set(LENET.split())),
        ("tiny10", {"normalize", "mean", "fc"} | TINY10),
        ("resnet_w1", residual(groups=3, blocks=3, pool="mean")),
        ("resnet_w4", residual(groups=3, blocks=3, pool="mean")),
        ("resnet18", residual(groups=4, blocks=2, pool="avgpool")),
    ],
)
def test_module_names(name, paths):
    assert {path for path, _ in net(name).named_modules() if path} == paths


def lenet_count(channels: int, classes: int) -> int:
    convs = 6 * (25 * channels + 1) + 16 * (25 * 6 + 1)
    return convs + 120 * 401 + 84 * 121 + classes * 85


def tiny10_count(channels: int, classes: int) -> int:
    widths = [channels, 16, 16, 32, 32, 32, 64, 64, 64]
    convs = sum(9 * a * b for a, b in pairwise(widths[:-1])) + 64 * 64
    return convs + 3 * sum(widths[1:]) + 65 * classes  # bias and batch norm: three a channel


def resnet_count(channels: int, classes: int, widths: list[int], depth: int) -> int:
    total, previous = 9 * channels * widths[0] + 2 * widths[0], widths[0]
    for width in widths:
        total += 9 * previous * width + (2 * depth - 1) * 9 * width**2 + 2 * depth * 2 * width
        total += 0 if previous == width else previous * width + 2 * width
        previous = width
    return total + (previous + 1) * classes


@pytest.mark.parametrize(
    ("name", "channels", "classes", "published", "counted"),
    [
        ("lenet", 1, 10, 61_706, lenet_count(1, 10)),
        ("lenet", 3, 40, None, lenet_count(3, 40)),
        ("tiny10", 3, 10, None, tiny10_count(3, 10)),
        ("resnet_w1", 3, 10, 272_474, resnet_count(3, 10, [16, 32, 64], 3)),
        *((f"resnet_w{k}", 3, 7, None, resnet_count(3, 7, [16 * k, 32 * k, 64 * k], 3))
          for k in range(2, 6)),
        ("resnet18", 3, 10, 11_173_962, resnet_count(3, 10, [64, 128, 256, 512], 2)),
    ],
)  # fmt: skip
def test_parameter_counts(name, channels, classes, published, counted):
    found = sum(p.numel() for p in net(name, classes, channels).parameters())
    assert found == counted
    assert published in (None, found)


def test_tiny10_without_biases_in_its_convolutions():
    lean = net("tiny10", bias=False)
    assert {"conv1.bias", "conv8.bias"}.isdisjoint(lean.state_dict())
    assert lean.architecture["bias"] is False


SHAPES = [
    ("lenet", {"conv1": (6, 28, 28), "pool1": (6, 14, 14), "pool2": (16, 5, 5), "fc1": (120,)}),
    ("tiny10", {"bn2": (16, 28, 28), "bn3": (32, 13, 13), "conv6": (64, 4, 4), "fc": (10,)}),
    ("resnet_w1", {"bn1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8)}),
    ("resnet_w5", {"layer1": (80, 32, 32), "layer3": (320, 8, 8), "mean": (320,)}),
    ("resnet18", {"layer1": (64, 32, 32), "layer4": (512, 4, 4), "avgpool": (512,)}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shapes"), SHAPES)
def test_shapes(name, shapes):
    network, found = net(name).eval(), {}
    for path in shapes:
        network.get_submodule(path).register_forward_hook(
            lambda module, inputs, out, path=path: found.update({path: tuple(out.shape[1:])})
        )
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    assert found == shapes
    assert network.input_shape == (3, 32, 32)


def test_resnet18_is_torchvisions_with_another_stem():
    theirs = torchvision().models.resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    ours = net("resnet18")
    missing = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert set(missing.missing_keys) == {"normalize.mean", "normalize.std"}
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for network in (ours, theirs):
        network.train()(x)  # statistics that are not 0 and 1
        network.eval()
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", ["lenet", "tiny10"])
def test_forward_is_the_published_formula(name):
    network = net(name, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).eval()
    w = network.state_dict()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    x = (images - mean) / std
    if name == "lenet":
        for i in (1, 2):
            x = F.conv2d(x, w[f"conv{i}.weight"], w[f"conv{i}.bias"]).relu()
            x = F.max_pool2d(x, 2)
        x = x.flatten(1)
        for i in (1, 2, 3):
            x = x.relu() if i > 1 else x
            x = x @ w[f"fc{i}.weight"].T + w[f"fc{i}.bias"]
    else:
        for i in range(1, 9):
            stride = 2 if i in (3, 6) else 1
            x = F.conv2d(x, w[f"conv{i}.weight"], w[f"conv{i}.bias"], stride=stride)
            x = (x / (1 + 1e-5) ** 0.5).relu()  # a fresh batch norm
        x = x.mean((2, 3)) @ w["fc.weight"].T + w["fc.bias"]
    torch.testing.assert_close(network(images), x)


@pytest.mark.parametrize("name", ["resnet_w1", "resnet_w2", "resnet18"])
def test_residual_networks_start_with_he_initialisation_by_fan_out(name):
    for module in net(name).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 20_000:
            expected = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.02)
            assert abs(module.weight.mean().item()) < 0.02 * expected
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


@pytest.mark.parametrize("name", BUILT)
def test_every_network_is_registered_and_never_rewrites_an_activation(name):
    assert name in models.names()
    assert not any(m.inplace for m in net(name).modules() if hasattr(m, "inplace"))


@pytest.mark.parametrize("name", ["lenet", "tiny10", "resnet_w1"])
def test_the_seed_alone_decides_the_weights(name):
    torch.manual_seed(1)
    first, state = net(name, seed=3), torch.get_rng_state()
    torch.manual_seed(2)
    again, other = net(name, seed=3), net(name, seed=4)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # build left the global state as it was
    weights = [key for key, value in first.state_dict().items() if value.ndim > 1]
    convolutions = [key for key in weights if "normalize" not in key]
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    for key in convolutions:
        assert not torch.equal(first.state_dict()[key], other.state_dict()[key]), key


@pytest.mark.parametrize("name", ["lenet", "tiny10", "resnet_w1"])
def test_a_grey_image_in_a_colour_network_is_a_repeated_one(name):
    network = net(name, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).eval()
    grey = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(("mean", "std"), [([0.3], [0.2]), ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])])
def test_images_are_normalised_inside(mean, std):
    inside, plain = net("lenet", mean=mean, std=std), net("lenet")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    outside = (x - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    torch.testing.assert_close(inside(x), plain(outside))


def test_normalisation_moves_with_the_weights():
    network = net("lenet", mean=(0.1, 0.2, 0.3))
    assert [tuple(b.shape) for b in network.buffers()] == [(3, 1, 1), (3, 1, 1)]
    clone = net("lenet", seed=9)
    clone.load_state_dict(copy.deepcopy(network.state_dict()))
    assert clone.normalize.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_the_architecture_builds_the_same_network_again():
    for name in ("lenet", "tiny10", "resnet_w2"):
        first = net(name, classes=7, channels=1)
        second = models.build(**first.architecture)
        shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (first, second)]
        assert shapes[0] == shapes[1]
        assert second.architecture == first.architecture


@pytest.mark.parametrize(
    ("wrong", "right"), [("lenett", "lenet"), ("resnet_w9", "resnet_w1"), ("tiny-10", "tiny10")]
)
def test_an_unknown_model_names_the_closest(wrong, right):
    with pytest.raises(UserError, match=rf"unknown model '{wrong}'; did you mean .*{right}"):
        net(wrong)


def test_the_error_lists_all_when_nothing_is_close():
    with pytest.raises(UserError, match=r"'@'\. Choose from .*lenet, .*resnet18"):
        net("@")


def test_a_name_is_registered_once():
    before = models.names()
    with pytest.raises(ValueError, match="'resnet20_w1' is taken twice"):
        register("resnet20_w1")(nn.Identity)
    assert models.names() == before


def test_resnet20_w1_is_resnet_w1():
    one, other = net("resnet20_w1"), net("resnet_w1")
    assert one.architecture == other.architecture
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())
    assert models.entry("resnet20_w1").name == "resnet_w1"
