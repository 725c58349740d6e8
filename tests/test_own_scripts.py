"""The commands on networks that a function of the user's own makes."""

import json
import textwrap

import pytest
import torch

from robust_stitching import checkpoints, models

NETS = """
    from torch import nn

    class Mine(nn.Module):
        def __init__(self, num_classes, in_channels=1):
            super().__init__()
            self.conv = nn.Conv2d(in_channels, 8, 5, stride=4)
            self.bn = nn.BatchNorm2d(8)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(8 * 49, num_classes)

        def forward(self, x):
            return self.fc(self.relu(self.bn(self.conv(x))).flatten(1))
"""
TRAIN = ("-d", "digits", "-e", 2, "-lr", 0.05)


@pytest.fixture(scope="module")
def place(tmp_path_factory, run_script):
    """A folder with code, a network of it that was trained, and its weights alone."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "nets.py").write_text(textwrap.dedent(NETS))
    done = run_script("train.py", "-m", "nets.py:Mine", *TRAIN, "-o", "s", cwd=folder)
    assert done.status == 0, done.err
    (folder / "s" / "nets.py_Mine" / "Digits" / "in0-gn0" / "model.pt").rename(folder / "mine.pt")
    found = checkpoints.load(folder / "mine.pt", model=f"{folder}/nets.py:Mine")
    plain = {k: v for k, v in found.network.state_dict().items() if "normalize" not in k}
    torch.save(plain, folder / "mine.pth")
    constants = [f"{v.item():.10f}" for v in vars(found.network.normalize)["_buffers"].values()]
    (folder / "constants").write_text(" ".join(constants))
    return folder


def record_of(done, folder):
    assert done.status == 0, done.err
    return json.loads((folder / "numbers.json").read_text())


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def test_weights_of_plain_pytorch_give_the_numbers_of_the_checkpoint(here, call_script):
    mean, std = (here / "constants").read_text().split()
    given = ("-d", "digits", "--json", "numbers.json")
    ours = record_of(call_script("eval_net.py", "mine.pt", "-m", "nets.py:Mine", *given), here)
    assert ours["accuracy"] > 0.5 and ours["model"] == "nets.py:Mine"
    constants = (*given, "--mean", mean, "--std", std)
    for named in (
        ("nets.py:Mine", "--state-dict", "mine.pth"),
        ("mine.pth", "-m", "nets.py:Mine"),
        ("mine.pth", "-m", f"{here}/nets.py:Mine"),
    ):
        record = record_of(call_script("eval_net.py", *named, *constants), here)
        assert (record["accuracy"], record["loss"]) == (
            ours["accuracy"],
            pytest.approx(ours["loss"], rel=1e-5),
        )


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("nets.py:Mine",), "nets.py:Mine makes a network without weights; name their file, --st"),
        (("mine.pt", "--state-dict", "mine.pth"), "mine.pt is no path/to/file.py:function; leave"),
        (
            ("nets.py:Mine", "--state-dict", "mine.pth", "-m", "lenet"),
            "nets.py:Mine and lenet both name the network; name one.",
        ),
        (("nets.py:Nope", "--state-dict", "mine.pth", "-d", "digits"), "has no function 'Nope'"),
        (("nets.py", "-d", "digits"), "nets.py"),
    ],
)
def test_what_is_missing_is_told(here, call_script, args, told):
    done = call_script("eval_net.py", *args)
    assert done.status == 2 and told in done.err
    assert "Traceback" not in done.err


def test_no_code_is_run_because_a_checkpoint_names_it(here, run_script):
    done = run_script("eval_net.py", "mine.pt", cwd=here)
    assert done.status == 2 and "name it yourself: --model, as in path/to/nets.py:Mine" in done.err


def test_layers_of_code(here, call_script):
    done = call_script("layer_info.py", "nets.py:Mine")
    assert done.status == 0 and "conv" in done.out and "8×7×7" in done.out


def test_a_plan_with_code_wants_it_named_again(here, call_script, tmp_path):
    stitch = ("find_transform.py", "mine.pt", "mine.pt", "relu", "relu", "digits", "-e", 1)
    few = ("--no-robustness", "--no-pinv", "-o", tmp_path)
    code = ("--front-code", "nets.py:Mine", "--end-code", "nets.py:Mine")
    done = call_script(*stitch, *few, *code, "--run-name", "one")
    assert done.status == 0, done.err
    (report,) = (tmp_path / "one" / "json").glob("*.json")
    again = ("find_transform.py", "--plan", report, "-o", tmp_path, "--run-name", "two")
    done = call_script(*again)
    assert done.status == 2 and "no code is run because a file names it" in done.err
    done = call_script(*again, "--front-code", "lenet", "--end-code", "nets.py:Mine")
    assert done.status == 2 and "leave --front-code out" in done.err
    done = call_script(*again, *code)
    assert done.status == 0, done.err
    (other,) = (tmp_path / "two" / "json").glob("*.json")
    one, two = (json.loads(path.read_text())["stitched"] for path in (report, other))
    assert one == two
    (frank,) = (tmp_path / "two" / "frank_model").iterdir()
    done = call_script("eval_net.py", frank, "-m", "nets.py:Mine")
    assert done.status == 0 and f"{one['accuracy']:.2%}" in done.out


def test_code_may_move_but_not_change(here, call_script, tmp_path):
    stitch = ("find_transform.py", "mine.pt", "mine.pt", "relu", "relu", "digits", "-e", 1)
    few = ("--no-robustness", "--no-pinv", "-o", tmp_path / "r")
    done = call_script(*stitch, *few, "--front-code", "nets.py:Mine", "--run-name", "one")
    assert done.status == 0, done.err
    moved = tmp_path / "moved.py"
    moved.write_text((here / "nets.py").read_text())
    again = (*stitch, *few, "--front-code", f"{moved}:Mine", "--run-name", "one", "--reuse")
    done = call_script(*again)
    assert done.status == 0, done.err
    moved.write_text((here / "nets.py").read_text() + "# changed\n")
    done = call_script(*again)
    assert done.status == 2 and "was made by another plan (front.hash was" in done.err


def test_a_training_is_resumed_with_the_same_code_only(here, call_script, tmp_path):
    code = tmp_path / "nets.py"
    code.write_text((here / "nets.py").read_text())
    args = ("train.py", "-m", f"{code}:Mine", *TRAIN, "-o", tmp_path / "s")
    assert call_script(*args).status == 0
    assert call_script(*args, "--reuse").status == 0
    code.write_text(code.read_text() + "# changed\n")
    done = call_script(*args, "--reuse")
    assert done.status == 2 and "was trained with other settings (code was" in done.err


def test_two_networks_of_code_are_compared(here, call_script, tmp_path):
    done = call_script(
        "compare_nets.py", "nets.py:Mine", "mine.pt", "digits", "--state-dict1", "mine.pth",
        "--code2", "nets.py:Mine", "--measures", "cka", "-o", tmp_path, "--run-name", "r",
        "--mean1", "0.3", "--std1", "0.3",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert models.asked_for("nets.py:Mine").name == "nets.py:Mine"


def test_a_state_dict_becomes_a_checkpoint(here, call_script, tmp_path):
    out = tmp_path / "mine.pt"
    done = call_script(
        *("convert_checkpoint.py", "mine.pth", "-m", "nets.py:Mine", "-d", "digits"),
        *("--mean", 0.3, "--std", 0.3, "-o", out),
    )
    assert done.status == 0 and "images of 32×32 pixels" in done.out
    assert call_script("eval_net.py", out, "-m", "nets.py:Mine").status == 0


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        ("(self.fc(x), x) if self.training else self.fc(x)", "in training mode; have it return"),
        ("self.fc(x).detach()", "its answers have no gradient"),
        ("self.fc(x) if not self.training else x.nonsense", "fails in training mode (Attribute"),
    ],
)
def test_what_cannot_be_trained_is_told(call_script, tmp_path, forward, told):
    (tmp_path / "n.py").write_text(
        "from torch import nn\nclass N(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.fc = nn.Linear(1024, 10)\n"
        f"    def forward(self, x):\n        x = x.flatten(1)\n        return {forward}\n"
    )
    done = call_script("train.py", "-m", f"{tmp_path}/n.py:N", *TRAIN, "-o", tmp_path / "s")
    assert done.status == 2 and told in done.err and "Traceback" not in done.err
    assert not (tmp_path / "s").exists()
