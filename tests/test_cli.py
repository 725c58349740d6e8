"""Values, flags and defaults of the commands, as they are promised."""

import argparse
import math
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from conftest import REPOSITORY
from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.command_line import networks, process, values
from robust_stitching.plans import settings
from robust_stitching.plans.settings import Kind
from robust_stitching.runs.inputs import resolved

SCRIPTS = REPOSITORY / "src" / "bin"


# Values


@pytest.mark.parametrize(
    "text, value",
    [
        ("8/255", 8 / 255),
        ("0.5*8/255", 0.5 * 8 / 255),
        ("1e-3", 0.001),
        (" 2 ", 2),
        ("-1+3*2", 5),
        ("(1+3)*-2", -8),
        (".5", 0.5),
        ("1 - 1/4", 0.75),
    ],
)
def test_number_is_arithmetic(text, value):
    assert values.number(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "eight",
            "8/",
            "8//255",
            "1/0",
            "0/0",
            "nan",
            "inf",
            "-inf",
            "1e999",
            "1e308*10",
        ),
        *("2**3", "2**99999", "9**9**9**9", "1" + "0" * 400, "1" + "0" * 5000, "1<<99", "5%3"),
        *("__import__('os')", "exit()", "().__class__", "lambda: 1", "[1][0]", "'1'", "True", "1j"),
        *("1,2", "1;2", "x:=1", "1 if 1 else 2", "\0", "(" * 300 + "1" + ")" * 300),
    ],
)
def test_number_is_nothing_but_arithmetic(text):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        values.number(text)
    assert f"'{text}'" in str(error.value)


READERS = {
    "positive_int": values.reader(Kind(int), settings.AT_LEAST_ONE),
    "seed": values.reader(Kind(int), settings.SEED),
    "iterations": values.reader(Kind(int), settings.COUNT),
    "positive": values.reader(Kind(float), settings.POSITIVE),
    "at_least_zero": values.reader(Kind(float), settings.AT_LEAST_ZERO),
    "share": values.reader(Kind(float), settings.SHARE),
    "radius": values.reader(Kind(float), settings.RADIUS),
    "numbers": values.reader(Kind(tuple, items=float)),
}
RANGES = {  # right ones, wrong ones
    "positive_int": (["1", "128"], ["0", "-1", "1.5", "1e3", "8/2", "one", ""]),
    "seed": (["0", "7", str(2**63 - 1)], ["-1", str(2**63), "0.5", "x"]),
    "iterations": (["0", "10"], ["-1", "1.5"]),
    "positive": (["1e-9", "8/255"], ["0", "-1", "0*5", "nan"]),
    "at_least_zero": (["0", "1/3"], ["-1e-9", "inf"]),
    "share": (["0", "1", "1/2"], ["-0.1", "1.0001", "2"]),
    "radius": (["8/255", "1", "0.3"], ["0", "-8/255", "8", "1.01"]),
    "numbers": (["0.5", "0.49,0.48,0.45", "1/2,1/3"], ["", "0.5,", "0.5;0.4", "a,b"]),
}


@pytest.mark.parametrize(
    "kind, text", [(kind, text) for kind, (right, _) in RANGES.items() for text in right]
)
def test_values_within_their_range(kind, text):
    found = READERS[kind](text)
    assert found == pytest.approx(eval(f"[{text}]" if kind == "numbers" else text))


@pytest.mark.parametrize(
    "kind, text", [(kind, text) for kind, (_, wrong) in RANGES.items() for text in wrong]
)
def test_values_beyond_their_range(kind, text):
    with pytest.raises(argparse.ArgumentTypeError):
        READERS[kind](text)


# Flags: of the documentation of the commands, with their defaults

ATTACK = {
    "--robust": False,
    "--madry": False,
    "--epsilon": 8 / 255,
    "--step-size": 2 / 255,
    "--perturb-steps": 10,
    "--beta": 10,
    "--attack-ratio": 1,
}
STITCH = {
    "--run-name": None,
    "-e, --epochs": 30,
    "-lr, --lr": 1e-3,
    "-o, --out-dir": REPOSITORY / "results",
    "-b, --batch-size": 128,
    "-s, --save-frequency": 10,
    "--seed": 0,
    "-wd, --weight-decay": 1e-4,
    "--optimizer": "adam",
    "--debug": False,
    "--flatten": False,
    "--l1": 0,
    "--cka-reg": 0,
    "-i, --init": "random",
    "--map": "linear",
    "-m, --mask": "identity",
    "-r, --low-rank": None,
    "--target-type": "hard",
    "--temperature": 1,
    "--no-pinv": False,
    "--no-bn": False,
    "--images": "real",
}
FLAGS = {
    "train.py": {
        "-m, --model": "lenet",
        "-d, --dataset": "mnist",
        "-e, --epochs": 300,
        "-lr, --lr": 1e-1,
        "-o, --out-dir": REPOSITORY / "snapshots",
        "-b, --batch-size": 128,
        "-s, --save-frequency": 10000,
        "-i, --init-noise": 0,
        "-g, --gradient-noise": 0,
        "-wd, --weight-decay": 1e-4,
        "-opt, --optimizer": "sgd",
        **ATTACK,
    },
    "find_transform.py": STITCH | ATTACK,
    "find_cross_dataset_transform.py": {
        flag: default for flag, default in STITCH.items() if flag not in ("--no-pinv", "--no-bn")
    }
    | {flag: default for flag, default in ATTACK.items() if flag not in ("--robust", "--beta")},
    "layer_info.py": {},
    "eval_net.py": {"-d, --dataset": None, "--json": None},
    "collect_results.py": {"--anew": False},
}
ARGUMENTS = {
    "train.py": [],
    "find_transform.py": ["front.pt", "end.pt", "conv1", "conv2", "digits"],
    "find_cross_dataset_transform.py": [
        *("front.pt", "end.pt", "conv1", "conv2", "digits", "mnist"),
    ],
    "layer_info.py": ["lenet"],
    "eval_net.py": ["some.pt"],
    "collect_results.py": [],
    "compare_nets.py": ["one.pt", "other.pt", "digits"],
}
CHOICES = {
    ("train.py", "--optimizer"): {"adam", "sgd"},
    ("find_transform.py", "--optimizer"): {"adam", "sgd"},
    ("find_transform.py", "--init"): {
        *("random", "perm", "eye", "ps_inv", "procrustes", "ones-zeros", "zeros"),
    },
    ("find_transform.py", "--map"): {"linear", "affine-channels", "mlp"},
    ("find_transform.py", "--mask"): {
        *("identity", "semi-match", "abs-semi-match", "hungarian", "random-permutation"),
    },
    ("find_transform.py", "--target-type"): {
        *("hard", "soft_1", "soft_2", "soft_12", "soft_1_plus_2"),
    },
}


def parser_of(script):
    return import_module(f"robust_stitching.command_line.{Path(script).stem}").parser()


def action_of(parser, flags):
    (found,) = (a for a in parser._actions if set(flags.split(", ")) <= set(a.option_strings))
    return found


@pytest.mark.parametrize(
    "script, flags, default",
    [(script, *flag) for script, flags in FLAGS.items() for flag in flags.items()],
)
def test_every_flag_has_its_default(script, flags, default):
    parser = parser_of(script)
    found = getattr(parser.parse_args(ARGUMENTS[script]), action_of(parser, flags).dest)
    if isinstance(default, float):
        assert math.isclose(found, default)
    else:
        assert type(found) is type(default) or isinstance(found, Path | float)
        assert found == default


@pytest.mark.parametrize("script, flag", CHOICES)
def test_every_choice_is_there(script, flag):
    assert set(action_of(parser_of(script), flag).choices) == CHOICES[script, flag]


@pytest.mark.parametrize("flag", ["--robust", "--beta 3", "--no-pinv", "--no-bn"])
def test_what_the_second_dataset_leaves_out(flag):
    script = "find_cross_dataset_transform.py"
    with pytest.raises(UserError, match=flag.split()[0]):
        parser_of(script).parse_args([*ARGUMENTS[script], *flag.split()])


@pytest.mark.parametrize("spelling", ["random-permutation", "random-permuation"])
def test_a_mask_with_two_spellings(spelling):
    parser = parser_of("find_transform.py")
    found = parser.parse_args([*ARGUMENTS["find_transform.py"], "-m", spelling])
    assert found.mask == "random-permutation"


@pytest.mark.parametrize("flag", ["--epsilon", "--step-size"])
def test_radii_and_steps_are_expressions(flag):
    args = parser_of("train.py").parse_args([flag, "0.5*8/255"])
    assert math.isclose(getattr(args, flag[2:].replace("-", "_")), 4 / 255)


IN_VAIN = {  # what another choice makes meaningless, given with its default
    "train.py": [
        ("--epsilon 8/255", "needs --robust or --madry"),
        ("--ramp 500", "needs --robust or --madry"),
        ("--madry --beta 10", "needs --robust"),
    ],
    "find_transform.py": [
        ("--step-size 2/255", "needs --robust or --madry"),
        ("--no-robustness --robust-images 200", "leave out --no-robustness"),
        ("--no-pinv --similarity-images 100", "leave out --no-pinv"),
        ("--random-fronts 3", "needs --controls"),
        ("--noise-sigmas 0,1,4", "needs --controls"),
        ("--temperature 1", "choose --target-type soft_1"),
    ],
    "find_cross_dataset_transform.py": [("--attack-ratio=1", "needs --madry")],
    "compare_nets.py": [("--measures cka --neighbours 10", "mutual-knn")],
}


@pytest.mark.parametrize(
    "script, options, why", [(script, *case) for script, of in IN_VAIN.items() for case in of]
)
def test_no_option_is_given_in_vain(script, options, why, call_script):
    done = call_script(script, *ARGUMENTS[script], *options.split())
    assert done.status == 2 and why in done.err
    assert options.split()[-1].split("=")[0] in done.err or options.split()[-2] in done.err


@pytest.fixture
def help_of(call_script, monkeypatch):
    """The help of a script as one long line."""

    def told(script):
        monkeypatch.setenv("COLUMNS", "1000")
        left = call_script(script, "--help")
        assert (left.status, left.err) == (0, "")
        return " ".join(left.out.split())

    return told


@pytest.mark.parametrize("script", FLAGS)
def test_help_lists_every_flag_with_its_default(script, help_of):
    options = help_of(script).split(" options: ")[1]
    for flags, default in FLAGS[script].items():
        for flag in flags.split(", "):
            assert re.search(
                rf"(?<!\S){flag}[ ,]", options
            )  # from Python 3.13 on: "-m, --model MODEL"
        if default not in (None, False):
            about = options.split(f"{flags.split(', ')[-1]} ", 1)[1]
            shown = re.search(r"\(default: (.*?)\)", about)[1]
            number = isinstance(default, int | float)
            assert math.isclose(values.number(shown), default) if number else shown == str(default)


@pytest.mark.parametrize("script", FLAGS)
def test_help_speaks_of_no_none(script, help_of):
    assert "None" not in help_of(script)


# What the scripts make of them


def test_a_script_that_is_interrupted_leaves_with_130(monkeypatch, capsys):
    def main(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["some.py"])
    with pytest.raises(SystemExit) as left:
        process.run(main)
    assert left.value.code == 130
    assert capsys.readouterr().err == "some.py: interrupted.\n"


@pytest.mark.parametrize(
    "error, told",
    [
        (UserError("no such thing as 'x'."), "some.py: no such thing as 'x'.\n"),
        (PermissionError(13, "Permission denied", "/a"), "some.py: the system refused /a: "),
        (OSError(28, "No space left on device"), "some.py: the system refused: No space"),
    ],
)
def test_mistakes_and_refusals_are_one_sentence(error, told, monkeypatch, capsys):
    def main(argv):
        raise error

    monkeypatch.setattr(sys, "argv", ["/bin/some.py"])
    with pytest.raises(SystemExit) as left:
        process.run(main)
    err = capsys.readouterr().err
    assert left.value.code == 2
    assert err.startswith(told)
    assert err.count("\n") == 1


def test_our_own_mistakes_are_shown_whole(monkeypatch):
    def main(argv):
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["some.py"])
    with pytest.raises(ZeroDivisionError):
        process.run(main)


@pytest.mark.parametrize(
    "given, kept",
    [("digits", "digits"), ("MNIST", "mnist"), ("FashionMNIST", "fashion"), ("CIFAR10", "cifar10")],
)
def test_a_dataset_is_kept_by_its_key(given, kept):
    assert resolved(given) == kept


def test_a_folder_is_kept_by_its_whole_path(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolved("mine") == resolved("./mine") == str(tmp_path / "mine")
    assert resolved("digits") == "digits"
    assert resolved("./digits") == str(tmp_path / "digits")


def test_help_lists_every_model_without_importing_any():
    """The names are read off the files; what is built under them is registered."""
    listed = networks.models().partition(", or ")[0].split(", ")
    assert sorted(listed) == sorted(models.names())
    assert {"resnet_w1", "resnet_w5", "vgg11", "vgg19"} <= set(listed)
