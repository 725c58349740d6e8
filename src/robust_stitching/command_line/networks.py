"""Options that say which network is meant: names, code of the user's, weights, constants."""

import argparse
from pathlib import Path
from typing import Any

import robust_stitching
from robust_stitching.basics.code import function_in
from robust_stitching.basics.declared import declared
from robust_stitching.basics.errors import UserError
from robust_stitching.command_line import values
from robust_stitching.command_line.parser import Parser

CODE = "path/to/file.py:function"
NETWORK = f"a checkpoint, or {CODE}"
OTHERS = "networks of one's own, and published ones (bare state dicts)"
MODELS = Path(robust_stitching.__file__).parent / "models"


def models() -> str:
    """What networks can be asked for, in words."""
    libraries = [f"{name}:<name>" for name in declared(MODELS, "register_library")]
    return f"{', '.join(declared(MODELS, 'register'))}, or {', '.join(libraries)}"


def add_network(parser: Parser, place: str | None, *, required: bool = False) -> None:
    """How to read the one network of a command, as `add_networks`.

    Parameters
    ----------
    place : in the plan; None for a command without one.
    required : whether the model has to be said.
    """
    group = parser.add_argument_group(OTHERS)
    about = (
        "what a bare state dict is of"
        + ("" if required else "; read from its path if not given")
        + f". {CODE}, or one of: {models()}"
    )
    if place is None:
        group.add_argument("-m", "--model", required=required, help=about)
    else:
        parser.setting(f"{place}.model", "-m", "--model", group=group, help=about)
        _add_state_dict(parser, group, place, "--state-dict")
    _add_constants(parser, group, place, "", "the network")


def add_networks(parser: Parser, roles: dict[str, tuple[str, str, str]]) -> None:
    """How to read several networks that others made.

    Parameters
    ----------
    roles : their places in the plan, each to what it is called, the form of its flags, and the
        number behind those of its constants.
    """
    group = parser.add_argument_group(OTHERS)
    for place, (role, flag, number) in roles.items():
        parser.setting(
            f"{place}.model",
            flag.format("code"),
            group=group,
            metavar="MODEL",
            help=f"what the weights of {role} are of, where its file does not say: {CODE}, or a "
            "name that train.py --help lists",
        )
        _add_state_dict(parser, group, place, flag.format("state-dict"))
        _add_constants(parser, group, place, number, role)


def _add_state_dict(parser: Parser, group: argparse._ArgumentGroup, place: str, flag: str) -> None:
    group.add_argument(
        flag,
        metavar="FILE",
        help=f"its weights, where {CODE} stands in the place of the file",
    )
    parser.weights[f"{place}.path"] = flag


def settings_of(parser: Parser, args: argparse.Namespace) -> dict[str, Any]:
    """The settings that arguments say; where code stands in the place of a network's file, the code
    and the file of `--state-dict` each in its own.

    Raises
    ------
    UserError : for code without weights, weights without code, or code that is named twice.
    """
    settings = said = parser.settings(args)
    for path, flag in parser.weights.items():
        model, weights = path.replace(".path", ".model"), getattr(args, _dest(flag))
        if function_in(said[path]) is None:
            if weights is not None:
                raise UserError(
                    f"{flag} has the weights of a network that code makes, but {said[path]} is no "
                    f"{CODE}; leave {flag} out."
                )
            continue
        if weights is None:
            raise UserError(
                f"{said[path]} makes a network without weights; name their file, {flag} FILE, or "
                "train it by train.py."
            )
        if said[model] not in (None, said[path]):
            raise UserError(f"{said[path]} and {said[model]} both name the network; name one.")
        settings = settings | {path: weights, model: said[path]}
    return settings


def _dest(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _add_constants(
    parser: Parser, group: argparse._ArgumentGroup, place: str | None, number: str, role: str
) -> None:
    about = {
        "mean": f"mean of the images that {role} was made with, per channel in [0, 1], such as "
        "0.49,0.48,0.45; before what its file says",
        "std": "their standard deviation",
        "weights": f"which weights to take for {role} where its file holds several, such as ema "
        "(default: the plain ones)",
    }
    metavars = {"mean": "MEAN", "std": "STD", "weights": "NAME"}
    for name, told in about.items():
        flag, more = f"--{name}{number}", {"metavar": metavars[name], "help": told}
        if place is None:
            read = str if name == "weights" else values.numbers
            group.add_argument(flag, type=read, **more)
        else:
            parser.setting(f"{place}.{name}", flag, group=group, **more)
