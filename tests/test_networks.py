"""The large families, against torchvision, published counts and their papers' formulas."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robust_stitching import checkpoints, models
from robust_stitching.basics.errors import UserError
from robust_stitching.data.vision import torchvision
from robust_stitching.graphs.folding import Folded
from robust_stitching.graphs.graph import Graph, join
from robust_stitching.models.preact import WideResNet
from robust_stitching.plans import Adversary, Optimisation
from robust_stitching.training import Trainer, standard
from robust_stitching.training.adversarial import Attacking

RESNETS = ["resnet34", "resnet50", "resnet101", "resnet152", "engstromrn50", "imagenetrn50"]
VGGS = ["vgg11", "vgg13", "vgg16", "vgg19"]
WIDE = ["wide_resnet_28_10", "wide_resnet_34_10"]
ALL = [*RESNETS, "preactresnet18", *WIDE, *VGGS, "rvit"]
NORMALISATION = {"normalize.mean", "normalize.std"}


def net(name: str, classes: int = 10, channels: int = 3, **options) -> nn.Module:
    return models.build(name, num_classes=classes, in_channels=channels, **options)


def weightless(name: str, classes: int = 10, **options) -> nn.Module:
    with torch.device("meta"):
        return net(name, classes, **options)


def shaken(network: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms and layer norms whose weights and statistics matter."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.running_mean.normal_(0, 0.2, generator=generator)
    return network.eval()


def images(of: nn.Module, n: int = 2) -> torch.Tensor:
    return torch.rand(n, *of.input_shape, generator=torch.Generator().manual_seed(7))


# Parameter counts


def wide_count(depth: int, width: int, classes: int) -> int:
    widths = [16, 16 * width, 32 * width, 64 * width]
    total = 27 * 16 + 2 * widths[-1] + (widths[-1] + 1) * classes
    for a, b in pairwise(widths):
        n = (depth - 4) // 6
        total += 9 * a * b + (2 * n - 1) * 9 * b * b + a * b  # 3×3 convolutions and the shortcut
        total += 2 * a + (2 * n - 1) * 2 * b  # batch norms
    return total


def preact_count(classes: int) -> int:
    widths = [64, 64, 128, 256, 512]
    total = 27 * 64 + 2 * 512 + 513 * classes
    for a, b in pairwise(widths):
        total += 9 * a * b + 3 * 9 * b * b + 2 * a + 3 * 2 * b
        total += 9 * a * b if a != b else 0
    return total


def rvit_count(classes: int) -> int:
    def block(c: int) -> int:
        attention = 3 * c * (c + 1) + c * (c + 1)
        mlp = 4 * c * (c + 1) + 10 * 4 * c + c * (4 * c + 1)
        return 2 * 2 * c + attention + mlp + 2 * (4 * c + 4 * c + c)

    stem = 32 * (3 * 49 + 1) + 2 * 32 + 192 * (32 * 16 + 1)
    return stem + 10 * block(192) + 2 * block(384) + 384 * 10 + 2 * 384 + 385 * classes


def vgg_count(layers: int, classes: int) -> int:
    with torch.device("meta"):
        theirs = getattr(torchvision().models, f"vgg{layers}_bn")().features
    head = 256 * 513 + 128 * 257 + classes * 129
    return sum(p.numel() for p in theirs.parameters()) + head


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        # the CIFAR networks of the most used collection (kuangliu/pytorch-cifar)
        ("resnet34", 10, 21_282_122),
        ("resnet50", 10, 23_520_842),
        ("resnet101", 10, 42_512_970),
        ("resnet152", 10, 58_156_618),
        ("engstromrn50", 10, 23_520_842),
        ("imagenetrn50", 1000, 25_557_032),  # torchvision's documentation
        # Zagoruyko and Komodakis (2016), table 4: 36.5 million; 46.2 in Zhang et al. (2019)
        ("wide_resnet_28_10", 10, wide_count(28, 10, 10)),
        ("wide_resnet_34_10", 10, wide_count(34, 10, 10)),
        ("preactresnet18", 10, preact_count(10)),
        *((f"vgg{layers}", 7, vgg_count(layers, 7)) for layers in (11, 13, 16, 19)),
        ("rvit", 1000, rvit_count(1000)),  # Mao et al. (2022), table 1: 8.6 million
    ],
)
def test_parameter_counts(name, classes, count):
    assert sum(p.numel() for p in weightless(name, classes).parameters()) == count


def test_the_formulas_give_the_published_millions():
    found = [wide_count(28, 10, 10), wide_count(34, 10, 10), rvit_count(1000)]
    assert [round(n / 1e6, 1) for n in found] == [36.5, 46.2, 8.6]


# Names


def test_wide_networks_have_the_published_names():
    def bn(path):
        kinds = "weight bias running_mean running_var num_batches_tracked"
        return {f"{path}.{kind}" for kind in kinds.split()}

    expected = {"init_conv.weight", "logits.weight", "logits.bias"} | bn("batchnorm")
    for g in range(3):
        for b in range(4):
            block = f"layer.{g}.block.{b}"
            expected |= {f"{block}.conv_0.weight", f"{block}.conv_1.weight"}
            expected |= bn(f"{block}.batchnorm_0") | bn(f"{block}.batchnorm_1")
        expected.add(f"layer.{g}.block.0.shortcut.weight")
    assert set(weightless("wide_resnet_28_10").state_dict()) - NORMALISATION == expected


def test_preactivation_networks_have_the_published_names():
    state = weightless("preactresnet18").state_dict()
    weights = {name for name in state if name.endswith(".weight") and state[name].ndim > 1}
    expected = {"conv_2d.weight", "logits.weight"}
    for g in range(4):
        expected |= {f"layer_{g}.{b}.conv_2d_{i}.weight" for b in (0, 1) for i in (1, 2)}
        if g:
            expected.add(f"layer_{g}.0.shortcut.weight")
    assert weights == expected
    assert {f"layer_3.1.batchnorm_{i}.running_var" for i in (0, 1)} < set(state)
    assert state["layer_1.0.shortcut.weight"].shape == (128, 64, 3, 3)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet50", "layer1.0.conv3 layer1.0.bn3 layer1.0.add layer2.0.downsample.1 layer4.2"),
        ("imagenetrn50", "conv1 maxpool layer4.2.add avgpool fc"),
        ("preactresnet18", "conv_2d layer_0.0.relu_0 layer_1.0.pad layer_1.0.shortcut layer_3.1"),
        ("wide_resnet_28_10", "init_conv layer.0.block.3.add layer.1.block.0.shortcut relu logits"),
        ("vgg11", "features.conv1_1 features.bn3_2 features.relu5_2 features.maxpool5"),
        ("vgg19", "features.conv5_4 features.avgpool classifier.fc1 classifier.dropout2"),
        ("rvit", "patch_embed.proj.3 transformers.0.blocks.9.attn.qkv pools.0 norm head"),
    ],
)  # fmt: skip
def test_layer_names(name, layers):
    assert set(layers.split()) <= set(Graph(weightless(name)).layers)


@pytest.mark.parametrize("name", ["resnet152", "wide_resnet_28_10", "vgg16"])
def test_clean_cuts(name):
    for path, layer in Graph(weightless(name)).layers.items():
        if path.endswith(".add") or name == "vgg16":
            assert layer.clean, path
        elif path.endswith((".conv1", ".conv2", ".conv_1", ".shortcut", ".downsample")):
            assert not layer.clean, path


# What they compute


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "imagenetrn50"])
def test_residual_networks_are_torchvisions(name):
    theirs = getattr(torchvision().models, name.replace("imagenetrn", "resnet"))(num_classes=10)
    if name != "imagenetrn50":
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        theirs.maxpool = nn.Identity()
    theirs = shaken(theirs)
    ours = net(name, image_size=64, mean=[0] * 3, std=[1] * 3).eval()
    missing = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert missing.unexpected_keys == [] and set(missing.missing_keys) == NORMALISATION
    x = images(ours)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(("name", "theirs"), [("resnet101", "resnet101"), ("resnet152",) * 2])
def test_deep_residual_networks_have_torchvisions_shapes(name, theirs):
    with torch.device("meta"):
        state = getattr(torchvision().models, theirs)(num_classes=10).state_dict()
    own = weightless(name).state_dict()
    assert {k: v.shape for k, v in own.items() if k not in NORMALISATION | {"conv1.weight"}} == {
        k: v.shape for k, v in state.items() if k != "conv1.weight"
    }


def bn(x, w, path):
    stats = (w[f"{path}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *stats)


def swish(x):
    return x * torch.sigmoid(x)


def padded(x, stride):
    return F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


def test_wide_networks_compute_the_published_formula():
    network = shaken(WideResNet(3, 10, depth=10, width=2)).double()
    w = network.state_dict()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    x = F.conv2d(images, w["init_conv.weight"], padding=1)
    for g in range(3):
        path, stride = f"layer.{g}.block.0", 1 if g == 0 else 2
        active = swish(bn(x, w, f"{path}.batchnorm_0"))
        out = F.conv2d(padded(active, stride), w[f"{path}.conv_0.weight"], stride=stride)
        out = swish(bn(out, w, f"{path}.batchnorm_1"))
        out = F.conv2d(out, w[f"{path}.conv_1.weight"], padding=1)
        x = out + F.conv2d(active, w[f"{path}.shortcut.weight"], stride=stride)
    x = F.avg_pool2d(swish(bn(x, w, "batchnorm")), 8).flatten(1)
    x = x @ w["logits.weight"].T + w["logits.bias"]
    torch.testing.assert_close(network(images), x)


def test_preactivation_networks_compute_the_published_formula():
    network = shaken(net("preactresnet18"))
    w = network.state_dict()
    given = images(network)
    x = F.conv2d(given, w["conv_2d.weight"], padding=1)
    for g in range(4):
        for b in range(2):
            path, stride = f"layer_{g}.{b}", 2 if g and not b else 1
            out = swish(bn(x, w, f"{path}.batchnorm_0"))
            out = F.conv2d(padded(out, stride), w[f"{path}.conv_2d_1.weight"], stride=stride)
            out = swish(bn(out, w, f"{path}.batchnorm_1"))
            out = F.conv2d(out, w[f"{path}.conv_2d_2.weight"], padding=1)
            if stride == 2:
                x = F.conv2d(padded(x, 2), w[f"{path}.shortcut.weight"], stride=2)
            x = x + out
    x = F.avg_pool2d(swish(bn(x, w, "batchnorm")), 4).flatten(1)
    torch.testing.assert_close(network(given), x @ w["logits.weight"].T + w["logits.bias"])


def test_vgg_computes_the_published_formula():
    network = shaken(net("vgg11"))
    w = network.state_dict()
    x = given = images(network)
    for b, depth in enumerate((1, 1, 2, 2, 2), start=1):
        for i in range(1, depth + 1):
            conv = (w[f"features.conv{b}_{i}.{kind}"] for kind in ("weight", "bias"))
            x = bn(F.conv2d(x, *conv, padding=1), w, f"features.bn{b}_{i}").relu()
        x = F.max_pool2d(x, 2)
    x = x.flatten(1)
    for i in (1, 2, 3):
        x = x @ w[f"classifier.fc{i}.weight"].T + w[f"classifier.fc{i}.bias"]
        x = x.relu() if i < 3 else x
    torch.testing.assert_close(network(given), x)


def rvit_block(x, w, path, heads):
    """Tokens (N, T, C); equations of Vaswani et al. (2017) and of the paper's section 4."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    n, t, c = x.shape
    q, k, v = linear(norm(x, f"{path}.norm1"), f"{path}.attn.qkv").split(c, dim=2)
    mixed = []
    for h in range(heads):
        part = slice(h * c // heads, (h + 1) * c // heads)
        weights = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(c // heads)
        mixed.append(weights.softmax(-1) @ v[..., part])
    x = x + linear(torch.cat(mixed, 2), f"{path}.attn.proj")
    mlp = f"{path}.mlp"
    side = math.isqrt(t)
    grid = norm(x, f"{path}.norm2").reshape(n, side, side, c).permute(0, 3, 1, 2)
    for conv, batchnorm, options in (
        ("fc1", "bn1", {}),
        ("dwconv", "bn2", {"padding": 1, "groups": 4 * c}),
        ("fc2", "bn3", {}),
    ):
        grid = F.conv2d(grid, w[f"{mlp}.{conv}.weight"], w[f"{mlp}.{conv}.bias"], **options)
        grid = bn(grid, w, f"{mlp}.{batchnorm}")
        grid = F.gelu(grid) if conv != "fc2" else grid
    return x + grid.permute(0, 2, 3, 1).reshape(n, t, c)


def test_rvit_computes_the_published_formula():
    network = shaken(net("rvit", image_size=64)).double()
    w = network.state_dict()
    given = images(network).double()
    stem = "patch_embed.proj"
    x = F.conv2d(given, w[f"{stem}.0.weight"], w[f"{stem}.0.bias"], stride=2, padding=2)
    x = F.max_pool2d(bn(x, w, f"{stem}.1"), 3, stride=2, padding=1)
    x = F.conv2d(x, w[f"{stem}.3.weight"], w[f"{stem}.3.bias"], stride=4)
    for stage, (depth, heads) in enumerate([(10, 6), (2, 12)]):
        if stage:
            conv = (w[f"pools.0.conv.{kind}"] for kind in ("weight", "bias"))
            x = F.conv2d(x, *conv, stride=2, padding=1, groups=192)
        n, c, *grid = x.shape
        x = x.flatten(2).transpose(1, 2)
        for i in range(depth):
            x = rvit_block(x, w, f"transformers.{stage}.blocks.{i}", heads)
        x = x.transpose(1, 2).reshape(n, c, *grid)
    x = F.layer_norm(x.mean((2, 3)), (384,), w["norm.weight"], w["norm.bias"], eps=1e-6)
    torch.testing.assert_close(network(given), x @ w["head.weight"].T + w["head.bias"])


# Sizes of images


def test_the_size_of_the_images_is_the_networks_own_unless_said():
    for name in ALL:
        size = 224 if name == "imagenetrn50" else 32
        own = weightless(name)
        assert own.input_shape == (3, size, size)
        assert "image_size" not in own.architecture
        other = weightless(name, image_size=64)
        assert other.input_shape == (3, 64, 64)
        assert other.architecture["image_size"] == 64
        with torch.device("meta"):
            again = models.build(**other.architecture)
        assert (again.input_shape, again.architecture) == (other.input_shape, other.architecture)


@pytest.mark.parametrize(
    ("name", "size"), [("lenet", 64), ("lenet", 224), ("tiny10", 16), ("vgg11", 16), ("rvit", 8)]
)
def test_a_size_that_cannot_be_is_refused(name, size):
    with pytest.raises(UserError, match=rf"{name} does not work on images of {size}×{size}"):
        net(name, image_size=size)


@pytest.mark.parametrize("name", ["tiny10", "resnet_w1", *ALL])
def test_networks_that_can_take_large_images(name):
    network = weightless(name, 7, image_size=224).eval()
    assert network(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("engstromrn50", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("imagenetrn50", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_constants_of_the_network_itself(name, mean, std):
    constants = net(name).normalize
    assert constants.mean.flatten().tolist() == pytest.approx(mean)
    assert constants.std.flatten().tolist() == pytest.approx(std)
    other = net(name, mean=[0.25] * 3).normalize
    assert other.mean.flatten().tolist() == [0.25] * 3
    assert net(name, channels=1).normalize.mean.flatten().tolist() == [0]


# Cutting, joining, training

CUTS = {  # clean cuts and, but for VGG, some that leak
    "resnet34": ["layer2.1.add", "layer3.0.conv2"],
    "resnet50": ["conv1", "layer2.1.add", "layer3.0.conv2", "avgpool"],
    "resnet101": ["layer3.22.add"],
    "resnet152": ["layer2.0.downsample"],
    "imagenetrn50": ["maxpool", "layer2.1.bn3"],
    "preactresnet18": ["conv_2d", "layer_1.1.add", "layer_2.0.shortcut", "avgpool"],
    "wide_resnet_28_10": ["init_conv", "layer.1.block.0.relu_1"],
    "wide_resnet_34_10": ["layer.1.block.2.add"],
    "vgg11": ["features.conv1_1", "features.maxpool3", "classifier.dropout1"],
    "vgg19": ["features.relu3_4"],
    "rvit": [
        "patch_embed",
        "transformers.0.blocks.4.add2",
        "transformers.0.blocks.5.attn.attend",
        "transformers.1.blocks.0.mlp.dwconv",
    ],
}


def small(name: str) -> nn.Module:
    """With images so small that even the largest take a moment only."""
    return net(name, image_size=32 if name.startswith(("vgg", "rvit", "imagenet")) else 8)


@pytest.mark.parametrize("name", CUTS)
def test_a_network_stitched_to_itself_is_itself(name):
    network = shaken(small(name))
    x = images(network)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(Folded(network).eval()(x), expected, rtol=1e-4, atol=1e-4)
        for layer in CUTS[name]:
            joined = join(network, layer, network, layer, nn.Identity())
            torch.testing.assert_close(joined(x), expected, msg=f"other logits at {layer}")


ATTACKS = [Attacking(Adversary(kind, 0.1, 0.05, 1, ramp=0)) for kind in ("madry", "trades")]
LEARNING = ["resnet50", "preactresnet18", "wide_resnet_28_10", "vgg11", "rvit"]


@pytest.mark.parametrize("name", LEARNING)
def test_every_weight_gets_a_gradient_under_every_objective(name):
    network = small(name).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x, y = images(network, 4), torch.arange(4)
    for objective in (standard, *ATTACKS):
        optimizer.zero_grad()
        objective(network, x, y, 0).loss.backward()
        for path, parameter in network.named_parameters():
            assert parameter.grad.isfinite().all(), path
        nn.utils.clip_grad_norm_(network.parameters(), 1)
        optimizer.step()
    # now, that no block is its skip connection any more
    for path, parameter in network.named_parameters():
        assert parameter.ndim == 1 or parameter.grad.any(), path


def test_bottleneck_blocks_start_as_their_skip_connections():
    network = net("resnet50", image_size=16).eval()
    x = torch.rand(2, 256, 8, 8)
    block = network.layer1[1]
    assert torch.equal(block(x), x)
    assert block.conv3.weight.any()


def test_a_transformer_learns_with_default_settings(digits):
    train = digits[0].between(0, 256)
    mean, std = train.statistics()
    network = net("rvit", channels=1, mean=mean, std=std)
    config = Optimisation(epochs=3, lr=0.1, batch_size=32, clip_norm=1)
    history = Trainer(network, standard, train, config).run()
    assert history[-1].train_accuracy > 0.8


@pytest.mark.parametrize("name", ["preactresnet18", "vgg13", "imagenetrn50"])
def test_a_trained_step_comes_back_from_a_file(name, tmp_path):
    network = small(name).train()
    x, y = images(network, 4), torch.arange(4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    standard(network, x, y, 0).loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1)
    optimizer.step()
    checkpoints.save(tmp_path / "model.pt", network, "cifar10", {"kind": "standard"})
    loaded = checkpoints.load(tmp_path / "model.pt").network
    assert loaded.architecture == network.architecture
    expected = network.eval()(x)
    assert expected.isfinite().all() and torch.equal(loaded(x), expected)
