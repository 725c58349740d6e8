"""Train a network and keep it in snapshots/<model>/<Dataset>/in<i>-gn<g>/model.pt.

python src/bin/train.py -m tiny10 -d digits -e 30
python src/bin/train.py -m lenet -d mnist -e 5 -i 1 -g 1
python src/bin/train.py -m resnet18 -d cifar10 -e 100 --resume
python src/bin/train.py -m tiny10 -d my/images --image-size 64
"""

import argparse
from typing import TYPE_CHECKING

from robust_stitching.basics.progress import tell_above_bars
from robust_stitching.command_line import cli, networks, options
from robust_stitching.command_line.parser import Parser
from robust_stitching.data import in_words, usual_size
from robust_stitching.plans import TrainPlan, from_options

if TYPE_CHECKING:
    from robust_stitching.training import EpochRecord

KEYS = ("loss", "accuracy", "robust_accuracy")


def parser() -> Parser:
    p = Parser(__doc__, TrainPlan)
    p.setting(
        "model", "-m", "--model", help=f"network: {networks.CODE}, or one of: {networks.models()}"
    )
    p.setting("dataset.name", "-d", "--dataset", help=f"dataset, one of: {options.DATASETS}")
    options.add_training(p)
    p.setting(
        "save_frequency",
        "-s",
        "--save-frequency",
        help="iterations between intermediate snapshots",
    )
    p.setting("init_noise", "-i", "--init-noise", help="seed of the initialisation")
    p.setting("gradient_noise", "-g", "--gradient-noise", help="seed of the order of the batches")
    p.setting("training.optimizer", "-opt", "--optimizer", help="sgd has Nesterov momentum 0.9")
    p.setting(
        "training.clip_norm",
        help="largest norm of the gradient, which keeps small networks from dying at "
        "the default learning rate; 0 turns clipping off",
    )
    p.setting("training.warmup", help="iterations over which the learning rate rises from 0")
    p.setting(
        "image_size",
        help=f"height and width that images are scaled to (default: {in_words(usual_size)}); every "
        "other command takes it from the checkpoint",
    )
    p.setting(
        "no_augmentation",
        help="train on the images as they are; small networks under strong attacks have nothing "
        "left for augmented ones",
    )
    options.add_runs(p, options.SNAPSHOTS, named=False)
    options.add_plan(p)
    options.add_device(p)
    options.add_adversary(p, "adversary")
    return p


def main(argv: list[str]) -> None:
    p = parser()

    def plan_of(args: argparse.Namespace) -> TrainPlan:
        return from_options(TrainPlan, options.adversary(args, p.settings(args), "adversary"))

    args, plan = cli.understood(p, argv, plan_of)
    from robust_stitching.runs import train
    from robust_stitching.training.examiner import collapsed

    def tell(history: "list[EpochRecord]") -> None:
        tell_above_bars(line(history[-1], plan.training.epochs))
        if collapsed(history):
            tell_above_bars("warning: accuracy under attack fell below half of its best")

    try:
        trained = train.run(
            plan,
            args.out_dir,
            cli.prepare(args),
            cli.listener(p),
            resume=args.resume,
            reuse=args.reuse,
            after_epoch=tell,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command with --resume goes on from here.") from None
    if trained.reused and trained.history:
        print(line(trained.history[-1], plan.training.epochs))
    print(f"kept in {trained.path}")


def line(record: "EpochRecord", epochs: int) -> str:
    """An epoch, to be read below others."""
    parts = [f"epoch {record.epoch:3d}/{epochs}", f"lr {record.lr:<7.2g}"]
    for split in ("train", "test"):
        scores = {key: getattr(record, f"{split}_{key}") for key in KEYS}
        text = f"{split} loss {scores['loss']:.4f}, accuracy {scores['accuracy']:7.2%}"
        if scores["robust_accuracy"] is not None:
            text += f", under attack {scores['robust_accuracy']:7.2%}"
        parts.append(text)
    return "  ".join([*parts, f"{record.images_per_second:,.0f} images/s"])
