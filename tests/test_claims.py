"""What a bare state dict is of, and which constants it has: what the user says goes before what its
file says, and that before what its folders say. What was guessed is told."""

import pytest
import torch

from digit_folders import write_digits
from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints.claims import claim_of

MNIST, DIGITS = data.SOURCES["mnist"], data.SOURCES["digits"]


def bare(model, path, channels=1, classes=10, **more):
    network = models.build(model, num_classes=classes, in_channels=channels, seed=1)
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("normalize")}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**more, **state}, path)
    return path


def constants(checkpoint):
    normalize = checkpoint.network.normalize
    return normalize.mean.flatten().tolist(), normalize.std.flatten().tolist()


def those_of(source):
    return pytest.approx(source.mean), pytest.approx(source.std)


# Folders


@pytest.mark.parametrize(
    ("folders", "entry", "dataset", "paired"),
    [
        ("tiny10/CIFAR10", "tiny10", "cifar10", True),
        ("tiny10/CIFAR10/in0-gn0/kept", "tiny10", "cifar10", True),
        ("svhn/resnet20_w1/MNIST/x", "resnet_w1", "mnist", True),
        ("tiny10/CIFAR10/imagenet/x", "tiny10", "cifar10", True),
        ("lenet/MNIST/tiny10/SVHN/x", "tiny10", "svhn", True),
        ("vgg11/lenet/fashion", "lenet", "fashion", True),
        ("svhn/lenet/x", "lenet", "svhn", False),
        ("lenet/runs/MNIST", "lenet", "mnist", False),
        ("torchvision_resnet18/ImageNet", "torchvision:resnet18", "imagenet", True),
        ("runs/x", None, None, False),
    ],
)
def test_what_folders_say(folders, entry, dataset, paired, tmp_path):
    found = claim_of(tmp_path / folders / "x.pt")
    assert (found.entry and found.entry.name, found.dataset) == (entry, dataset)
    assert found.paired == paired


@pytest.mark.parametrize(
    "above", ["svhn", "imagenet", "svhn/runs/imagenet", "CIFAR100/x", "celeba"]
)
@pytest.mark.parametrize("model", ["lenet", "tiny10"])
def test_a_folder_called_by_chance_says_nothing_against_the_user(above, model, tmp_path):
    expected = checkpoints.load(bare(model, tmp_path / "x.pt"), model=model, dataset="digits")
    found = checkpoints.load(bare(model, tmp_path / above / "x.pt"), model=model, dataset="digits")
    assert found.dataset == "digits" and found.network.input_shape == (1, 32, 32)
    assert constants(found) == constants(expected)
    assert any("made for digits, as `dataset` says" in note for note in found.notes)
    assert not any("folders say" in note for note in expected.notes)


def test_model_and_dataset_together_go_before_a_whole_layout(tmp_path):
    path = bare("lenet", tmp_path / "vgg11" / "MNIST" / "x.pt")
    found = checkpoints.load(path, model="lenet", dataset="digits")
    assert (found.model, found.dataset, constants(found)) == ("lenet", "digits", those_of(DIGITS))
    told = " ".join(found.notes)
    assert "read as lenet, as `model` says, though its folder says vgg11" in told
    assert "made for digits, as `dataset` says, whatever its folders say" in told


def test_a_dataset_alone_is_what_a_network_of_a_layout_is_evaluated_on(tmp_path):
    found = checkpoints.load(bare("lenet", tmp_path / "lenet" / "MNIST" / "x.pt"), dataset="digits")
    assert (found.dataset, constants(found)) == ("mnist", those_of(MNIST))
    assert any("made for mnist, as its folders say" in note for note in found.notes)


def test_a_layout_for_images_of_another_size_says_nothing_against_the_user(tmp_path):
    path = bare("lenet", tmp_path / "lenet" / "imagenet" / "x.pt")
    found = checkpoints.load(path, dataset="digits")
    assert (found.dataset, found.network.input_shape) == ("digits", (1, 32, 32))
    assert constants(found) == those_of(DIGITS)


def test_a_folder_of_images_is_evaluated_on(digits, tmp_path, monkeypatch):
    """It says what a network was made for only where the path says nothing that fits."""
    images = str(write_digits(tmp_path / "images", digits, n=10))
    path = bare("lenet", tmp_path / "lenet" / "MNIST" / "x.pt")
    assert checkpoints.load(path, dataset=images).dataset == "mnist"
    for above in ("svhn", "imagenet", "runs"):
        path = bare("lenet", tmp_path / above / "x.pt")
        found = checkpoints.load(path, model="lenet", dataset=images)
        assert found.dataset == images and found.network.input_shape == (1, 32, 32)
        assert constants(found) == ([0], [1])
        assert found.class_names == tuple("0123456789")
    named = write_digits(tmp_path / "jpeg", digits, ["plane", *data.names_of("cifar10")[1:]], n=10)
    path = bare("lenet", tmp_path / "CIFAR10" / "x.pt", channels=3)
    found = checkpoints.load(path, model="lenet", dataset=str(named))
    assert found.dataset == "cifar10" and found.class_names[0] == "airplane"


def test_datasets_by_their_other_names(tmp_path):
    path = bare("lenet", tmp_path / "x.pt")
    assert checkpoints.load(path, model="lenet", dataset="FashionMNIST").dataset == "fashion"
    with pytest.raises(UserError, match="unknown dataset 'mnits'; did you mean mnist"):
        checkpoints.load(path, model="lenet", dataset="mnits")


def test_classes_that_are_not_those_of_the_dataset_have_no_names(tmp_path):
    path = bare("tiny10", tmp_path / "tiny10" / "MNIST" / "x.pt", classes=12)
    assert checkpoints.load(path).class_names is None


# Constants


@pytest.mark.parametrize("model", ["lenet", "tiny10"])
def test_constants_that_nobody_gives_are_told(model, tmp_path):
    path = bare(model, tmp_path / model / "MNIST" / "x.pt")
    loaded = checkpoints.load(path)
    (note,) = loaded.notes
    assert f"{path} brings no mean and std" in note and "`mean` and `std`" in note
    assert ("mean 0.1307 and std 0.3081" if model == "lenet" else "mean 0 and std 1") in note
    assert checkpoints.load(path, mean=[0.5], std=[0.25]).notes == ()


def test_each_constant_comes_from_where_it_is_said(tmp_path):
    path = bare("lenet", tmp_path / "lenet" / "MNIST" / "x.pt", std=torch.tensor([0.75]))
    loaded = checkpoints.load(path, mean=[0.25])
    assert constants(loaded) == ([0.25], [0.75]) and loaded.notes == ()
    loaded = checkpoints.load(path)
    assert constants(loaded) == (pytest.approx(MNIST.mean), [0.75])
    assert "brings no mean:" in loaded.notes[0]
    assert constants(checkpoints.load(path, std=[0.5])) == (pytest.approx(MNIST.mean), [0.5])
    path = bare("lenet", tmp_path / "lenet" / "MNIST" / "x.pt")
    loaded = checkpoints.load(path, std=[0.5])
    assert constants(loaded) == (pytest.approx(MNIST.mean), [0.5])


@pytest.mark.parametrize(
    ("mean", "std", "told"),
    [
        ([125.3, 123.0, 113.9], [0.2] * 3, "mean .* 125.3, 123, 113.9.*0.4914, 0.4824, 0.4467"),
        ([0.5] * 3, [63.0, 62.1, 66.7], "std .* 63, 62.1, 66.7.*0.2471, 0.2435, 0.2616"),
        ([0.5, 0.5, 1.5], [0.5] * 3, "mean .* 0.5, 0.5, 1.5"),
        ([300.0], [0.5], "mean .* is 300, but images are in \\[0, 1\\]; give another"),
        ([-0.5] * 3, [0.5] * 3, "mean .* has to be 0 or above everywhere, not -0.5"),
        ([float("nan")], [0.5], "mean .* has to be 0 or above"),
        ([0.5], [float("nan")], "std .* has to be above 0"),
        ([0.5], [0.0], "std .* has to be above 0 everywhere, not 0"),
        ([0.5], [0.5, 0.5], "std .* has 2 values; give 3"),
        ([0.5] * 4, [0.5], "mean .* has 4 values; give 3"),
    ],
)
@pytest.mark.parametrize("where", ["said", "said of ours", "in the file"])
def test_constants_that_cannot_be(where, mean, std, told, tmp_path):
    given = {"mean": mean, "std": std}
    path = tmp_path / "tiny10" / "CIFAR10" / "x.pt"
    if where == "in the file":
        given = {name: torch.tensor(values) for name, values in given.items()}
        bare("tiny10", path, channels=3, **given)
        given = {}
    elif where == "said":
        bare("tiny10", path, channels=3)
    else:
        checkpoints.save(path, models.build("tiny10", num_classes=10, in_channels=3), "cifar10", {})
    with pytest.raises(UserError, match=told):
        checkpoints.load(path, **given)


def test_what_is_said_goes_before_wrong_constants_in_the_file(tmp_path):
    wrong = {"mean": torch.tensor([125.3]), "std": torch.tensor([63.0])}
    path = bare("lenet", tmp_path / "lenet" / "MNIST" / "x.pt", **wrong)
    assert constants(checkpoints.load(path, mean=[0.5], std=[0.25])) == ([0.5], [0.25])
