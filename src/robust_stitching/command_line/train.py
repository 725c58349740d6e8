"""Train a network and keep it in snapshots/<model>/<Dataset>/in<i>-gn<g>/model.pt.

python src/bin/train.py -m tiny10 -d digits -e 30
python src/bin/train.py -m lenet -d mnist -e 5 -i 1 -g 1
python src/bin/train.py -m resnet18 -d cifar10 -e 100 --resume
python src/bin/train.py -m tiny10 -d my/images --image-size 64
"""

from robust_stitching import models
from robust_stitching.basics.progress import shown, tell_above_bars
from robust_stitching.command_line import cli, options, values
from robust_stitching.training import EpochRecord, TrainingConfig
from robust_stitching.training.examiner import collapsed
from robust_stitching.training.session import TrainingPlan, train_network

KEYS = ("loss", "accuracy", "robust_accuracy")


def parser() -> cli.Parser:
    p = cli.Parser(__doc__)
    p.add_argument("-m", "--model", default="lenet", help=f"network, one of: {models.choices()}")
    p.add_argument("-d", "--dataset", default="mnist", help=f"dataset, one of: {options.DATASETS}")
    options.add_training_options(p, epochs=300, lr=1e-1, out="snapshots")
    p.add_argument(
        "-s",
        "--save-frequency",
        type=values.positive_int,
        default=10000,
        help="iterations between intermediate snapshots",
    )
    p.add_argument(
        "-i", "--init-noise", type=values.seed, default=0, help="seed of the initialisation"
    )
    p.add_argument(
        "-g",
        "--gradient-noise",
        type=values.seed,
        default=0,
        help="seed of the order of the batches",
    )
    p.add_argument(
        "-opt",
        "--optimizer",
        choices=["adam", "sgd"],
        default="sgd",
        help="sgd has Nesterov momentum 0.9",
    )
    p.add_argument(
        "--clip-norm",
        type=values.at_least_zero,
        default=1.0,
        help="largest norm of the gradient, which keeps small networks from dying at "
        "the default learning rate; 0 turns clipping off",
    )
    p.add_argument(
        "--warmup",
        type=values.iterations,
        default=0,
        help="iterations over which the learning rate rises from 0",
    )
    p.add_argument(
        "--image-size",
        type=values.positive_int,
        help="height and width that images are scaled to (default: 32; 224 for imagenet); every "
        "other command takes it from the checkpoint",
    )
    p.add_argument(
        "--no-augmentation",
        action="store_true",
        help="train on the images as they are; small networks under strong attacks have nothing "
        "left for augmented ones",
    )
    p.add_argument(
        "--resume",
        action="store_true",
        help="go on with an interrupted training of the same settings, if there is one",
    )
    options.add_device_options(p)
    options.add_attack_options(p)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    device = cli.device(args.device)
    config = TrainingConfig(
        epochs=args.epochs,
        lr=args.lr,
        batch_size=args.batch_size,
        weight_decay=args.weight_decay,
        optimizer=args.optimizer,
        warmup=args.warmup,
        clip=args.clip_norm,
        seed=args.gradient_noise,
        precision=cli.precision(args.precision, device),
    )
    plan = TrainingPlan(
        model=args.model,
        dataset=cli.dataset(args.dataset),
        config=config,
        init_noise=args.init_noise,
        save_frequency=args.save_frequency,
        augment=not args.no_augmentation,
        adversary=options.adversary(args, seed=args.gradient_noise),
        image_size=args.image_size,
    )

    def tell(history: list[EpochRecord]) -> None:
        tell_above_bars(line(history[-1], config.epochs))
        if collapsed(history):
            tell_above_bars("warning: accuracy under attack fell below half of its best")

    cli.warn(*(plan.adversary.warnings if plan.adversary else ()))
    try:
        trained = train_network(plan, args.out_dir, device, args.resume, shown, tell, cli.tell)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command with --resume goes on from here.") from None
    print(f"kept in {trained.path}")


def line(record: EpochRecord, epochs: int) -> str:
    """An epoch, to be read below others."""
    parts = [f"epoch {record.epoch:3d}/{epochs}", f"lr {record.lr:<7.2g}"]
    for split in ("train", "test"):
        scores = {key: getattr(record, f"{split}_{key}") for key in KEYS}
        text = f"{split} loss {scores['loss']:.4f}, accuracy {scores['accuracy']:7.2%}"
        if scores["robust_accuracy"] is not None:
            text += f", under attack {scores['robust_accuracy']:7.2%}"
        parts.append(text)
    return "  ".join([*parts, f"{record.images_per_second:,.0f} images/s"])
