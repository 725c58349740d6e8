"""Networks in files: ours, those that others publish, and files that are no networks."""

import pickle
import warnings

import pytest
import torch

from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.stitched import StitchedNetwork

MNIST = data.SOURCES["mnist"]


def network(model="tiny10", classes=10, channels=3, **options):
    return models.build(model, num_classes=classes, in_channels=channels, **options).eval()


def images(channels=3):
    return torch.rand(4, channels, 32, 32, generator=torch.Generator().manual_seed(0))


def same(one, other, channels=3):
    x = images(channels)
    with torch.no_grad():
        return torch.equal(one(x), other(x))


def published(net, path, wrap=lambda state: state):
    """A bare state dict as others publish it: without our mean and deviation."""
    state = {name: v for name, v in net.state_dict().items() if not name.startswith("normalize")}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(wrap(state), path)
    return path


def constants(net):
    return net.normalize.mean.flatten().tolist(), net.normalize.std.flatten().tolist()


# Our own


@pytest.mark.parametrize(
    "model, options", [("lenet", {}), ("tiny10", {"bias": False}), ("resnet_w1", {})]
)
def test_a_network_comes_back(model, options, tmp_path):
    net = network(model, 7, 3, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], **options)
    checkpoints.save(tmp_path / "a" / "model.pt", net, "cifar10", {"kind": "standard", "lr": 0.1})
    loaded = checkpoints.load(tmp_path / "a" / "model.pt")
    assert same(loaded.network, net)
    assert (loaded.model, loaded.dataset, loaded.classes) == (model, "cifar10", 7)
    assert loaded.training == {"kind": "standard", "lr": 0.1}
    assert not loaded.stitched
    assert not loaded.network.training


def test_a_stitched_network_comes_back_without_its_donors(tmp_path):
    front, end = network("resnet_w1", seed=1), network("tiny10", 5, seed=2)
    stitched = StitchedNetwork(front, "layer1.0.add", end, "bn3").eval()
    torch.nn.init.normal_(stitched.transform.weight)
    again = StitchedNetwork(stitched, "transform", network(classes=3), "relu5").eval()
    torch.nn.init.normal_(again.transform.weight)
    for i, (net, classes) in enumerate([(stitched, 5), (again, 3)]):
        path = tmp_path / str(i) / "frank.pt"
        checkpoints.save(path, net, "cifar10", {})
        moved = (tmp_path / "elsewhere").with_suffix(f".{i}")
        path.rename(moved)
        loaded = checkpoints.load(moved)
        assert loaded.stitched
        assert loaded.classes == classes
        assert same(loaded.network, net)
    assert loaded.model == "resnet_w1-tiny10-tiny10"


def test_an_interrupted_save_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    checkpoints.save(path, network(), "cifar10", {})
    before = path.read_bytes()

    def half(values, file):
        file.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    for name in ("model.pt", "new.pt"):
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(tmp_path / name, network(), "cifar10", {})
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    assert path.read_bytes() == before


# Published ones


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "best": 0.9},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    ],
    ids=["bare", "state_dict", "model", "module.", "both"],
)
@pytest.mark.parametrize("model", ["tiny10", "resnet_w1"])
def test_a_published_network_takes_images_as_they_are(model, wrap, tmp_path):
    net = network(model, 12)
    path = published(net, tmp_path / model / "CIFAR10" / "some run" / "best.pt", wrap)
    loaded = checkpoints.load(path)
    assert (loaded.model, loaded.dataset, loaded.classes) == (model, "cifar10", 12)
    assert loaded.network.input_shape == (3, 32, 32)
    assert same(loaded.network, net)
    assert constants(loaded.network) == ([0, 0, 0], [1, 1, 1])


@pytest.mark.parametrize("folder, key", [("MNIST", "mnist"), ("fashionmnist", "fashion")])
def test_a_published_lenet_has_its_datasets_constants(folder, key, tmp_path):
    path = published(network("lenet", channels=1), tmp_path / "lenet" / folder / "x.pt")
    loaded = checkpoints.load(path)
    assert loaded.dataset == key
    source = data.SOURCES[key]
    assert constants(loaded.network) == (
        pytest.approx(source.mean),
        pytest.approx(source.std),
    )
    expected = network("lenet", channels=1, mean=source.mean, std=source.std)
    assert same(loaded.network, expected, channels=1)


FAMILIES = {  # name, the option that a published one may differ in, whether it is normalised
    "resnet34": ({}, False),
    "vgg11": ({"bias": False}, False),
    "rvit": ({}, False),
    "preactresnet18": ({}, True),
    "wide_resnet_28_10": ({}, True),
    "engstromrn50": ({}, "itself"),
}


@pytest.mark.parametrize("model", FAMILIES)
def test_a_published_network_of_each_family(model, tmp_path):
    options, normalised = FAMILIES[model]
    net = network(model, 12, **options)
    path = published(net, tmp_path / model / "SVHN" / "x.pt", lambda state: {"state_dict": state})
    loaded = checkpoints.load(path)
    assert (loaded.model, loaded.dataset, loaded.classes) == (model, "svhn", 12)
    assert loaded.network.input_shape == (3, 32, 32)
    mean, std = constants(loaded.network)
    if normalised == "itself":
        assert (mean, std) == constants(net) and mean != [0, 0, 0]
    elif normalised:
        svhn = data.SOURCES["svhn"]
        assert (mean, std) == (pytest.approx(svhn.mean), pytest.approx(svhn.std))
    else:
        assert (mean, std) == ([0, 0, 0], [1, 1, 1])
    for name, value in loaded.network.state_dict().items():
        assert name.startswith("normalize") or torch.equal(value, net.state_dict()[name]), name


def test_a_published_network_for_imagenet_takes_large_images(tmp_path):
    for model in ("imagenetrn50", "torchvision:mobilenet_v3_small"):
        net = network(model, 17, image_size=224)
        path = published(net, tmp_path / models.entry(model).folder / "x.pt")
        loaded = checkpoints.load(path, dataset="imagenet")
        assert (loaded.model, loaded.classes) == (model, 17)
        assert loaded.network.input_shape == (3, 224, 224)
    assert checkpoints.load(path, dataset="svhn").network.input_shape == (3, 32, 32)


def test_our_own_for_large_images_comes_back(tmp_path):
    net = network("resnet_w1", image_size=48)
    checkpoints.save(tmp_path / "model.pt", net, "imagenet", {})
    assert checkpoints.load(tmp_path / "model.pt").network.input_shape == (3, 48, 48)


def madrys(state):
    """As the package writes it: network and attacker, each with a normaliser of its own."""
    constants = {"new_mean": torch.full((3, 1, 1), 0.5), "new_std": torch.full((3, 1, 1), 0.25)}
    found = {}
    for before, normaliser in (("module.", "normalizer"), ("module.attacker.", "normalize")):
        found |= {f"{before}model.{name}": value for name, value in state.items()}
        found |= {f"{before}{normaliser}.{name}": value for name, value in constants.items()}
    return {"model": found, "epoch": 3}


def kuangs(state):
    """With other names for the skip connections and the last layer."""
    names = {name: name.replace("downsample", "shortcut").replace("fc", "linear") for name in state}
    shape = (1, 3, 1, 1)
    inside = {"mu": torch.full(shape, 0.5), "sigma": torch.full(shape, 0.25)}
    return {"net": inside | {f"module.{names[name]}": v for name, v in state.items()}, "acc": 95.3}


@pytest.mark.parametrize("wrap", [madrys, kuangs])
@pytest.mark.parametrize("model", ["engstromrn50", "resnet18"])
def test_names_and_wrappers_of_other_publishers(model, wrap, tmp_path):
    net = network(model, mean=[0.5] * 3, std=[0.25] * 3)
    path = published(net, tmp_path / model / "CIFAR10" / "x.pt", wrap)
    loaded = checkpoints.load(path)
    assert constants(loaded.network) == ([0.5] * 3, [0.25] * 3)
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, net.state_dict()[name]), name


def test_a_compiled_network(tmp_path):
    def compiled(state):
        return {f"_orig_mod.{name}": value for name, value in state.items()}

    net = network("tiny10")
    assert same(
        checkpoints.load(published(net, tmp_path / "tiny10" / "SVHN" / "x.pt", compiled)).network,
        net,
    )


def test_a_grey_lenet_of_a_colour_dataset_is_refused(tmp_path):
    path = published(network("lenet", channels=1), tmp_path / "lenet" / "CIFAR10" / "x.pt")
    with pytest.raises(UserError, match="cifar10"):
        checkpoints.load(path)


def test_another_name_of_a_model_is_the_same_model(tmp_path):
    net = network("resnet_w1")
    loaded = checkpoints.load(published(net, tmp_path / "resnet20_w1" / "SVHN" / "x.pt"))
    assert (loaded.model, loaded.dataset) == ("resnet_w1", "svhn")


def test_model_dataset_and_constants_can_be_said(tmp_path):
    net = network("lenet", channels=1)
    path = published(net, tmp_path / "x.pt")
    loaded = checkpoints.load(path, model="lenet", dataset="mnist", mean=[0.25], std=[0.5])
    assert constants(loaded.network) == ([0.25], [0.5])
    with pytest.raises(UserError, match="names no model"):
        checkpoints.load(path)
    with pytest.raises(UserError, match="names no dataset"):
        checkpoints.load(path, model="lenet")


def test_constants_of_our_own_can_be_replaced(tmp_path):
    checkpoints.save(tmp_path / "x.pt", network(mean=[0.1] * 3), "cifar10", {})
    loaded = checkpoints.load(tmp_path / "x.pt", std=[0.5, 0.25, 0.125])
    mean, std = constants(loaded.network)
    assert mean == pytest.approx([0.1] * 3)
    assert std == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("wrong", [{"mean": [0.1, 0.2]}, {"std": [1.0] * 4}, {"std": [0.0] * 3}])
def test_constants_that_cannot_be_are_refused(wrong, tmp_path):
    checkpoints.save(tmp_path / "x.pt", network(), "cifar10", {})
    with pytest.raises(UserError, match=next(iter(wrong))):
        checkpoints.load(tmp_path / "x.pt", **wrong)


@pytest.mark.parametrize("model", ["lenet", "tiny10", "resnet_w1"])
@pytest.mark.parametrize("classes, channels", [(10, 1), (100, 3), (2, 3)])
def test_classes_and_channels_follow_from_the_weights(model, classes, channels, tmp_path):
    net = network(model, classes, channels)
    loaded = checkpoints.load(
        published(net, tmp_path / model / "MNIST" / "x.pt"), mean=[0], std=[1]
    )
    assert loaded.classes == classes
    assert loaded.network.input_shape == (channels, 32, 32)
    assert same(loaded.network, net, channels)


def test_tiny10_without_biases(tmp_path):
    net = network("tiny10", bias=False)
    assert same(checkpoints.load(published(net, tmp_path / "tiny10/SVHN/x.pt")).network, net)


@pytest.mark.parametrize(
    "spoil, told",
    [
        (lambda state: {k: v for k, v in state.items() if k != "bn3.bias"}, "missing (bn3.bias)"),
        (lambda state: {**state, "head.bias": torch.ones(3)}, "not known (head.bias)"),
        (lambda state: {**state, "bn3.bias": torch.ones(7)}, "misshapen (bn3.bias)"),
        (
            lambda state: {k: v for k, v in state.items() if ".bias" not in k},
            "(bn1.bias, bn2.bias, bn3.bias, …)",
        ),
    ],
    ids=["missing", "extra", "misshapen", "many"],
)
def test_weights_that_do_not_fit_are_named(spoil, told, tmp_path):
    path = published(network(bias=False), tmp_path / "tiny10" / "SVHN" / "x.pt", spoil)
    with pytest.raises(UserError) as error:
        checkpoints.load(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_weights_of_another_model(tmp_path):
    with pytest.raises(UserError, match="do not fit lenet"):
        checkpoints.load(published(network("tiny10"), tmp_path / "lenet" / "SVHN" / "x.pt"))


# What is no network


class Evil:
    """Makes a file where it is unpickled by the book."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def whole_network(path, marker):
    torch.save(network("lenet"), path)


def by_torch(path, marker):
    torch.save({"state_dict": Evil(marker)}, path)


def by_torch_of_old(path, marker):
    torch.save(Evil(marker), path, _use_new_zipfile_serialization=False)


def by_pickle(protocol):
    def write(path, marker):
        path.write_bytes(pickle.dumps(Evil(marker), protocol))

    return write


def truncated(share):
    def write(path, marker):
        checkpoints.save(path, network(), "cifar10", {})
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return write


def content(content):
    return lambda path, marker: path.write_bytes(content)


FILES = {  # what lies there, and what the sentence says of it
    "nothing": (lambda path, marker: None, "does not exist"),
    "a folder": (lambda path, marker: path.mkdir(), ""),
    "a whole module": (whole_network, "refused, not run"),
    "code by torch.save": (by_torch, "refused, not run"),
    "code by the old torch.save": (by_torch_of_old, ""),
    **{f"code by pickle {i}": (by_pickle(i), "") for i in range(6)},
    **{f"the first {share:.0%}": (truncated(share), "whole") for share in (0.01, 0.5, 0.999)},
    "an empty file": (content(b""), "whole"),
    **{
        f"the text {text!r}": (content(text), "whole")
        for text in (b"hello\n", b"epoch,loss\n1,2\n", b"root:x:0:0\n", b"quiet\n", b"{}\n", b"(x.")
    },
    "a picture": (content(b"\x89PNG\r\n\x1a\n" + bytes(50)), "whole"),
    "a pickle of nothing": (content(b"\x80\x04."), "whole"),
    "a tensor": (lambda path, marker: torch.save(torch.ones(3), path), "Tensor"),
    "numbers": (lambda path, marker: torch.save({"lr": 0.1}, path), "no state dict"),
    "a state": (lambda path, marker: checkpoints.write(path, {"trainer": {}}), "no state dict"),
    "a later format": (
        lambda path, marker: checkpoints.write(path, {"format": "robust-stitching 9"}),
        "robust-stitching 9",
    ),
    "half of ours": (
        lambda path, marker: checkpoints.write(path, {"format": checkpoints.FORMAT}),
        "no network",
    ),
}


@pytest.mark.parametrize("write, told", FILES.values(), ids=FILES)
def test_other_files_are_refused_in_one_sentence(write, told, tmp_path):
    path, marker = tmp_path / "tiny10" / "CIFAR10" / "x.pt", tmp_path / "marker"
    path.parent.mkdir(parents=True)
    write(path, marker)
    with warnings.catch_warnings(), pytest.raises(UserError) as error:
        warnings.simplefilter("error")  # it would be a second line on stderr
        checkpoints.load(path)
    assert str(path) in str(error.value)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not marker.exists()
