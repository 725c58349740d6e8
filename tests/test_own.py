"""Networks that functions of the user's own make: ``nets.py:mine``."""

import inspect
import sys
import textwrap

import numpy
import pytest
import torch
from torch import fx, nn

import robust_stitching as rs
from robust_stitching import checkpoints, models
from robust_stitching.basics.code import function_in, functions_in
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.graph import graph_of
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.models.probe import channels_taken
from robust_stitching.models.unwrapping import unwrapped, unwrapped_copy
from robust_stitching.stitching.controls import with_random_weights

NETS = """
    import torch
    from torch import nn
    from parts import head

    class Mine(nn.Module):
        def __init__(self, classes, width):
            super().__init__()
            self.conv = nn.Conv2d(1, width, 3, padding=1)
            self.bn = nn.BatchNorm2d(width)
            self.pool = nn.AdaptiveAvgPool2d(7)
            self.head = head(49 * width, classes)

        def forward(self, x, mask=None):
            return self.head(self.pool(self.bn(self.conv(x)).relu()).flatten(1))

    def mine(num_classes=10, width=4):
        return Mine(num_classes, width)

    class Fixed(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(784, 7))

    def wants(num_classes, depth):
        return None

    def fails(num_classes):
        raise KeyError("depth")

    def nothing():
        return 3
"""


FAILS = 1 + next(i for i, line in enumerate(NETS.splitlines()) if "raise KeyError" in line)


@pytest.fixture
def nets(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "nets.py").write_text(textwrap.dedent(NETS))
    (folder / "parts.py").write_text("from torch.nn import Linear as head\n")
    return folder / "nets.py"


def saved(path, entry, training=None, **sizes):
    network = models.build(entry, num_classes=10, in_channels=1, image_size=28, **sizes)
    checkpoints.save(path, network, "digits", training or {})
    return network


def test_what_is_code():
    assert function_in("a/b.py:f") == ("a/b.py", "f") or str(function_in("a/b.py:f")) == "a/b.py:f"
    assert [f.name for f in functions_in("a.py:f,b.py:g")] == ["f", "g"]
    for other in ("resnet18", "torchvision:resnet18", "model.pt", "a.py:3", "a.py:f(2)"):
        assert function_in(other) is None and functions_in(other) == []
    with pytest.raises(UserError, match=r"'a\.py' is a file of code; .*a\.py:NAME"):
        function_in("a.py")


def test_a_function_is_told_what_it_takes_and_its_neighbours_are_found(nets):
    entry = models.asked_for(f"{nets}:mine")
    assert entry.name == "nets.py:mine" and entry.fixed == {"in_channels", "image_size"}
    network = models.build(entry, num_classes=6, in_channels=3, image_size=28, seed=3)
    assert network.head.out_features == 6
    assert network.input_shape == (1, 28, 28)  # found out: it takes no colour
    assert network.architecture["num_classes"] == 6
    again = models.rebuilt(network.architecture, seed=3)
    for (name, one), other in zip(
        network.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_network_with_its_own_number_of_classes(nets):
    entry = models.asked_for(f"{nets}:Fixed")
    assert entry.fixed == {"num_classes", "in_channels", "image_size"}
    assert models.example(f"{nets}:Fixed").input_shape == (1, 28, 28)
    with pytest.raises(UserError, match=r"values of shape \(7,\) instead of 10 logits"):
        models.build(entry, num_classes=10, in_channels=1, image_size=28)


def test_two_folders_may_have_modules_of_the_same_name(nets, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "nets.py").write_text(nets.read_text())
    (other / "parts.py").write_text("from torch import nn\nhead = lambda n, k: nn.Linear(n, k + 1)")
    for path, answers in ((nets, 10), (other / "nets.py", 11), (nets, 10)):
        made = models.asked_for(f"{path}:mine").make(num_classes=10, in_channels=1, image_size=28)
        assert made.head.out_features == answers


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nope", r"has no function 'nope'; it has .*mine"),
        ("wants", r"wants depth, which nobody tells it; give them defaults"),
        ("fails", rf"fails cannot be made \(KeyError: 'depth', line {FAILS} of .*nets\.py\)"),
        ("nothing", r"returns no network but 3; return an nn\.Module"),
    ],
)
def test_what_is_wrong_with_a_function_is_told(nets, name, told):
    with pytest.raises(UserError, match=told):
        models.example(f"{nets}:{name}")


def test_what_is_wrong_with_a_file_is_told_with_its_line(tmp_path):
    path = tmp_path / "bad.py"
    with pytest.raises(UserError, match=r"bad\.py cannot be read \(No such file"):
        models.asked_for(f"{path}:f")
    path.write_text("x = 1\ndef f(:\n")
    with pytest.raises(UserError, match=r"\(SyntaxError: .*, line 2 of .*bad\.py\)"):
        models.asked_for(f"{path}:f")
    path.write_text("import os\n\nos.nonsense\n")
    with pytest.raises(UserError, match=r"AttributeError: .*, line 3 of .*bad\.py"):
        models.asked_for(f"{path}:f")


def test_no_code_is_run_because_a_checkpoint_names_it(tmp_path):
    code, mark = tmp_path / "evil.py", tmp_path / "it was run"
    code.write_text(
        "from torch import nn\n"
        f"open({str(mark)!r}, 'w').close()\n"
        "f = lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    saved(tmp_path / "model.pt", models.asked_for(f"{code}:f"))
    mark.unlink()
    for architecture in (
        {"model": f"{code}:f", "code": "0" * 16},
        {"model": f"{code}:f"},
        {"model": str(code)},
    ):
        found = torch.load(tmp_path / "model.pt")
        found["architecture"] = {"num_classes": 10, "in_channels": 1} | architecture
        torch.save(found, tmp_path / "other.pt")
        with pytest.raises(UserError):
            checkpoints.load(tmp_path / "other.pt")
    assert not mark.exists()
    with pytest.raises(UserError, match=r"evil\.py:f is a function of somebody's own"):
        models.rebuilt({"model": "evil.py:f", "code": "1" * 16, "num_classes": 10})


def test_a_checkpoint_loads_with_its_code_and_says_where_that_has_changed(nets, tmp_path):
    path = tmp_path / "model.pt"
    network = saved(path, models.asked_for(f"{nets}:mine"), seed=5)
    loaded = checkpoints.load(path, model=f"{nets}:mine")
    assert (loaded.model, loaded.classes, loaded.notes) == ("nets.py:mine", 10, ())
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(loaded.network(images), network.eval()(images))
    nets.write_text(nets.read_text() + "# another text\n")
    (note,) = checkpoints.load(path, model=f"{nets}:mine").notes
    assert "another text than the nets.py:mine that" in note
    with pytest.raises(UserError, match=r"says itself what model it is, nets\.py:mine; leave"):
        checkpoints.load(path, model="lenet")


def test_a_stitched_network_of_code_needs_it_again(nets, tmp_path):
    other = nets.with_name("more.py")
    other.write_text(nets.read_text().replace("mine", "more") + "# more\n")
    one, two = (models.asked_for(text) for text in (f"{nets}:mine", f"{other}:more"))
    front, end = (
        models.build(e, num_classes=10, in_channels=1, image_size=28).eval() for e in (one, two)
    )
    path = tmp_path / "frank.pt"
    frank = StitchedNetwork(front, "bn", end, "bn").eval()
    checkpoints.save(path, frank, "digits", {})
    loaded = checkpoints.load(path, model=f"{nets}:mine,{other}:more")
    images = torch.rand(2, 1, 28, 28)
    assert loaded.model == "nets.py:mine-more.py:more"
    assert torch.equal(loaded.network(images), frank(images))


def test_two_functions_of_one_name_are_told_apart_by_their_code(nets, tmp_path):
    other = tmp_path / "other" / "nets.py"
    other.parent.mkdir()
    (other.parent / "parts.py").write_text((nets.parent / "parts.py").read_text())
    other.write_text(nets.read_text().replace(".relu()", ".tanh()"))
    texts = f"{nets}:mine", f"{other}:mine"
    sizes = {"num_classes": 10, "in_channels": 1, "image_size": 28}
    front, end = (models.build(models.asked_for(text), **sizes).eval() for text in texts)
    frank = StitchedNetwork(front, "conv", end, "conv").eval()
    checkpoints.save(tmp_path / "frank.pt", frank, "digits", {})
    images = torch.rand(2, 1, 28, 28)
    for named in (texts, texts[::-1]):
        loaded = checkpoints.load(tmp_path / "frank.pt", model=",".join(named))
        assert torch.equal(loaded.network(images), frank(images)) and not loaded.notes


def test_what_the_code_imports_beside_it_counts(nets, tmp_path):
    saved(tmp_path / "model.pt", models.asked_for(f"{nets}:mine"))
    assert checkpoints.load(tmp_path / "model.pt", model=f"{nets}:mine").notes == ()
    (nets.parent / "parts.py").write_text("from torch.nn import Linear as head\nx = 1\n")
    (note,) = checkpoints.load(tmp_path / "model.pt", model=f"{nets}:mine").notes
    assert "another text than the nets.py:mine" in note


def test_code_is_called_without_arguments(tmp_path, monkeypatch):
    code = tmp_path / "args.py"
    code.write_text(
        "import sys\nfrom torch import nn\nassert sys.argv == [__file__]\n"
        "_net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
        "def same(num_classes=3):\n    assert len(sys.argv) == 1\n    return _net\n"
    )
    monkeypatch.setattr("sys.argv", ["train.py", "-e", "3"])
    sizes = {"in_channels": 1, "image_size": 8}
    entry = models.asked_for(f"{code}:same")
    first, second = (models.build(entry, num_classes=None, **sizes) for _ in range(2))
    assert first is not second
    torch.save(first.state_dict(), tmp_path / "w.pth")  # it takes a number and ignores it
    loaded = checkpoints.load(
        tmp_path / "w.pth", model=f"{code}:same", dataset="digits", image_size=8
    )
    assert loaded.classes == 3


def test_fronts_that_are_the_same_at_every_seed_are_refused(tmp_path, digits):
    code = tmp_path / "seeds.py"
    code.write_text(
        "import torch\nfrom torch import nn\n"
        "def net(num_classes):\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(1024, num_classes))\n"
    )
    entry = models.asked_for(f"{code}:net")
    network = models.build(entry, num_classes=10, in_channels=1, image_size=32)
    with pytest.raises(UserError, match=r"seeds\.py:net gives the same at every seed"):
        with_random_weights(network, digits[0].between(0, 20), seed=0, number=0)


def test_weights_of_plain_pytorch_say_sizes_and_classes(nets, tmp_path):
    network = models.build(
        models.asked_for(f"{nets}:mine"), num_classes=6, in_channels=1, image_size=28
    )
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("normalize")}
    torch.save({"model": state}, tmp_path / "best.pth")
    loaded = checkpoints.load(tmp_path / "best.pth", model=f"{nets}:mine", dataset="mnist")
    assert (loaded.classes, loaded.network.input_shape) == (6, (1, 32, 32))
    assert any("takes those of 28×28 too" in note for note in loaded.notes)
    at = checkpoints.load(
        tmp_path / "best.pth", model=f"{nets}:mine", dataset="mnist", image_size=28
    )
    assert at.network.input_shape == (1, 28, 28)


def test_halved_weights_are_converted_and_that_is_said(nets, tmp_path):
    state = nn.Sequential(nn.Flatten(), nn.Linear(784, 7)).bfloat16().state_dict()
    torch.save(state, tmp_path / "f.pth")
    loaded = checkpoints.load(tmp_path / "f.pth", model=f"{nets}:Fixed", dataset="digits")
    assert f"The weights in {tmp_path}/f.pth were converted to float32." in loaded.notes
    assert loaded.network.state_dict()["1.weight"].dtype == torch.float32
    assert torch.equal(loaded.network.state_dict()["1.weight"], state["1.weight"].float())


def test_a_network_that_takes_one_size_is_found_to(nets, tmp_path):
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(784, 7)).state_dict(), tmp_path / "f.pth")
    for dataset in ("mnist", "digits", "cifar10"):
        loaded = checkpoints.load(tmp_path / "f.pth", model=f"{nets}:Fixed", dataset=dataset)
        assert (loaded.classes, loaded.network.input_shape) == (7, (1, 28, 28))
    assert loaded.class_names is None


def test_a_layer_called_normalize_stays_the_users(tmp_path):
    code = tmp_path / "norm.py"
    code.write_text(
        textwrap.dedent("""
        import torch
        from torch import nn

        class Norm(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("mean", torch.full((1, 1, 1), 0.5))
                self.register_buffer("std", torch.full((1, 1, 1), 0.25))

            def forward(self, x):
                return (x - self.mean) / self.std

        class Net(nn.Module):
            def __init__(self, num_classes):
                super().__init__()
                self.normalize = Norm()
                self.fc = nn.Linear(64, num_classes)

            def forward(self, x):
                return self.fc(self.normalize(x).flatten(1))
        """)
    )
    network = models.build(
        models.asked_for(f"{code}:Net"), num_classes=5, in_channels=1, image_size=8
    )
    name, _ = models.normalisation_of(network)
    assert name == "normalize_images"
    plain = {k: v for k, v in network.state_dict().items() if not k.startswith(name)}
    plain["normalize.mean"] = torch.full((1, 1, 1), 0.1)
    torch.save(plain, tmp_path / "w.pth")
    loaded = checkpoints.load(
        tmp_path / "w.pth", model=f"{code}:Net", dataset="digits", image_size=8
    ).network
    x = torch.rand(4, 1, 8, 8)
    expected = ((x - 0.1) / 0.25).flatten(1) @ plain["fc.weight"].T + plain["fc.bias"]
    assert torch.allclose(loaded(x), expected, atol=1e-6)


def test_wrappers_are_taken_off_and_scripts_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert unwrapped(nn.DataParallel(net)) is net
    assert unwrapped(torch.compile(net)) is net
    scripted = torch.jit.script(net)
    with pytest.raises(UserError, match=r"cannot be cut, since it was made by torch\.jit; give"):
        unwrapped(scripted)
    with pytest.raises(UserError, match=r"since its part '0' was made by torch\.jit"):
        unwrapped(nn.Sequential(scripted))
    for made in (fx.symbolic_trace(net), nn.Sequential(fx.symbolic_trace(net))):
        with pytest.raises(UserError, match=r"was made by torch\.fx or torch\.export"):
            unwrapped(made)
    quantised = torch.ao.nn.quantized.Linear(4, 2)
    with pytest.raises(UserError, match="its part '0' was made by quantisation"):
        unwrapped(nn.Sequential(quantised))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_taken_off_parts(wrap):
    inner = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    net = nn.Sequential(nn.Flatten(), wrap(inner), nn.Sequential(wrap(inner[1])))
    copied = unwrapped_copy(net)
    assert [name for name, _ in copied.named_modules()] == ["", "0", "1", "1.0", "1.1", "2"]
    assert copied[2][0] is copied[1][1] and copied[1][0] is not inner[0]
    assert type(net[1]) is type(wrap(inner))


def test_a_network_that_returns_more_in_evaluation_alone_can_be_trained(tmp_path):
    code = tmp_path / "modes.py"
    code.write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        y = super().forward(x)\n"
        "        return y if self.training else (y, y.argmax(1))\n"
        "def net(num_classes=10):\n"
        "    return Net(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    sizes = {"num_classes": 10, "in_channels": 1, "image_size": 8}
    network = models.build(models.asked_for(f"{code}:net"), **sizes)
    models.require_trainable(network)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(network.train()(images), network.eval()(images))
    network[1] = nn.Sequential(network[1], nn.Unflatten(1, (2, 5)))
    with pytest.raises(UserError, match=r"answers with values of shape \(2, 5\) in training mode"):
        models.require_trainable(network)


def test_channels_are_what_the_network_takes():
    assert channels_taken(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), 8, first=3) == 1
    assert channels_taken(nn.Conv2d(5, 2, 3), 8, first=3) == 5  # no image has five
    assert channels_taken(nn.Flatten(), 8, first=3) == 3


LAZY = """
    from torch import nn
    import early

    class Net(nn.Module):
        def __init__(self, classes):
            super().__init__()
            from made.parts import head
            self.head = head(64, classes)

        def forward(self, x):
            import early
            from made import shape
            assert early.times == 1
            return self.head(shape.flat(x))

    def net(width=4, num_classes=10, /, *, in_channels=1, depth=3):
        assert (width, in_channels, depth) == (4, 1, 3)
        return Net(num_classes)

    instance = Net(10)
"""


@pytest.fixture
def lazy(tmp_path):
    for name, text in {
        "nets.py": textwrap.dedent(LAZY),
        "early.py": "import made\ntimes = made.times = getattr(made, 'times', 0) + 1\n",
        "made/__init__.py": "",
        "made/parts.py": "from torch.nn import Linear as head\n",
        "made/shape.py": "def flat(x):\n    from .deep import start\n    return x.flatten(start)\n",
        "made/deep.py": "start = 1\n",
        "unused.py": "",
    }.items():
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text(text)
    return tmp_path / "code"


def test_code_imports_what_lies_beside_it_whenever_it_runs(lazy):
    before, path = set(sys.modules), list(sys.path)
    entry = models.asked_for(f"{lazy}/nets.py:net")
    sizes = {"num_classes": 5, "in_channels": 1, "image_size": 8}
    network = models.build(entry, **sizes)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(network(images), network.head(images.flatten(1)))
    assert "head" in graph_of(network).layers
    assert not {"early", "made", "made.deep"} & (set(sys.modules) - before) and sys.path == path
    files = ["early.py", "made/__init__.py", "made/deep.py", "made/parts.py", "made/shape.py"]
    assert [str(file.relative_to(lazy)) for file in entry.files] == ["nets.py", *files]
    assert models.asked_for(f"{lazy}/nets.py:net") is entry
    (lazy / "made" / "deep.py").write_text("start = -3\n")
    assert models.asked_for(f"{lazy}/nets.py:net").code != entry.code


def test_an_instance_is_no_function(lazy):
    with pytest.raises(UserError, match=r"nets\.py:instance is a network, not a function or a cl"):
        models.asked_for(f"{lazy}/nets.py:instance")


def test_code_cannot_change_what_torch_is_told(tmp_path):
    code = tmp_path / "settings.py"
    code.write_text(
        "import numpy, torch\nfrom torch import nn\n"
        "torch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n"
        "numpy.random.seed(0)\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    before = numpy.random.get_state()[1].tolist()
    entry = models.asked_for(f"{code}:net")
    network = models.build(entry, num_classes=10, in_channels=1, image_size=8)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert numpy.random.get_state()[1].tolist() == before
    assert network(torch.rand(2, 1, 8, 8)).requires_grad


class Adapting(nn.Module):
    """Its norm trains for ever."""

    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm2d(3), nn.Linear(3, 4)

    def train(self, mode=True):
        super().train(mode)
        self.norm.train()
        return self

    def forward(self, x):
        return self.fc(self.norm(x).mean((2, 3)))


def test_a_network_whose_evaluation_mode_leaves_statistics_moving_is_refused(tmp_path):
    sentence = r"^'norm' in the network Adapting is in training mode also after `eval`, so its"
    with pytest.raises(UserError, match=sentence):
        rs.network(Adapting(), image_size=8, in_channels=3)
    file = tmp_path / "nets.py"
    adapting = inspect.getsource(Adapting)
    file.write_text(f"from torch import nn\n\n\n{adapting}")
    with pytest.raises(UserError, match=sentence):
        models.example(f"{file}:Adapting", 8)
