"""Groups of options: each stands once, for every script that has it, and says what it means."""

import argparse
from pathlib import Path

import torch

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.root import root
from robust_stitching.command_line import values
from robust_stitching.command_line.cli import Parser, precision
from robust_stitching.data import SOURCES
from robust_stitching.evaluation.suites import REPORTED, TIERS
from robust_stitching.models import choices
from robust_stitching.stitching.config import StitchConfig
from robust_stitching.stitching.initial import INITS
from robust_stitching.stitching.masks import MASKS, NO_MASK
from robust_stitching.stitching.objective import TARGETS
from robust_stitching.training import Adversary

DATASETS = (
    f"{', '.join(SOURCES)}, or a folder with train/ and test/ (or val/) inside, each with one "
    "folder per class"
)


def add_training_options(parser: Parser, *, epochs: int, lr: float, out: str) -> None:
    """The options that every command that trains has."""
    parser.add_argument("-e", "--epochs", type=values.positive_int, default=epochs, help="epochs")
    parser.add_argument(
        "-lr",
        "--lr",
        type=values.positive,
        default=lr,
        help="learning rate; divided by 10 at 1/3 and again at 2/3 of the training",
    )
    parser.add_argument("-o", "--out-dir", type=Path, default=root() / out, help="where results go")
    parser.add_argument(
        "-b", "--batch-size", type=values.positive_int, default=128, help="batch size"
    )
    parser.add_argument(
        "-wd", "--weight-decay", type=values.at_least_zero, default=1e-4, help="weight decay"
    )


def add_stitching_arguments(parser: Parser) -> None:
    """What both stitching commands take."""
    parser.add_argument("front_model", type=Path, help="checkpoint of the network stitched from")
    parser.add_argument("end_model", type=Path, help="checkpoint of the network stitched to")
    parser.add_argument("front_layer", help="layer whose activation is mapped; layer_info.py lists")
    parser.add_argument("end_layer", help="layer whose activation the map replaces")
    parser.add_argument("dataset", help=f"data to train the map on, one of: {DATASETS}")
    parser.add_argument(
        "--run-name", help="subfolder of the results; the date and time if not given"
    )
    add_training_options(parser, epochs=30, lr=1e-3, out="results")
    parser.add_argument(
        "-s",
        "--save-frequency",
        type=values.positive_int,
        default=10,
        help="how often the map is kept, in iterations, times the number of epochs",
    )
    parser.add_argument(
        "--seed",
        type=values.seed,
        default=0,
        help="seed of the order and augmentation of batches, of first values of the map where they "
        "are random, of random fronts, and of attacks",
    )
    parser.add_argument(
        "--optimizer", choices=["adam", "sgd"], default="adam", help="sgd has Nesterov momentum 0.9"
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="a few batches only, verbose log; no line in results.csv",
    )
    _add_map_options(parser)
    parser.add_argument(
        "--controls",
        action="store_true",
        help="also stitch the end network to itself, and fronts with random weights, and report "
        "the gaps: a map can learn the task by itself; each takes another training",
    )
    parser.add_argument(
        "--random-fronts",
        type=values.positive_int,
        default=StitchConfig.random_fronts,
        help="how many fronts with random weights --controls takes, whose accuracies spread",
    )
    add_constants(parser, "the front", "the end")


def _add_map_options(parser: Parser) -> None:
    """Which map, and what it is trained for."""
    group = parser.add_argument_group("the map and its target")
    group.add_argument(
        "-i",
        "--init",
        choices=INITS,
        default="random",
        help="first values of the map: uniform random numbers, a random permutation, the identity, "
        "direct matching by least squares, the best orthogonal matrix, all weights one, all zero",
    )
    group.add_argument(
        "-m",
        "--mask",
        type=_mask,
        choices=MASKS,
        default=NO_MASK,
        help="which entries of the matrix may differ from zero: all of them; for each end channel "
        "the front channel that it correlates with most, or most in absolute value; the one-to-one "
        "assignment with the largest sum of correlations; a random permutation",
    )
    group.add_argument(
        "-r",
        "--low-rank",
        type=values.positive_int,
        help="rank of the matrix, a product of two factors (default: full)",
    )
    group.add_argument(
        "--flatten",
        action="store_true",
        help="map all units to all units (pixel to pixel) instead of channel to channel",
    )
    group.add_argument(
        "--l1",
        type=values.at_least_zero,
        default=0.0,
        help="weight of the mean absolute value of the matrix, added to the loss",
    )
    group.add_argument(
        "--cka-reg",
        type=values.number,
        default=0.0,
        help="weight of the CKA (debiased, of each batch) between the mapped activation and the "
        "end model's own, added to the loss: a negative weight raises the similarity",
    )
    group.add_argument(
        "--target-type",
        choices=TARGETS,
        default="hard",
        help="what the stitched network is to answer: the labels; the softmax of model 1 (the "
        "front), of model 2 (the end), the mean of the two losses, the mean of the two logits",
    )
    group.add_argument(
        "--temperature", type=values.positive, default=1.0, help="of the softmax of soft targets"
    )


def _mask(text: str) -> str:
    """Users' shell histories also have another spelling of one of the masks."""
    return "random-permutation" if text == "random-permuation" else text


def add_robustness_options(parser: Parser) -> None:
    """What of robustness goes into a stitching report."""
    group = parser.add_argument_group("robustness in the report")
    group.add_argument(
        "--no-robustness",
        action="store_true",
        help="leave out accuracies under attack and what transfers between the networks",
    )
    group.add_argument(
        "--robust-images",
        type=values.positive_int,
        default=200,
        help="how many test images are attacked",
    )
    group.add_argument(
        "--eval-epsilon",
        type=values.radius,
        help="l-inf radius of these attacks, an expression (default: 0.3 on mnist, fashion and "
        "digits, 4/255 on imagenet, else 8/255)",
    )
    add_tier_option(group, default=REPORTED)


def add_tier_option(parser: argparse._ActionsContainer, default: str) -> None:
    """Which attacks are run."""
    parser.add_argument(
        "--tier",
        choices=TIERS,
        default=default,
        help="which attacks; quick: FGSM and PGD; gradient: also APGD on cross-entropy and on DLR; "
        "default: also, on the images that these leave, targeted APGD and Square Attack; standard: "
        "the published AutoAttack, which needs the package pyautoattack",
    )


def add_device_options(parser: Parser, *, training: bool = True) -> None:
    """Where to compute, and how precisely."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, …; auto takes a GPU where there is one"
    )
    if training:
        parser.add_argument(
            "--precision",
            choices=["auto", "float32", "bfloat16"],
            default="auto",
            help="of training; auto is bfloat16 autocast on a GPU that has it, "
            "else float32; evaluation is always float32",
        )


def add_attack_options(parser: Parser, *, trades: bool = True) -> None:
    """Adversarial training, by Madry's PGD and, unless left out, by TRADES."""
    group = parser.add_argument_group("adversarial training")
    if trades:
        group.add_argument("--robust", action="store_true", help="TRADES adversarial training")
        group.add_argument(
            "--beta", type=values.at_least_zero, default=10.0, help="weight of the TRADES term"
        )
    group.add_argument("--madry", action="store_true", help="Madry PGD adversarial training")
    group.add_argument(
        "--epsilon",
        type=values.radius,
        default="8/255",
        help="radius of the l-inf ball in pixel space, an expression",
    )
    group.add_argument(
        "--step-size",
        type=values.positive,
        default="2/255",
        help="step of the attack, an expression",
    )
    group.add_argument(
        "--perturb-steps", type=values.positive_int, default=10, help="steps of the attack"
    )
    group.add_argument(
        "--attack-ratio",
        type=values.share,
        default=1.0,
        help="share of each batch that is attacked (alpha in the paper), 0 to 1",
    )
    group.add_argument(
        "--ramp",
        type=values.iterations,
        default=500,
        help="iterations over which the radius and the step of the attack rise to their values, at "
        "most a third of the training, without which a large radius can leave a network at "
        "chance; 0 turns that off",
    )


def add_checkpoint_options(parser: Parser, *, required: bool = False) -> None:
    """How to read a network that others published; `required` says that the model has to be."""
    group = parser.add_argument_group("published networks (bare state dicts)")
    group.add_argument(
        "-m",
        "--model",
        required=required,
        help="which model a bare state dict is of"
        + ("" if required else "; read from its path if not given")
        + f". One of: {choices()}",
    )
    _add_constants(group, "", "the network")


def add_constants(parser: Parser, *roles: str) -> None:
    """How to read several networks that others published, which have these roles."""
    group = parser.add_argument_group("published networks (bare state dicts)")
    for number, role in enumerate(roles, start=1):
        _add_constants(group, str(number), role)


def _add_constants(group: argparse._ArgumentGroup, number: str, role: str) -> None:
    group.add_argument(
        f"--mean{number}",
        type=values.numbers,
        metavar="MEAN",
        help=f"mean of the images that {role} was made with, per channel in [0, 1], such as "
        "0.49,0.48,0.45; before what its file says",
    )
    group.add_argument(
        f"--std{number}", type=values.numbers, metavar="STD", help="their standard deviation"
    )
    group.add_argument(
        f"--weights{number}",
        metavar="NAME",
        help=f"which weights to take for {role} where its file holds several, such as ema "
        "(default: the plain ones)",
    )


ATTACK_DETAILS = ("epsilon", "step_size", "perturb_steps", "beta", "attack_ratio", "ramp")


def refuse(args: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    """Raise UserError where one of the options `names` was given, be it with its default."""
    for name in names:
        if name in args.given:
            raise UserError(f"--{name.replace('_', '-')} {reason}")


def adversary(args: argparse.Namespace, seed: int) -> Adversary | None:
    """The attack that --robust or --madry asks to train under; None for neither."""
    trades = getattr(args, "robust", False)  # not every command has it
    if trades and args.madry:
        raise UserError("--robust and --madry exclude each other; choose one.")
    if not trades and not args.madry:
        which = "--robust or --madry" if hasattr(args, "robust") else "--madry"
        refuse(args, ATTACK_DETAILS, f"says how to attack; it needs {which}.")
        return None
    if args.madry:
        refuse(args, ("beta",), "is the weight of the TRADES term; it needs --robust.")
    return Adversary(
        kind="trades" if trades else "madry",
        epsilon=args.epsilon,
        step_size=args.step_size,
        perturb_steps=args.perturb_steps,
        beta=getattr(args, "beta", 0.0),
        attack_ratio=args.attack_ratio,
        ramp=args.ramp,
        seed=seed,
    )


def stitch_config(args: argparse.Namespace, device: torch.device, **more: bool) -> StitchConfig:
    """What the options shared by the stitching commands ask for, and what `more` adds."""
    if args.no_robustness:
        given = ("robust_images", "eval_epsilon", "tier")
        refuse(args, given, "says how to attack; leave out --no-robustness.")
    if args.target_type == "hard":
        soft = ", ".join(name for name in TARGETS if name != "hard")
        needs = f"is of soft targets, but the target type is hard; choose --target-type {soft}."
        refuse(args, ("temperature",), needs)
    if not args.controls:
        refuse(args, ("random_fronts",), "is of the controls; it needs --controls.")
    return StitchConfig(
        front_layer=args.front_layer,
        end_layer=args.end_layer,
        epochs=args.epochs,
        lr=args.lr,
        batch_size=args.batch_size,
        save_frequency=args.save_frequency,
        seed=args.seed,
        weight_decay=args.weight_decay,
        optimizer=args.optimizer,
        flatten=args.flatten,
        l1=args.l1,
        cka_reg=args.cka_reg,
        init=args.init,
        mask=args.mask,
        low_rank=args.low_rank,
        target_type=args.target_type,
        temperature=args.temperature,
        debug=args.debug,
        precision=precision(args.precision, device),
        adversary=adversary(args, seed=args.seed),
        controls=args.controls,
        random_fronts=args.random_fronts,
        no_robustness=args.no_robustness,
        robust_images=args.robust_images,
        eval_epsilon=args.eval_epsilon,
        tier=args.tier,
        **more,
    )
