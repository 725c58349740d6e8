"""What the scripts beside other packages share: peers by name, turns, and memory of one tool."""

import argparse
import ctypes
import gc
import importlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from _common import ROOT, told  # noqa: E402  (the line above puts it there)

__all__ = ["OURS", "ROOT", "Beside", "options", "peer", "side_by_side", "told"]

OURS = "ours"
INSTALL = "pip install --no-deps -r benchmarks/peers/requirements.txt"


def peer(module: str, distribution: str) -> ModuleType:
    """The module of a peer that is installed; the scripts here have names that are common.

    Where there is none, that is said in a sentence, and the exit status is 2.
    """
    kept = list(sys.path)
    sys.path[:] = [path for path in kept if Path(path or ".").resolve() not in (HERE, HERE.parent)]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        why = "" if error.name == module.partition(".")[0] else f", for it lacks {error.name}"
        print(f"{distribution} cannot be imported{why}; install it by {INSTALL}.", file=sys.stderr)
        sys.exit(2)
    finally:
        sys.path[:] = kept


def options(doc: str, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every script here takes."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="of all tools in turns")
    parser.add_argument("--memory-of", metavar="TOOL", help="print what one tool takes, and end")
    return parser


@dataclass(frozen=True)
class Beside:
    """What tools that do the same work need for it.

    Attributes
    ----------
    seconds : name of a tool to its median.
    ratios : name of a peer to the median of ours over it, round by round.
    memory : name of a tool to the bytes that it takes beyond what its process held before.
    answers : name of a tool to what it returned last.
    """

    seconds: Mapping[str, float]
    ratios: Mapping[str, float]
    memory: Mapping[str, int]
    answers: Mapping[str, Any]

    def tell(self) -> None:
        """Print a line a tool."""
        for name, seconds in self.seconds.items():
            ratio = f", ours over it {self.ratios[name]:.2f}" if name in self.ratios else ""
            peak = f"{self.memory[name] / 2**20:.0f} MiB"
            print(f"{name:14} {seconds:.2f} s{ratio}; memory {peak}", flush=True)


def side_by_side(
    tools: Mapping[str, Callable[[], Any]], asked: argparse.Namespace, extra: Sequence[str] = ()
) -> Beside:
    """Run all tools in turns, once unmeasured and then so many rounds as are asked for.

    For its memory each is run in a process of its own, too, which is this script again.

    Parameters
    ----------
    tools : `OURS` and at least one peer; they run in that order.
    extra : arguments of that process, besides those of this one.
    """
    if asked.memory_of:
        print(memory_taken(tools[asked.memory_of]))
        sys.exit()
    taken = {name: _memory_of(name, extra) for name in tools}
    times: dict[str, list[float]] = {name: [] for name in tools}
    for number in range(asked.rounds + 1):
        answers = {}
        for name, run in tools.items():
            began = time.perf_counter()
            answers[name] = run()
            if number:
                times[name].append(time.perf_counter() - began)
    ratios = {
        name: statistics.median(a / b for a, b in zip(times[OURS], times[name], strict=True))
        for name in tools
        if name != OURS
    }
    return Beside(
        {name: statistics.median(own) for name, own in times.items()}, ratios, taken, answers
    )


def _memory_of(name: str, extra: Sequence[str]) -> int:
    command = [sys.executable, *sys.argv, *extra, "--memory-of", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1])


def memory_taken(run: Callable[[], Any]) -> int:
    """Bytes of the peak of resident memory during `run` above what was resident before, the second
    time: the first loads what is loaded once.

    On Linux by the kernel's own peak, which is set back before. `ru_maxrss` can not be, and a
    process inherits it from the one that has started it.
    """
    run()
    gc.collect()
    if not sys.platform.startswith("linux"):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)  # what was freed is given back, or it would be taken again unseen
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"the kernel does not tell {field}")
