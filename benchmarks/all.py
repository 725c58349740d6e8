"""Measures what README and docs claim of speed and precision, and writes docs/speed.md.

    python benchmarks/all.py --list
    python benchmarks/all.py --quick
    python benchmarks/all.py --only grid sweep
    python benchmarks/all.py --photographs FOLDER    # all of them, which takes hours

Each claim (see `_claims.py`) is a command that runs in a process of its own. What it tells is kept
in benchmarks/results.json at once, and docs/speed.md and the README's table are written from that:
a claim that was not run keeps its row, with the commit and the date of its measurement. FOLDER has
CIFAR-10's images as JPEG files, in train/ and test/; claims that need it are left out without it,
as are those whose peers are not installed.

Exit status: 1 where a promise is not kept, a script failed or nothing could be run, 2 for a wrong
option, else 0.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from _claims import CLAIMS, PHOTOGRAPHS, Claim
from _common import ROOT, quantities
from _page import Result, page, readme

RESULTS = ROOT / "benchmarks/results.json"
PAGE = ROOT / "docs/speed.md"
README = ROOT / "README.md"
PACKAGES = ("torch", "torchvision", "numpy")


class Failed(Exception):
    """A script that did not do its work; the message says how."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = options()
    asked = parser.parse_args(arguments)
    if asked.list:
        for claim in CLAIMS:
            print(f"{claim.name:20} {claim.minutes:5.1f} min  {claim.command}")
        return 0
    chosen = [
        claim
        for claim in CLAIMS
        if (claim.name in asked.only if asked.only else claim.quick or not asked.quick)
    ]
    folder = asked.photographs and Path(asked.photographs).resolve()  # commands run in the root
    if folder and not all((folder / part).is_dir() for part in ("train", "test")):
        parser.error(f"{folder} has no folders train/ and test/; name the one that has them")
    return measured(chosen, read(RESULTS), folder and str(folder))


def measured(
    chosen: Sequence[Claim],
    results: dict[str, Result],
    photographs: str | None,
    run: Callable[[Claim, str | None], Result] | None = None,
    write: Callable[[Mapping[str, Result]], None] | None = None,
) -> int:
    """Run the claims that can be, one after the other; returns the exit status.

    Parameters
    ----------
    results : what was measured before; takes up what is measured now.
    photographs : see `_claims.PHOTOGRAPHS`.
    run, write : `measure` and `written`, unless others are given.
    """
    run, write = run or measure, write or written
    bad: list[str] = []
    left_out: list[str] = []
    for number, claim in enumerate(chosen, 1):
        lacks = lacking(claim, photographs)
        if lacks:
            left_out.append(f"{claim.name}: left out, {lacks}")
            continue
        about = f"about {claim.minutes:g} min"
        print(f"[{number}/{len(chosen)}] {claim.name}, {about}: {claim.command}", flush=True)
        try:
            results[claim.name] = run(claim, photographs)
        except Failed as error:
            bad.append(f"{claim.name}: failed, {error}")
            continue
        finally:
            print(flush=True)
        write({claim.name: results[claim.name]})
        for quantity in claim.broken(results[claim.name].values):
            found = quantity.form.format(results[claim.name].values[quantity.name])
            bad.append(f"{claim.name}: not kept, {quantity.name} {found}, {quantity.promise}")
    for line in left_out + bad:
        print(line)
    ran = len(chosen) - len(left_out)
    print(f"{ran} of {len(chosen)} claims run, {len(bad)} complaints.")
    return 1 if bad or (chosen and not ran) else 0


def lacking(claim: Claim, photographs: str | None) -> str:
    """What a claim lacks to be run, in words; nothing where it lacks nothing."""
    if PHOTOGRAPHS in claim.command and not photographs:
        return "it needs --photographs FOLDER"
    absent = [peer for peer in claim.peers if not installed(peer)]
    if absent:
        return (
            f"not installed: {', '.join(absent)} "
            "(pip install --no-deps -r benchmarks/peers/requirements.txt)"
        )
    return ""


def measure(claim: Claim, photographs: str | None) -> Result:
    """Run the command of a claim, its output shown as it comes.

    Raises
    ------
    Failed : for an exit status other than 0, and where a quantity was not told.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    measured_at = commit()
    began = time.perf_counter()
    words = [photographs if word == PHOTOGRAPHS else word for word in shlex.split(claim.command)]
    lines = []
    command = [sys.executable, *words[1:]]
    how = {"stdout": subprocess.PIPE, "text": True, "errors": "replace"}
    with subprocess.Popen(command, cwd=ROOT, **how) as process:
        for line in process.stdout:
            lines.append(line)
            print("   ", line, end="", flush=True)
    if process.returncode:
        raise Failed(f"exit status {process.returncode}: {claim.command}")
    values = quantities("".join(lines))
    missing = claim.missing(values)
    if missing:
        raise Failed(f"it told nothing of {', '.join(missing)}: {claim.command}")
    return Result(
        values,
        minutes=round((time.perf_counter() - began) / 60, 2),
        date=date.today().isoformat(),
        commit=measured_at,
        machine=machine(),
        versions=", ".join([f"Python {platform.python_version()}", *map(with_version, PACKAGES)]),
        peers={peer: version(peer) for peer in claim.peers},
        load=None if load is None else round(load, 1),
    )


def installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def with_version(distribution: str) -> str:
    return f"{distribution} {version(distribution)}"


def commit() -> str:
    """The commit of the clone, with a + where its code differs from that."""
    try:
        short = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", "src", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return short + "+" * bool(changed)


def _git(*words: str) -> str:
    command = ["git", *words]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def machine() -> str:
    """Processor, cores, memory, and how many threads a process may start."""
    affine = getattr(os, "sched_getaffinity", None)
    cores = len(affine(0)) if affine else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", cores)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{processor()}, {cores} cores, {memory:.0f} GiB, threads a process: {threads}"


def processor() -> str:
    """As the system names it."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def read(path: Path) -> dict[str, Result]:
    """The results that a file holds.

    Raises
    ------
    SystemExit : with a sentence, where it holds something else.
    """
    if not path.exists():
        return {}
    try:
        kept = json.loads(path.read_text())
        return {name: Result(**fields) for name, fields in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SystemExit(
            f"{path} holds no results ({error}); get it from git again, or move it away."
        ) from error


def written(results: Mapping[str, Result]) -> None:
    """Keep results beside those that are there, in the order of the claims, and write the pages
    from them.

    Raises
    ------
    SystemExit : with a sentence, where that cannot be done.
    """
    results = read(RESULTS) | dict(results)  # others may have measured meanwhile
    kept = {claim.name: results[claim.name] for claim in CLAIMS if claim.name in results}
    plain = {name: result.plain() for name, result in kept.items()}
    try:
        RESULTS.write_text(json.dumps(plain, indent=1) + "\n")
        PAGE.write_text(page(kept))
        README.write_text(readme(README.read_text(), kept, CLAIMS))
    except (OSError, ValueError) as error:
        raise SystemExit(f"What was measured cannot be written: {error}.") from error


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--list", action="store_true", help="name the claims, and run none")
    which.add_argument("--quick", action="store_true", help="those of two minutes or less")
    names = [claim.name for claim in CLAIMS]
    which.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="these")
    parser.add_argument("--photographs", metavar="FOLDER", help="CIFAR-10 as JPEG files")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Interrupted; what was measured is kept.")
