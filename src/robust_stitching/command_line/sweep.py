"""Stitch many pairs of networks by many objectives, seeds and options, on one machine or on many.

    python src/bin/sweep.py PLAN.toml --jobs 2
    python src/bin/sweep.py PLAN.toml --cluster ray:HOST:6379
    python src/bin/sweep.py PLAN.toml --cluster slurm --sbatch "--partition=gpu --gres=gpu:1"

PLAN.toml names networks, pairs of them, and options as those of find_transform.py, with underscores
for hyphens; a list multiplies. Networks that it wants trained are trained first. Results go to
results/<name>/, a folder a unit; the same command goes on with what is missing there.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.basics.root import root
from robust_stitching.command_line import options, sweeping, values
from robust_stitching.command_line.parser import Parser
from robust_stitching.plans.settings import AT_LEAST_ONE, COUNT, Kind

if TYPE_CHECKING:
    from robust_stitching.runs.engines import Engine

CLUSTERS = ("ray", "slurm")


def parser() -> Parser:
    p = Parser(__doc__)
    p.add_argument("plan", type=Path, metavar="PLAN.toml", help="what to do, see docs/sweeps.md")
    whole, least = Kind(int), AT_LEAST_ONE
    p.add_argument(
        "-o", "--out-dir", type=Path, default=root() / options.RESULTS, help="where results go"
    )
    p.add_argument(
        "--jobs",
        type=values.reader(whole, least),
        default=1,
        metavar="N",
        help="processes on this machine; of several GPUs each has one",
    )
    p.add_argument(
        "--cluster",
        metavar="CLUSTER",
        help="ray, ray:ADDRESS or slurm in place of processes here; folder, networks and data have "
        "to lie where all machines see them",
    )
    p.add_argument("--sbatch", metavar="OPTIONS", help="of the array of slurm, in quotes")
    p.add_argument(
        "--no-wait", action="store_true", help="leave when slurm has the array, and do not wait"
    )
    p.add_argument(
        "--threads",
        type=values.reader(whole, least),
        default=1,
        metavar="N",
        help="cores a unit; changes the last digits of results",
    )
    p.add_argument(
        "--retries",
        type=values.reader(whole, COUNT),
        default=2,
        metavar="N",
        help="how often a unit that fails is tried again",
    )
    p.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    p.add_argument("--status", action="store_true", help="show how far it is")
    p.add_argument("--gather", action="store_true", help="tables and figures from what is there")
    return p


def main(argv: list[str]) -> None:
    p = parser()
    args = p.parse_args(_joined(argv))
    _refuse(args)
    from robust_stitching.plans import sweep as plans
    from robust_stitching.runs.unfinished import plain

    asked = plans.read(args.plan)
    folder = args.out_dir.resolve() / plain(asked.name, "name")
    if args.status:
        print(sweeping.status(folder))
        return
    if args.gather:
        sweeping.gather(folder)
        return
    from robust_stitching.runs.sweep import Resolved

    resolved = Resolved(asked, folder)
    resolved.require_own()
    if args.dry_run:
        print(sweeping.outline(resolved))
        return
    engine = _engine(args, resolved.folder)
    resolved.prepare()
    failed = sweeping.carry_out(resolved, engine, args.retries, wait=not args.no_wait)
    if failed:
        sys.stdout.flush()
        sys.exit(1)


def _joined(argv: list[str]) -> list[str]:
    """Arguments in which what follows --sbatch, an option itself, is taken for its value."""
    words, left = [], iter(argv)
    for word in left:
        value = next(left, None) if word == "--sbatch" else None
        words.append(word if value is None else f"{word}={value}")
    return words


def _refuse(args: argparse.Namespace) -> None:
    """Raise UserError for options that say nothing beside the others."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}, but a sweep is one process that starts the "
            "others; leave torchrun out and say --jobs N."
        )
    kind, _, address = (args.cluster or "").partition(":")
    if args.cluster is not None and kind not in CLUSTERS:
        raise unknown("cluster", args.cluster, ("ray", "ray:ADDRESS", "slurm"))
    if kind == "slurm" and address:
        raise UserError(
            f"--cluster {args.cluster} names an address, but slurm is asked here; say slurm alone."
        )
    if kind:
        options.refuse(args, ("jobs",), "is of this machine; leave it or --cluster out.")
    if kind != "slurm":
        options.refuse(args, ("sbatch", "no_wait"), "is of slurm; it needs --cluster slurm.")
    shown = [f"--{n.replace('_', '-')}" for n in ("dry_run", "status", "gather") if n in args.given]
    if len(shown) > 1:
        raise UserError(f"{' and '.join(shown)} exclude each other; choose one.")


def _engine(args: argparse.Namespace, folder: Path) -> "Engine":
    """What carries out the units."""
    kind, _, address = (args.cluster or "").partition(":")
    if kind == "ray":
        from robust_stitching.runs.engines.ray import Ray

        return Ray(address or None, args.threads, args.retries, folder)
    if kind == "slurm":
        from robust_stitching.runs.engines.slurm import Slurm

        said = shlex.split(args.sbatch or "")
        return Slurm(folder, args.threads, args.retries, said, tell=print)
    from robust_stitching.runs.engines.local import Local, cuda_devices

    return Local(args.jobs, args.threads, cuda_devices())
