"""Networks of torchvision and, where it is installed, of timm."""

import sys

import pytest
import torch
from torch import nn

from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.data.vision import torchvision
from robust_stitching.graphs.folding import Folded
from robust_stitching.graphs.graph import Graph, features, join, layout_of
from robust_stitching.graphs.stitched import StitchedNetwork

# Small members of families that differ in what their forward does: skip connections, dense ones,
# squeeze and excitation, shuffled channels, a class token, windows, channels that stand behind.
SMALL = {
    "torchvision:resnet18": ["maxpool", "layer1.0.bn2", "layer1.0.add", "layer2.0.relu_1"],
    "torchvision:densenet121": ["features.denseblock1.denselayer2.norm1", "features.transition1"],
    "torchvision:mobilenet_v3_small": ["features.1.block.1.scale_activation", "classifier.2"],
    "torchvision:shufflenet_v2_x0_5": ["conv1", "stage2.1", "stage3.1.view_1"],
    "torchvision:regnet_y_400mf": ["trunk_output.block1.block1-0.f.se", "trunk_output.block2"],
    "torchvision:squeezenet1_1": ["features.3", "features.4.cat", "classifier.3"],
    "torchvision:swin_t": ["features.0.0", "features.1.1.attn", "features.2", "norm"],
    "torchvision:convnext_tiny": ["features.1.0.block.2", "features.1.0.block.3", "features.3"],
}  # fmt: skip
VIT = ["conv_proj", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.ln_2"]


def net(name: str, classes: int = 10, channels: int = 3, **options) -> nn.Module:
    return models.build(name, num_classes=classes, in_channels=channels, **options)


def images(of: nn.Module, n: int = 3) -> torch.Tensor:
    return torch.rand(n, *of.input_shape, generator=torch.Generator().manual_seed(7))


def check_reproduces(network: nn.Module, layers: list[str]) -> None:
    x = images(network)
    with torch.no_grad():
        expected = network.eval()(x)
        torch.testing.assert_close(Folded(network).eval()(x), expected, rtol=1e-4, atol=1e-4)
        for layer in layers:
            joined = join(network, layer, network, layer, nn.Identity())
            torch.testing.assert_close(joined(x), expected, msg=f"other logits at {layer}")


def test_it_is_torchvisions_network_on_normalised_images():
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    ours = net("torchvision:resnet18", 7, mean=mean, std=std, seed=3)
    theirs = torchvision().models.resnet18(num_classes=7)
    state = ours.state_dict()
    constants = {"normalize.mean", "normalize.std"}
    theirs.load_state_dict({k: v for k, v in state.items() if k not in constants})
    assert set(state) - constants == set(theirs.state_dict())
    x = images(ours)
    shifted = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(shifted))
    again = net("torchvision:resnet18", 7, mean=mean, std=std, seed=3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    assert isinstance(ours, torchvision().models.ResNet)


@pytest.mark.parametrize("name", SMALL)
def test_a_torchvision_network_stitched_to_itself_is_itself(name):
    network = net(name)
    check_reproduces(network, SMALL[name])


def test_a_vision_transformer_has_the_size_of_its_images():
    network = net("torchvision:vit_b_16", image_size=48)
    assert network.input_shape == (3, 48, 48)
    assert network.encoder.pos_embedding.shape == (1, 10, 768)
    layers = Graph(network).layers
    assert layers["conv_proj"].clean and layers["encoder.layers.encoder_layer_0"].clean
    assert not layers["encoder.layers.encoder_layer_1.ln_2"].clean
    assert layers["encoder.layers.encoder_layer_0"].shape == (10, 768)
    check_reproduces(network, VIT)


def test_how_many_images_there_are_lets_none_pass():
    """A class token is repeated for each image: that is no way around the cut."""
    front, end = net("torchvision:vit_b_16", image_size=32), net("torchvision:vit_b_16")
    stitched = StitchedNetwork(front, "conv_proj", end, "conv_proj")
    assert not stitched.leaks
    assert not any(path.startswith("end.normalize") for path, _ in stitched.named_modules())


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("torchvision:swin_t", "features.0.0", (96, 8, 8)),
        ("torchvision:swin_t", "features.1.1.attn", (96, 8, 8)),
        ("torchvision:swin_t", "features.3", (192, 4, 4)),
        ("torchvision:convnext_tiny", "features.1.0.block.3", (384, 8, 8)),
        ("torchvision:convnext_tiny", "features.1.0.block.6", (96, 8, 8)),
    ],
)
def test_channels_stand_in_front_wherever_a_network_has_them(name, layer, shape):
    network = net(name).eval()
    assert layout_of(network, layer).shape == shape
    seen = []
    module = network.get_submodule(layer)
    handle = module.register_forward_hook(lambda module, inputs, out: seen.append(out))
    x = images(network)
    with torch.no_grad():
        network(x)
        handle.remove()
        (found,) = features(network, [layer])(x)
    channels_first = seen[0] if seen[0].shape[1:] == shape else seen[0].permute(0, 3, 1, 2)
    assert torch.equal(found, channels_first)


def test_a_grey_dataset_fits_and_snapshots_have_a_legal_folder():
    network = net("torchvision:resnet18", channels=1, mean=[0.3], std=[0.5]).eval()
    assert network.input_shape == (3, 32, 32)
    assert network.architecture["in_channels"] == 3
    grey = torch.rand(2, 1, 32, 32)
    assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))
    assert models.entry("torchvision:resnet18").folder == "torchvision_resnet18"
    assert models.entry_of_folder("torchvision_resnet18").name == "torchvision:resnet18"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("torchvision:resnet81", "unknown torchvision network 'resnet81'; did you mean resnet18"),
        ("torchvison:resnet18", "unknown model 'torchvison:resnet18'.*torchvision:<name>"),
        ("torchvision:alexnet", "alexnet does not work on images of 32×32 pixels"),
        ("torchvision:inception_v3", "inception_v3 does not work on images of 32×32"),
        ("torchvision:vit_h_14", "vit_h_14 cannot be made for images of 32×32 pixels"),
        ("torchvision:fcn_resnet50", "unknown torchvision network"),
    ],
)
def test_what_cannot_be_is_told(name, told):
    with pytest.raises(UserError, match=told) as error:
        net(name)
    assert "\n" not in str(error.value)


def test_a_network_without_a_graph_is_told():
    class Choosy(nn.Module):
        architecture = {"model": "choosy"}  # noqa: RUF012
        input_shape = (3, 8, 8)

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 10)

        def forward(self, x):
            x = self.fc(x.mean((2, 3)))
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="choosy cannot be written as a graph of layers"):
        Graph(Choosy())


def test_networks_with_auxiliary_classifiers_answer_with_logits(tmp_path):
    network = net("torchvision:googlenet", 5)
    assert network.train()(images(network)).shape == (3, 5)
    state = torchvision().models.googlenet(num_classes=5, init_weights=False).state_dict()
    assert any(name.startswith("aux1.") for name in state)
    torch.save(state, tmp_path / "published.pt")
    path = tmp_path / "published.pt"
    loaded = checkpoints.load(path, model="torchvision:googlenet", dataset="cifar10")
    assert torch.equal(loaded.network.state_dict()["fc.weight"], state["fc.weight"])
    mean = loaded.network.normalize.mean.flatten().tolist()
    assert mean == pytest.approx(data.SOURCES["cifar10"].mean)


@pytest.mark.parametrize("name", ["torchvision:shufflenet_v2_x0_5", "torchvision:squeezenet1_1"])
def test_files(name, tmp_path):
    network = net(name, 6, seed=5).eval()
    checkpoints.save(tmp_path / "model.pt", network, "digits", {})
    loaded = checkpoints.load(tmp_path / "model.pt")
    assert (loaded.model, loaded.classes) == (name, 6)
    x = images(network)
    assert torch.equal(loaded.network(x), network(x))
    bare = tmp_path / models.entry(name).folder / "SVHN" / "x.pt"
    bare.parent.mkdir(parents=True)
    state = {key: v for key, v in network.state_dict().items() if "normalize" not in key}
    torch.save(state, bare)
    loaded = checkpoints.load(bare, mean=[0], std=[1])
    assert (loaded.model, loaded.dataset, loaded.classes) == (name, "svhn", 6)
    assert torch.equal(loaded.network(x), network(x))


def test_a_stitch_of_two_libraries(tmp_path):
    front, end = net("torchvision:swin_t", 4), net("resnet_w1", 5, 1)
    stitched = StitchedNetwork(front, "features.1.0", end, "layer2.0.add").eval()
    nn.init.normal_(stitched.transform.weight)
    assert stitched.transform.weight.shape == (32, 96)
    checkpoints.save(tmp_path / "frank.pt", stitched, "digits", {})
    loaded = checkpoints.load(tmp_path / "frank.pt")
    x = images(front)
    assert torch.equal(loaded.network(x), stitched(x))


def test_layers_and_training_by_the_scripts(call_script, tmp_path):
    found = call_script("layer_info.py", "torchvision:resnet18")
    assert found.status == 0 and "layer1.0.add" in found.out
    found = call_script("layer_info.py", "torchvision:alexnet")
    assert found.status == 2 and "alexnet does not work on images of 32×32" in found.err
    found = call_script("layer_info.py", "torchvision:alexnet", "--image-size", "224")
    assert found.status == 0 and "classifier.6" in found.out
    assert "torchvision:<name>" in call_script("train.py", "--help").out


def test_a_torchvision_network_from_training_to_evaluation(call_script, tmp_path):
    name = "torchvision:shufflenet_v2_x0_5"
    short = ("-d", "digits", "-e", 1, "-b", 512, "-o", tmp_path, "--device", "cpu")
    attack = ("--madry", "--epsilon", 0.1, "--perturb-steps", 1)
    found = call_script("train.py", "-m", name, *short, *attack)
    assert found.status == 0, found.err
    path = tmp_path / models.entry(name).folder / "Digits" / "in0-gn0-madry-eps0.1" / "model.pt"
    loaded = checkpoints.load(path)
    assert (loaded.model, loaded.network.input_shape) == (name, (3, 32, 32))
    found = call_script("eval_net.py", path)
    assert found.status == 0 and name in found.out


def test_timm_that_is_missing_is_told(monkeypatch):
    from robust_stitching.models import external

    monkeypatch.setitem(sys.modules, "timm", None)
    external._timm.cache_clear()
    with pytest.raises(UserError, match=r"pip install -r requirements-timm\.txt"):
        net("timm:resnet18")
    external._timm.cache_clear()


TIMM = {
    "timm:resnet18": ["layer1.0.bn2", "layer2.0"],
    "timm:vit_tiny_patch16_224": ["patch_embed", "blocks.3", "blocks.3.attn.qkv", "norm"],
    "timm:swin_tiny_patch4_window7_224": ["layers.0.blocks.0", "layers.0.blocks.1.mlp", "layers.1"],
    "timm:convnext_atto": ["stages.0.blocks.0.mlp.fc1", "stages.1"],
}


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_network_stitched_to_itself_is_itself(name):
    pytest.importorskip("timm")
    network = net(name, channels=1)
    assert network.input_shape == (1, 32, 32)
    check_reproduces(network, TIMM[name])


def test_timm_names():
    pytest.importorskip("timm")
    with pytest.raises(UserError, match="timm network 'resnet81'; did you mean resnet"):
        net("timm:resnet81")
    swin = net("timm:swin_tiny_patch4_window7_224")
    assert layout_of(swin, "layers.0.blocks.0").shape == (96, 8, 8)
    assert layout_of(swin, "layers.1").shape == (192, 4, 4)
    assert "patch_embed.proj" in Graph(net("timm:vit_tiny_patch16_224")).layers
