"""What the benchmarks share: the library on the path, and two things timed in turns."""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))


def told(**quantities: float) -> None:
    """Print what was found as a last line that `all.py` reads, as "claim: ratio=1.05 same=1"."""
    print("claim:", *(f"{name}={float(value):.4g}" for name, value in quantities.items()))


def quantities(output: str) -> dict[str, float]:
    """What `told` has printed; nothing where the last line is another, or is not whole."""
    words = output.rstrip().rpartition("\n")[2].split()
    if words[:1] != ["claim:"]:
        return {}
    pairs = [word.partition("=") for word in words[1:]]
    try:
        return {name: float(value) for name, _, value in pairs}
    except ValueError:
        return {}


def paired(a: Callable[[], None], b: Callable[[], None], rounds: int) -> tuple[float, float, float]:
    """Run `a` and `b` in turns, once unmeasured and then `rounds` times.

    Returns
    -------
    median seconds of `a`, median seconds of `b`, median of the ratios a/b round by round, which
    holds when the machine's speed drifts.
    """
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        a()
        between = time.perf_counter()
        b()
        times.append((between - started, time.perf_counter() - between))
    times = times[1:]
    return (
        statistics.median(first for first, _ in times),
        statistics.median(second for _, second in times),
        statistics.median(first / second for first, second in times),
    )
