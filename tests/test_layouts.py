"""Which axis of an activation holds channels, and how one grid of positions becomes another.

Two layers that hold the same numbers in another order are the same for everything that follows: a
wrong idea of an axis cannot hide there, as it can where a network is stitched to itself.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.data.vision import torchvision
from robust_stitching.graphs import graph
from robust_stitching.graphs.layout import Layout, grid_of, paired_rows, resize
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.graphs.transform import LinearMap
from robust_stitching.similarity import Moments, cka, mutual_knn, procrustes
from robust_stitching.similarity.rows import channel_means
from robust_stitching.stitching.initial import initial_values


def vit(size: int) -> nn.Module:
    kind = torchvision().models.VisionTransformer
    return kind(size, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=10)


def swin(size: int) -> nn.Module:
    kind = torchvision().models.SwinTransformer
    return kind([4, 4], 16, [2, 2], [2, 4], window_size=[4, 4], num_classes=10)


def convnext(size: int) -> nn.Module:
    module = torchvision().models.convnext
    blocks = [module.CNBlockConfig(12, 20, 1), module.CNBlockConfig(20, None, 2)]
    return module.ConvNeXt(blocks, num_classes=10)


def maxvit(size: int) -> nn.Module:
    return torchvision().models.maxvit.MaxVit(
        *((size, size), 12, 4, [12, 24], [1, 1], 6, 0.0), num_classes=10
    )


SMALL = {"vit": vit, "swin": swin, "convnext": convnext, "maxvit": maxvit}
SIZES = [32, 64]
LARGE = {
    "torchvision:vit_b_16": (32, 96),
    "torchvision:swin_v2_t": (32, 224),
    "torchvision:convnext_tiny": (32, 224),
    "torchvision:maxvit_t": (224,),
    "torchvision:shufflenet_v2_x0_5": (32, 64),
    "torchvision:densenet121": (32, 64),
    "torchvision:googlenet": (64, 96),
    "torchvision:efficientnet_b0": (32, 64),
    "torchvision:mobilenet_v3_small": (32, 64),
    "torchvision:alexnet": (64, 96),
    "torchvision:vgg11": (32, 64),
    "timm:deit_tiny_distilled_patch16_224": (32, 96),
    "timm:swin_tiny_patch4_window7_224": (56, 224),
    "timm:swinv2_cr_tiny_224": (224,),
    "timm:maxvit_tiny_rw_224": (224,),
    "timm:coatnet_nano_rw_224": (224,),
    "timm:mixer_s32_224": (224,),
    "timm:resmlp_12_224": (224,),
    "timm:gmlp_s16_224": (224,),
    "timm:nest_tiny": (224,),
    "timm:xcit_nano_12_p16_224": (32, 96),
    "timm:cait_xxs24_224": (96,),
    "timm:poolformer_s12": (32, 64),
    "timm:pvt_v2_b0": (32, 64),
    "timm:twins_svt_small": (224,),
    "timm:levit_128s": (224,),
    "timm:mobilevit_xxs": (64,),
    "timm:efficientformerv2_s0": (224,),
    "timm:davit_tiny": (64,),
    "timm:hiera_tiny_224": (224,),
}
ALL_SIZES = [(name, size) for name, sizes in LARGE.items() for size in sizes]


def network(name: str, size: int, channels: int = 3) -> nn.Module:
    """With weights that make every number of an activation another one."""
    torchvision()
    if name.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    if name in SMALL:
        found = SMALL[name](size).eval()
        found.input_shape = (3, size, size)
    else:
        found = models.build(name, num_classes=10, in_channels=channels, image_size=size).eval()
    for parameter in found.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return found


def same_numbers(x: Tensor, y: Tensor) -> bool:
    numbers = [value.flatten().sort().values for value in (x, y)]
    return x.numel() == y.numel() and torch.equal(*numbers)


def check_moves(whole: nn.Module) -> int:
    """Whatever only moves numbers leaves them at their positions, channel by channel; returns how
    many such pairs of layers there are."""
    traced = graph.Graph(whole)
    names = {}
    for layer in traced.layers:
        names.setdefault(traced.node(layer), layer)
    pairs = [
        (names[before], layer)
        for node, layer in names.items()
        for before in node.all_input_nodes
        if before in names
    ]
    wanted = list(dict.fromkeys(layer for pair in pairs for layer in pair))
    with torch.no_grad():
        seen = graph.features(whole, wanted)(torch.rand(2, *whole.input_shape))
    values = dict(zip(wanted, seen, strict=True))
    moved = 0
    for before, behind in pairs:
        x, y = values[before], values[behind]
        layouts = [traced.layers[layer].layout for layer in (before, behind)]
        assert [tuple(v.shape[1:]) for v in (x, y)] == [layout.shape for layout in layouts]
        merged = layouts[1].channels == 4 * layouts[0].channels  # Swin: four positions are one
        if same_numbers(x, y) and not merged:
            x, y = (grid_of(v, layout) for v, layout in zip((x, y), layouts, strict=True))
            in_order = [
                v[0].flatten(1).sort(dim=0).values for v in (x, y)
            ]  # channels may be shuffled
            assert torch.equal(x, y) or torch.equal(*in_order), (before, behind)
            moved += 1
    return moved


@pytest.mark.parametrize("whole", [True, False])
def test_an_order_that_a_buffer_tells_is_followed_by_its_values(whole):
    """Pixels in their own order are a grid still, in another they are none; images stay apart."""

    class Picking(nn.Module):
        input_shape = (3, 8, 8)

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.register_buffer("order", torch.arange(64) if whole else torch.randperm(64))
            self.fc = nn.Linear(192, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(2)[:, :, self.order].flatten(1))

    found = graph.Graph(Picking())
    assert found.layers["fc"].layout == Layout(10)
    assert found.layers["flatten"].layout == Layout(3, (8, 8))
    for name in ("getitem", "flatten_1"):
        if whole:
            assert found.layers[name].layout == Layout(3, (8, 8))
        else:
            assert name in found.refused


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [*SMALL, "rvit", "lenet"])
def test_moves_keep_channels_and_positions(name, size):
    assert (
        check_moves(network(name, size if name != "lenet" else 32, 1 if name == "lenet" else 3)) > 0
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), ALL_SIZES, ids=[f"{n}-{s}" for n, s in ALL_SIZES])
def test_moves_keep_channels_and_positions_in_every_family(name, size):
    moved = check_moves(network(name, size))
    # ShuffleNet's groups of channels are no layers, so that nothing is left that only moves.
    assert moved > 0 or "shufflenet" in name


def unexplained(x: Tensor, source: Layout, y: Tensor, target: Layout) -> float:
    """The share of the variance of y that least squares on x leaves, over shared positions."""
    moments = Moments(source.channels, target.channels)
    moments.update(*paired_rows(x, source, y, target))
    weight, _ = moments.least_squares()
    left = moments.yy - 2 * weight @ moments.xy + weight @ moments.xx @ weight.T
    return float(left.trace() / moments.yy.trace())


SAME = [
    ("vit", "conv_proj", "reshape"),
    ("vit", "conv_proj", "permute"),
    ("vit", "conv_proj", "cat"),
    ("swin", "features.0.0", "features.0.1"),
    ("convnext", "features.3.1.block.0", "features.3.1.block.1"),
    ("rvit", "patch_embed", "transformers.0.tokens"),
    ("rvit", "transformers.1.blocks.1.add2", "transformers.1.grid"),
    ("lenet", "pool2", "flatten"),
    ("timm:deit_tiny_distilled_patch16_224", "patch_embed.proj", "patch_embed.flatten"),
    ("timm:deit_tiny_distilled_patch16_224", "patch_embed.proj", "cat"),
    ("timm:maxvit_tiny_rw_224", "stages.0.blocks.0.conv", "stages.0.blocks.0.permute"),
]


@pytest.mark.parametrize(("name", "one", "other"), SAME)
def test_the_same_content_is_the_same_for_every_measure(name, one, other):
    size = {"lenet": 32, "timm:maxvit_tiny_rw_224": 224}.get(name, 64)
    whole = network(name, size)
    layouts = [graph.layout_of(whole, layer) for layer in (one, other)]
    torch.manual_seed(1)
    coarse = torch.rand(60, 3, size // 8, size // 8)
    images = F.interpolate(coarse, (size, size), mode="bilinear")  # no two positions alike
    with torch.no_grad():
        x, y = graph.features(whole, [one, other])(images)
    if one != other:
        assert abs(cka(x.flatten(1), y.flatten(1)) - 1) < 1e-4
    sides = [channel_means(v, layout) for v, layout in zip((x, y), layouts, strict=True)]
    assert procrustes(*sides) == pytest.approx(0, abs=1e-6)
    assert mutual_knn(*sides) > 0.99
    assert unexplained(x, layouts[0], y, layouts[1]) < 0.02
    assert unexplained(y, layouts[1], x, layouts[0]) < 0.02


# --- one grid to another ---


def area_average(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Means over the pixels that each of `size` equal parts touches."""
    n = x.shape[axis]
    parts = [range(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
    return np.stack([x.take(part, axis).mean(axis) for part in parts], axis)


def bilinear(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Interpolated between the centres of pixels, constant beyond the outermost."""
    n = x.shape[axis]
    at = ((np.arange(size) + 0.5) * n / size - 0.5).clip(0, n - 1)
    low = np.minimum(at.astype(int), n - 1)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    high = np.minimum(low + 1, n - 1)
    return x.take(low, axis) * (1 - share) + x.take(high, axis) * share


def as_map(tokens: np.ndarray, prefix: int, height: int) -> np.ndarray:
    """Row by row, behind the prefix."""
    n, _, channels = tokens.shape
    return tokens[:, prefix:].reshape(n, height, -1, channels).transpose(0, 3, 1, 2)


def as_tokens(maps: np.ndarray, prefix: np.ndarray) -> np.ndarray:
    n, channels = maps.shape[:2]
    return np.concatenate([prefix, maps.reshape(n, channels, -1).transpose(0, 2, 1)], axis=1)


def mean_of(maps: np.ndarray, times: int = 1) -> np.ndarray:
    """The mean over positions, as tokens."""
    return np.repeat(maps.mean((2, 3))[:, None], times, axis=1)


def smaller(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    return area_average(area_average(maps, height, 2), width, 3)


def larger(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    return bilinear(bilinear(maps, height, 2), width, 3)


MAP, VECTOR = Layout(3, (8, 8)), Layout(3)
ONE, TWO = Layout(3, (4, 6), prefix=1), Layout(3, (4, 6), prefix=2)
RESIZED = [
    (MAP, Layout(5, (8, 8)), lambda x: x),
    (MAP, Layout(5, (4, 4)), lambda x: smaller(x, 4, 4)),
    (Layout(3, (13, 13)), Layout(5, (8, 6)), lambda x: smaller(x, 8, 6)),
    (MAP, Layout(5, (16, 16)), lambda x: larger(x, 16, 16)),
    (MAP, Layout(5, (13, 10)), lambda x: larger(x, 13, 10)),
    (MAP, Layout(5), lambda x: x.mean((2, 3))),
    (VECTOR, Layout(5, (4, 4)), lambda x: np.tile(x[:, :, None, None], (1, 1, 4, 4))),
    (VECTOR, Layout(5), lambda x: x),
    (ONE, Layout(5, (4, 6), prefix=1), lambda x: x),
    (ONE, Layout(5, (4, 6)), lambda x: as_map(x, 1, 4)),
    (ONE, Layout(5, (8, 9)), lambda x: larger(as_map(x, 1, 4), 8, 9)),
    (
        ONE,
        Layout(5, (2, 3), prefix=1),
        lambda x: as_tokens(smaller(as_map(x, 1, 4), 2, 3), x[:, :1]),
    ),
    (
        ONE,
        Layout(5, (4, 6), prefix=2),
        lambda x: as_tokens(as_map(x, 1, 4), mean_of(as_map(x, 1, 4), 2)),
    ),
    (
        TWO,
        Layout(5, (4, 6), prefix=1),
        lambda x: as_tokens(as_map(x, 2, 4), mean_of(as_map(x, 2, 4))),
    ),
    (TWO, Layout(5), lambda x: as_map(x, 2, 4).mean((2, 3))),
    (MAP, Layout(5, (4, 4), prefix=1), lambda x: as_tokens(smaller(x, 4, 4), mean_of(x))),
    (VECTOR, Layout(5, (2, 2), prefix=2), lambda x: np.repeat(x[:, None], 6, axis=1)),
]


@pytest.mark.parametrize(("own", "target", "reference"), RESIZED)
def test_positions_are_resized_and_channels_mapped(own, target, reference):
    x = torch.randn(2, *own.shape, generator=torch.Generator().manual_seed(0))
    expected = reference(x.double().numpy())
    np.testing.assert_allclose(resize(x, own, target), expected, atol=1e-5)
    layer = LinearMap(own, target)
    layer.set(*initial_values("random", 3, 5, 0))
    weight, bias = (value.double() for value in layer.values())
    expected = torch.from_numpy(expected)
    if expected.ndim == 4:
        expected = F.conv2d(expected, weight[:, :, None, None], bias)
    else:
        expected = F.linear(expected, weight, bias)
    assert layer(x).shape[1:] == target.shape
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-5, rtol=1e-5)


# --- what is no layer ---


class Changed(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x)


class Odd(nn.Module):
    """A convolution to four channels of 4×4 positions, and what is made of them at `change`."""

    input_shape = (3, 32, 32)

    def __init__(self, change):
        super().__init__()
        self.conv, self.fc, self.change = nn.Conv2d(3, 4, 8, 8), nn.Linear(4, 10), Changed(change)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fc(x.mean((2, 3))) + 0 * self.change(x).sum()


def windows(x: Tensor) -> Tensor:
    return x.reshape(-1, 4, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 4)


def weights(x: Tensor) -> Tensor:
    tokens = x.flatten(2)
    return (tokens.transpose(1, 2) @ tokens).softmax(-1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (windows, "images and parts of them"),
        (weights, "no channels"),
        (lambda x: x.reshape(-1, 2, 2, 4, 4), "channels are spread over several axes"),
        (lambda x: x.reshape(-1, 4, 2, 2, 2, 2), "positions are spread over several axes"),
        (lambda x: x.flatten(2) @ torch.ones(16, 7), "neither channels nor positions"),
        (lambda x: x.roll(1, 2), "another order than in the image"),
        (lambda x: x.flip(3), "another order"),
        (lambda x: x.flatten(2)[:, :, 1:], "not those of a whole grid"),
        (lambda x: x.flatten(1)[:, 1:], "in no order that is known"),
        (lambda x: torch.cat([x, x[:, :, :1]], 2), "another order"),
        (lambda x: torch.fft.fft2(x).real, "no image can be followed"),
        (lambda x: x.sort(dim=1).values, "no image can be followed"),
    ],
)
def test_what_holds_no_channels_at_positions_is_refused_with_the_reason(change, told):
    odd = Odd(change)
    traced = graph.Graph(odd)
    assert "change" not in traced.layers
    with pytest.raises(UserError, match=f"the layer 'change' is no activation.*{told}"):
        graph.features(odd, ["change"])


MOVES = {
    "movedim": lambda x: x.movedim(1, -1),
    "negative": lambda x: x.permute(0, -2, -1, -3),
    "swapaxes": lambda x: x.swapaxes(1, 3),
    "transpose": lambda x: x.transpose(1, 3),
    "einsum": lambda x: torch.einsum("nchw->nhwc", x),
    "tokens": lambda x: x.flatten(2),
    "turned": lambda x: x.flatten(2).transpose(1, 2),
    "columns": lambda x: x.transpose(2, 3).flatten(2),
    "six": lambda x: x.reshape(-1, 4, 2, 2, 2, 2).permute(0, 2, 3, 4, 5, 1).reshape(-1, 16, 4),
    "sequence first": lambda x: x.flatten(2).permute(2, 0, 1),
    "flat": lambda x: x.flatten(1),
    "flat tokens": lambda x: x.permute(0, 2, 3, 1).flatten(1),
    "split": lambda x: torch.cat(x.movedim(1, -1).split(2, dim=-1), -1),
    "unbound": lambda x: torch.stack(x.unbind(1), -1),
    "there and back": lambda x: x.reshape(-1, 8, 8).reshape(-1, 4, 4, 4),
}


@pytest.mark.parametrize("kind", MOVES)
def test_a_move_is_followed_whatever_it_is_called(kind):
    odd = Odd(MOVES[kind])
    assert graph.layout_of(odd, "change") == Layout(4, (4, 4))
    with torch.no_grad():
        one, other = graph.features(odd, ["conv", "change"])(torch.rand(3, 3, 32, 32))
    assert torch.equal(one, other)


@pytest.mark.parametrize("kind", MOVES)
def test_a_map_into_a_layer_gives_what_the_layer_has(kind):
    """Cut and joined at the same layer, wherever its channels stand."""

    class Used(Odd):
        def forward(self, x: Tensor) -> Tensor:
            return self.change(self.conv(x)).sin().reshape(-1, 64)[:, :10]

    used = Used(MOVES[kind])
    used.architecture = {"model": "used"}
    if kind == "sequence first":
        pytest.skip("its answer mixes the images")
    twin = StitchedNetwork(used, "change", used, "change").eval()
    twin.transform.set(torch.eye(4), torch.zeros(4))
    x = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(twin(x), used(x))
    twin.transform.set(torch.eye(4).flip(0), torch.zeros(4))
    assert not torch.allclose(twin(x), used(x))
