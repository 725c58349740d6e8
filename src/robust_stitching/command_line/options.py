"""Groups of options: each stands once, for every command that has it, and says what it means."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import robust_stitching
from robust_stitching.basics.declared import declared
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.root import root
from robust_stitching.command_line import networks, recipes, values
from robust_stitching.command_line.parser import Parser
from robust_stitching.data import SOURCES, in_words, usual_epsilon
from robust_stitching.plans.options import ATTACK_SETTINGS, idle_in
from robust_stitching.plans.parts import (
    ALL,
    AUTO,
    Adversary,
    Measurement,
    Optimisation,
    Transform,
)
from robust_stitching.plans.settings import AT_LEAST_ONE, ENOUGH, Kind

DATASETS = (
    f"{', '.join(SOURCES)}, or a folder with train/ and test/ (or val/) inside, each with one "
    "folder per class"
)
SNAPSHOTS, RESULTS = "snapshots", "results"
"""Folders below the root."""
PACKAGE = Path(robust_stitching.__file__).parent


def add_runs(parser: Parser, out: str, *, named: bool = True) -> None:
    """Where results go, a folder below the root by default, and what becomes of those that are
    there; they may stand beside --plan."""
    parser.beside("-o", "--out-dir", type=Path, default=root() / out, help="where results go")
    if named:
        parser.beside("--run-name", help="subfolder of the results; the date and time if not given")
    parser.beside(
        "--resume",
        action="store_true",
        help="go on with an interrupted run of the same settings, if there is one"
        + ("; one of that --run-name is gone on with in any case" if named else ""),
    )
    parser.beside(
        "--reuse",
        action="store_true",
        help="if a run of the same settings is there, take it as it is",
    )


def add_plan(parser: Parser) -> None:
    """--plan, which the parser finds before it parses anything else."""
    parser.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="run what the JSON report of an earlier run, or a plan alone, says; files that have "
        "moved since are named by "
        + ", ".join(f"--{name.replace('_', '-')}" for name in parser.files()),
    )


def add_device(parser: Parser) -> None:
    """Where to compute."""
    parser.beside(
        "--device", default="auto", help="cpu, cuda, cuda:1, …; auto takes a GPU where there is one"
    )
    parser.beside(
        "--threads",
        type=values.reader(Kind(int), AT_LEAST_ONE),
        metavar="N",
        help="how many cores to compute with (default: all); changes the last digits of results",
    )


STEPS = "divided by 10 at 1/3 and again at 2/3 of the training"


def add_training(parser: Parser, schedule: str = STEPS) -> None:
    """The options that every command that trains has.

    Parameters
    ----------
    schedule : how the learning rate falls, in words.
    """
    parser.setting("training.epochs", "-e", "--epochs", help="epochs")
    parser.setting(
        "training.lr",
        "-lr",
        "--lr",
        help=f"largest learning rate; {schedule}",
    )
    parser.setting("training.batch_size", "-b", "--batch-size", help="batch size")
    parser.setting("training.weight_decay", "-wd", "--weight-decay", help="weight decay")
    parser.setting(
        "training.precision",
        help="of training; auto is bfloat16 autocast on a GPU that has it, else float32; "
        "evaluation is always float32",
    )


def add_stitching(parser: Parser) -> None:
    """What both commands that make one stitch take."""
    _add_donors(parser)
    parser.setting(
        "cut.front_layer",
        "front_layer",
        help="layer whose activation is mapped; layer_info.py lists",
    )
    parser.setting("cut.end_layer", "end_layer", help="layer whose activation the map replaces")
    parser.setting("dataset.name", "dataset", help=f"data to train the map on, one of: {DATASETS}")
    _add_training_of_maps(parser)
    parser.setting(
        "save_frequency",
        "-s",
        "--save-frequency",
        help="how often the map is kept, in iterations, times the number of epochs",
    )


def add_grid(parser: Parser) -> None:
    """What a map of all layers takes in place of two of them."""
    _add_donors(parser)
    parser.setting("dataset.name", "dataset", help=f"data to train the maps on, one of: {DATASETS}")
    for side in ("front", "end"):
        parser.setting(
            f"{side}_layers",
            metavar="LAYER",
            help=f"layers of the {side} model, as layer_info.py lists them, with spaces or commas "
            "between them (default: a clean cut for each stage, the last before weights mix "
            "channels again)",
        )
    _add_training_of_maps(parser)


def _add_donors(parser: Parser) -> None:
    parser.setting("front.path", "front_model", help=f"network stitched from: {networks.NETWORK}")
    parser.setting("end.path", "end_model", help=f"network stitched to: {networks.NETWORK}")


def _add_training_of_maps(parser: Parser) -> None:
    """How maps are trained, and what they are measured beside."""
    add_training(parser, f"{STEPS}, or as the recipe says, also under attack")
    parser.setting(
        "seed",
        help="seed of the order and augmentation of batches, of first values of the map where they "
        "are random, of random fronts, of attacks, and of the noise that invariant images begin as",
    )
    parser.setting("training.optimizer", help="sgd has Nesterov momentum 0.9")
    parser.setting(
        "images",
        help="what the map is trained on: the real images, or others, made from noise, that the "
        "front takes for them up to its layer, with their labels, and with targets that are what "
        "the end makes of them (an objective such as fula, or soft_2): that works where the end "
        "shares what the front is blind to; tests are on real images, batch norms are frozen, and "
        "each front that is stitched, controls too, has images of its own, which take 200 passes "
        "forth and back",
    )
    parser.setting("debug", help="a few batches only, verbose log; no line in results.csv")
    _add_map(parser)
    parser.setting(
        "measured.controls",
        help="also stitch the end network to itself, and fronts with random weights, and report "
        "the gaps: a map can learn the task by itself; each takes another training; and noise "
        "around the front's class means, with true and with shuffled labels, each a training of "
        "the map on at most 5,000 images, which the front does not see",
    )
    parser.setting(
        "measured.random_fronts",
        help="how many fronts with random weights --controls takes, whose accuracies spread",
    )
    parser.setting(
        "measured.noise_sigmas",
        type=_sigmas,
        default=",".join(f"{sigma:g}" for sigma in Measurement.noise_sigmas),
        metavar="SIGMA,...",
        help="how noisy the class means are that --controls takes for a front, in deviations "
        "within classes, each with true and with shuffled labels; none leaves them out",
    )
    parser.setting(
        "measured.similarity_images",
        "--similarity-images",
        type=_images,
        metavar="N",
        help="how many test images activations are compared on, chosen by the seed; all; or auto, "
        "all where that takes no longer than the training of the map, else 2,000",
    )
    parser.add_argument(
        "--exact",
        dest="similarity_images",
        action="store_const",
        const=ALL,
        default=argparse.SUPPRESS,
        help="the same as --similarity-images all",
    )
    networks.add_networks(
        parser,
        {
            "front": ("the front", "--front-{}", "1"),
            "end": ("the end", "--end-{}", "2"),
        },
    )


NONE = "none"


def _images(text: str) -> int | str:
    """A number of images, or a word for one."""
    return text if text in (AUTO, ALL) else values.reader(Kind(int), ENOUGH)(text)


def _sigmas(text: str) -> tuple[float, ...]:
    """Numbers with commas between them; none of them for none."""
    return () if text == NONE else values.numbers(text)


def _add_map(parser: Parser) -> None:
    """Which map, how it is found, and what it is trained for."""
    group = parser.add_argument_group("the map and its target")
    recipes.add_recipe(parser, group)
    parser.setting(
        "transform.map",
        group=group,
        help="which map: a matrix between all channels; a scale and a bias a channel, where both "
        "sides have equally many; two linear layers with a ReLU between and 2 hidden units for "
        "each channel of the end",
    )
    parser.setting(
        "transform.init",
        "-i",
        "--init",
        group=group,
        help="first values of the map: uniform random numbers, a random permutation, the identity, "
        "direct matching by least squares, the best orthogonal matrix, all weights one, all zero",
    )
    parser.setting(
        "transform.mask",
        "-m",
        "--mask",
        group=group,
        type=_mask,
        help="which entries of the matrix may differ from zero: all of them; for each end channel "
        "the front channel that it correlates with most, or most in absolute value; the one-to-one "
        "assignment with the largest sum of correlations; a random permutation",
    )
    parser.setting(
        "transform.low_rank",
        "-r",
        "--low-rank",
        group=group,
        help="rank of the matrix, a product of two factors (default: full)",
    )
    parser.setting(
        "transform.flatten",
        group=group,
        help="map all units to all units (pixel to pixel) instead of channel to channel",
    )
    parser.setting(
        "transform.fit_images",
        group=group,
        type=_images,
        metavar="N",
        help="how many training images maps in closed form (first values, masks, direct matching) "
        "are computed from, or all",
    )
    parser.setting(
        "objective.l1",
        group=group,
        help="weight of the mean absolute value of what the map multiplies by (its matrix, its "
        "scales, both layers of an mlp), added to the loss",
    )
    parser.setting(
        "objective.cka_reg",
        group=group,
        help="weight of the CKA (debiased, of each batch) between the mapped activation and the "
        "end model's own, added to the loss: a negative weight raises the similarity",
    )
    parser.setting(
        "objective.terms",
        "--terms",
        group=group,
        type=values.weights,
        metavar="NAME=WEIGHT",
        help="further terms of the loss, each with its weight, one of: "
        + ", ".join(declared(PACKAGE / "stitching" / "terms", "Term")),
    )
    parser.setting(
        "objective.objective",
        group=group,
        help="what training minimises: the loss of the task (see --target-type), or the distance "
        "of the stitched network's activations from the end's own: at the cut (direct), there and "
        "at every stage behind it (fula), at the last stage (features)",
    )
    parser.setting(
        "objective.target_type",
        group=group,
        help="what the stitched network is to answer: the labels; the softmax of model 1 (the "
        "front), of model 2 (the end), the mean of the two losses, the mean of the two logits",
    )
    parser.setting("objective.temperature", group=group, help="of the softmax of soft targets")


def _mask(text: str) -> str:
    """Users' shell histories also have another spelling of one of the masks."""
    return "random-permutation" if text == "random-permuation" else text


def add_robustness(parser: Parser) -> None:
    """What of robustness goes into a stitching report."""
    group = parser.add_argument_group("robustness in the report")
    parser.setting(
        "measured.no_robustness",
        group=group,
        help="leave out accuracies under attack and what transfers between the networks",
    )
    parser.setting("measured.robust_images", group=group, help="how many test images are attacked")
    parser.setting(
        "measured.eval_epsilon",
        group=group,
        help=f"l-inf radius of these attacks, an expression (default: {in_words(usual_epsilon)})",
    )
    add_tier(parser, "measured.tier", group)


def add_tier(parser: Parser, path: str, group: argparse._ActionsContainer | None = None) -> None:
    """Which attacks are run."""
    parser.setting(
        path,
        group=group,
        help="which attacks; quick: FGSM and PGD; gradient: also APGD on cross-entropy and on DLR; "
        "default: also, on the images that these leave, targeted APGD and Square Attack; standard: "
        "the published AutoAttack, which needs the package pyautoattack",
    )


def add_adversary(parser: Parser, place: str, *, trades: bool = True) -> None:
    """Adversarial training, by Madry's PGD and, unless left out, by TRADES.

    Parameters
    ----------
    place : of the adversary in the plan.
    """
    group = parser.add_argument_group("adversarial training")
    if trades:
        group.add_argument("--robust", action="store_true", help="TRADES adversarial training")
        parser.setting(f"{place}.beta", group=group, help="weight of the TRADES term")
    group.add_argument("--madry", action="store_true", help="Madry PGD adversarial training")
    parser.setting(
        f"{place}.epsilon",
        group=group,
        default=values.over_255(Adversary.epsilon),
        help="radius of the l-inf ball in pixel space, an expression",
    )
    parser.setting(
        f"{place}.step_size",
        group=group,
        default=values.over_255(Adversary.step_size),
        help="step of the attack, an expression",
    )
    parser.setting(f"{place}.perturb_steps", group=group, help="steps of the attack")
    parser.setting(
        f"{place}.attack_ratio",
        group=group,
        help="share of each batch that is attacked (alpha in the paper), 0 to 1",
    )
    parser.setting(
        f"{place}.ramp",
        group=group,
        help="iterations over which the radius and the step of the attack rise to their values, at "
        "most a third of the training, without which a large radius can leave a network at "
        "chance; 0 turns that off",
    )


def adversary(args: argparse.Namespace, said: dict[str, Any], place: str) -> dict[str, Any]:
    """The settings that are said, with the attack that --robust or --madry asks to train under at
    its place; None there for neither."""
    details = {path: value for path, value in said.items() if path.startswith(f"{place}.")}
    others = {path: value for path, value in said.items() if path not in details}
    names = tuple(path.rpartition(".")[2] for path in details)
    trades = getattr(args, "robust", False)  # not every command has it
    if trades and args.madry:
        raise UserError("--robust and --madry exclude each other; choose one.")
    if not trades and not args.madry:
        which = "--robust or --madry" if hasattr(args, "robust") else "--madry"
        refuse(args, names, f"says how to attack; it needs {which}.")
        return others | {place: None}
    if args.madry:
        refuse(args, ("beta",), "is the weight of the TRADES term; it needs --robust.")
    return said | {f"{place}.kind": "trades" if trades else "madry"}


def refuse(args: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    """Raise UserError where one of the options `names` was given, be it with its default."""
    for name in names:
        if name in args.given:
            raise UserError(f"--{name.replace('_', '-')} {reason}")


def refuse_in_stitching(args: argparse.Namespace) -> None:
    """Raise UserError for options that say nothing beside the others."""
    by_recipe = {own.name for part in (Transform, Optimisation) for own in fields(part)}
    said = {n: value for n, value in vars(args).items() if n in args.given or n not in by_recipe}
    for name, why in idle_in(said).items():
        if name not in ATTACK_SETTINGS:  # see `adversary`
            refuse(args, (name,), why)
