"""torchvision's published weights give torchvision's own logits. Nothing is downloaded: its network
is made, saved as its state dict, and read back."""

import re
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robust_stitching import checkpoints, models
from robust_stitching.checkpoints import fitting
from robust_stitching.checkpoints.constants import constants_for
from robust_stitching.data.vision import torchvision

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CIFAR10 = ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])


def theirs(name, classes=1000, **options):
    """A network of torchvision's with statistics as trained ones have them, whose answers differ
    from image to image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision().models.get_model(name, weights=None, num_classes=classes, **options)
        net.eval()
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.train().momentum = 1.0
        with torch.no_grad():
            net(torch.randn(4, 3, 96, 96))
    return net.eval()


def normalised(x, mean, std):
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def put(tmp_path, state):
    torch.save(state, tmp_path / "x.pth")
    return tmp_path / "x.pth"


def images(size):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


INCEPTIONS = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": True},
    "inception_v3": {"transform_input": True, "init_weights": True},
}


@pytest.mark.parametrize("given", [{}, {"mean": IMAGENET[0], "std": IMAGENET[1]}], ids=["", "said"])
@pytest.mark.parametrize(("name", "classes"), [("googlenet", 1000), ("inception_v3", 12)])
def test_weights_for_imagenet_that_transform_their_input(name, classes, given, tmp_path):
    net = theirs(name, classes, **INCEPTIONS[name])
    path = put(tmp_path, net.state_dict())
    loaded = checkpoints.load(path, model=f"torchvision:{name}", dataset="imagenet", **given)
    x = images(224)
    with torch.no_grad():
        expected, found = net(normalised(x, *IMAGENET)), loaded.network(x)
        net.transform_input = False
        without = net(normalised(x, *IMAGENET))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (without - expected).abs().max() > 100 * (found - expected).abs().max()
    checkpoints.save(tmp_path / "ours.pt", loaded.network, "imagenet", {})
    again = checkpoints.load(tmp_path / "ours.pt")
    with torch.no_grad():
        assert torch.equal(again.network(x), found)
    assert bool(loaded.notes) != bool(given)


def test_weights_for_others_are_as_torchvision_makes_the_network(tmp_path):
    net = theirs("googlenet", 10, aux_logits=False, init_weights=True)
    path = put(tmp_path, net.state_dict())
    loaded = checkpoints.load(path, model="torchvision:googlenet", dataset="cifar10")
    x = images(32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(x), net(normalised(x, *CIFAR10)))
    assert any("transform_input" in note and "0.5" in note for note in loaded.notes)
    net.transform_input = True  # tuned from the published ones: the constants say it
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    loaded = checkpoints.load(path, model="torchvision:googlenet", dataset="cifar10", **half)
    with torch.no_grad():
        expected = net(normalised(x, *IMAGENET))
        torch.testing.assert_close(loaded.network(x), expected, rtol=1e-3, atol=1e-4)


def old_names(state):
    """As the weights of DenseNet are published: from before torch counted batches."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", name): value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("prefix", ["", "module."])
def test_densenets_old_names(prefix, tmp_path):
    net = theirs("densenet121", 10)
    state = old_names(net.state_dict())
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    path = put(tmp_path, {"state_dict": {prefix + name: v for name, v in state.items()}})
    loaded = checkpoints.load(path, model="torchvision:densenet121", dataset="cifar10")
    x = images(32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(x), net(normalised(x, *CIFAR10)))


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "mnasnet0_5", "regnet_x_400mf", "squeezenet1_1"]
)
@pytest.mark.parametrize("counted", [True, False], ids=["", "without counters"])
def test_plain_state_dicts(name, counted, tmp_path):
    net = theirs(name, 10)
    state = {k: v for k, v in net.state_dict().items() if counted or "num_batches" not in k}
    path = put(tmp_path, OrderedDict(reversed(state.items())))
    loaded = checkpoints.load(path, model=f"torchvision:{name}", dataset="cifar10")
    x = images(64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(x), net(normalised(x, *CIFAR10)))


def test_names_that_modules_had_in_an_earlier_version():
    """The blocks of vision transformers called their layers ``linear_1`` and ``linear_2``."""
    entry = models.entry("torchvision:vit_b_16")
    frame = models.frame(entry, num_classes=10, in_channels=3, image_size=32)
    old = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for name, value in frame.state_dict().items()
        if not name.startswith("normalize")
    }
    assert any("linear_2" in name for name in old)
    assert not fitting.published_misfit(frame, old)
    less = {name: value for name, value in old.items() if "layer_3.mlp.linear_2" not in name}
    assert fitting.published_misfit(frame, less).missing == (
        "encoder.layers.encoder_layer_3.mlp.3.weight",
        "encoder.layers.encoder_layer_3.mlp.3.bias",
    )


def test_such_names_are_filled_in(tmp_path):
    from torchvision.models.vision_transformer import MLPBlock

    one, other = MLPBlock(4, 6, 0.0), MLPBlock(4, 6, 0.0)
    old = {
        name.replace("0.", "linear_1.").replace("3.", "linear_2."): value
        for name, value in one.state_dict().items()
    }
    fitting.fill(other, old, tmp_path)
    assert all(torch.equal(v, other.state_dict()[n]) for n, v in one.state_dict().items())


FRAMES = ["tiny10", "vgg11", "rvit", "torchvision:swin_t", "torchvision:regnet_y_400mf"]


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_has_the_shapes_of_the_network(name):
    sizes = {"num_classes": 7, "in_channels": 3}
    before = torch.get_rng_state()
    frame = models.frame(models.entry(name), **sizes).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    whole = models.build(name, **sizes).state_dict()
    assert {k: v.shape for k, v in frame.items()} == {k: v.shape for k, v in whole.items()}
    assert all(value.is_meta for value in frame.values())


def test_constants_with_which_weights_were_published():
    half = ((0.5,) * 3, (0.5,) * 3)
    published = models.entry("torchvision:efficientnet_v2_l").published_constants
    assert published == {"imagenet": half}
    published = models.entry("torchvision:resnet18").published_constants
    assert published == {"imagenet": tuple(map(tuple, IMAGENET))}
    pytest.importorskip("timm")
    assert models.entry("timm:vit_tiny_patch16_224").published_constants == {"imagenet": half}


def test_constants_of_a_model_for_imagenet_are_those_it_was_published_with(tmp_path):
    entry = models.entry("torchvision:efficientnet_v2_l")
    taken = SimpleNamespace(fit=SimpleNamespace(entry=entry, channels=3), constants={})
    given, notes = {"mean": None, "std": None}, []
    found = constants_for(tmp_path, taken, "imagenet", given, notes)
    assert found == ((0.5,) * 3, (0.5,) * 3) and "efficientnet_v2_l for imagenet" in notes[0]
    found = constants_for(tmp_path, taken, "cifar10", given, notes)
    assert found == tuple(map(tuple, CIFAR10))


def test_published_constants_are_for_imagenet_only(tmp_path):
    net = theirs("mobilenet_v3_small", 10)
    path = put(tmp_path, net.state_dict())
    entry = "torchvision:mobilenet_v3_small"
    for dataset, constants in (("imagenet", IMAGENET), ("cifar10", CIFAR10)):
        loaded = checkpoints.load(path, model=entry, dataset=dataset)
        assert loaded.network.normalize.mean.flatten().tolist() == pytest.approx(constants[0])
        assert loaded.network.normalize.std.flatten().tolist() == pytest.approx(constants[1])


class FiveDimensions(nn.Module):
    """A network with a convolution of volumes, as lambda networks have them."""

    input_shape = (2, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.volumes = nn.Conv3d(1, 2, (1, 3, 3))
        self.fc = nn.Linear(2 * 4 * 4 * 4, 3)

    def forward(self, x):
        return self.fc(self.volumes(self.conv(x)[:, None]).flatten(1))


def test_weights_of_five_dimensions_keep_their_layout(tmp_path):
    net = FiveDimensions()
    x = torch.rand(2, 2, 8, 8)
    expected = net(x)
    checkpoint = checkpoints.Checkpoint(net, "five", "digits", 3, tmp_path / "x.pt")
    assert checkpoint.to(torch.device("cpu")).network is net
    assert net.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not net.conv.weight.is_contiguous()
    assert net.volumes.weight.is_contiguous() and net.volumes.weight.ndim == 5
    torch.testing.assert_close(net(x), expected)
