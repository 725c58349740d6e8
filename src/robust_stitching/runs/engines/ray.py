"""Units as tasks of a Ray cluster, an existing one or one on this machine for as long as it takes.

A task only starts the process of its unit and waits for it. Where the task's worker or its node
goes away, Ray starts the task again elsewhere, and the process of the old one, if there is one
left, ends with the input that the worker had given it.
"""

import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.basics.files import claimed, temporary_name
from robust_stitching.runs.engines import Ended, arguments, ended, environment
from robust_stitching.runs.units import Unit

FOREVER = 10**9
REACHED_WITHIN = 10.0
PATIENCE = 60.0
"""Seconds for units to keep their states after they were asked to stop."""

SMALL = 10_000_000
"""Parameters of networks that leave most of a GPU idle."""

SHARE_OF_SMALL = 0.25


class Ray:
    """Tasks of a Ray cluster.

    Parameters
    ----------
    address : of an existing cluster, as HOST:PORT; None takes the one that ``RAY_ADDRESS`` names or
        that was started on this machine, else starts one.
    retries : how often Ray starts a task again whose worker or node went away.
    folder : of the sweep, which every node has to see.

    Raises
    ------
    UserError : where Ray is not installed, the cluster does not answer, or one of its nodes does
        not see the folder.
    """

    orders = False

    def __init__(self, address: str | None, threads: int, retries: int, folder: Path):
        self.threads = threads
        self._units: dict[Any, Unit] = {}
        self.ray = _imported()
        _require_answer(address)
        try:
            self.ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # of many kinds, from many layers
            raise UserError(_unreachable(address, first_line(error))) from error
        try:
            self._require_nodes(folder)
        except BaseException:
            self.ray.shutdown()
            raise
        self._task = self.ray.remote(max_retries=retries)(_task())
        self._gpus = self.ray.cluster_resources().get("GPU", 0) > 0

    def _require_nodes(self, folder: Path) -> None:
        """Raise UserError unless every node sees the folder and has enough cores for a unit."""
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        most = max((node["Resources"].get("CPU", 0) for node in nodes), default=0)
        if most < self.threads:
            raise UserError(
                f"no node of the Ray cluster has {self.threads} cores, the largest has {most:g}; "
                f"choose --threads {max(1, int(most))}."
            )
        with claimed(folder):
            probe = folder / temporary_name()
            probe.touch()
            try:
                seen = {node["NodeName"]: self._seen_from(node, probe) for node in nodes}
                blind = [name for name, ref in seen.items() if not self.ray.get(ref)]
            finally:
                probe.unlink()
        if blind:
            raise UserError(
                f"the node {blind[0]} of the Ray cluster does not see {folder}; choose a folder "
                "that all nodes share, -o DIR."
            )

    def _seen_from(self, node: Mapping[str, Any], probe: Path) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        look = self.ray.remote(_looking()).options(num_cpus=0, scheduling_strategy=there)
        return look.remote(str(probe))

    def room(self) -> int:
        return FOREVER

    def submit(self, units: Sequence[Unit]) -> None:
        for unit in units:
            unit.log.parent.mkdir(parents=True, exist_ok=True)
            task = self._task.options(num_cpus=self.threads, num_gpus=self._share(unit))
            words = [*arguments(unit, self.threads), "--attached"]
            ref = task.remote(words, environment(self.threads), str(unit.log))
            self._units[ref] = unit

    def _share(self, unit: Unit) -> float:
        """How much of a GPU a unit takes; none where the cluster has none."""
        if not self._gpus:
            return 0
        return SHARE_OF_SMALL if unit.parameters <= SMALL else 1

    def wait(self, seconds: float) -> list[Ended]:
        over, _ = self.ray.wait(list(self._units), num_returns=1, timeout=seconds)
        return [self._ended(ref) for ref in over]

    def _ended(self, ref: Any) -> Ended:
        unit = self._units.pop(ref)
        try:
            return ended(unit, self.ray.get(ref))
        except self.ray.exceptions.RayError as error:
            return Ended(unit, f"its worker or node went away ({type(error).__name__})")

    def stop(self) -> str:
        refs = list(self._units)
        for ref in refs:
            self.ray.cancel(ref)
        if refs:  # they keep their states
            self.ray.wait(refs, num_returns=len(refs), timeout=PATIENCE)
        self._units.clear()
        self.ray.shutdown()
        return "the same command goes on from what is there."


def _task() -> Callable[[list[str], dict[str, str], str], int]:
    """What a task does. A function within a function travels whole: a node needs no more of this
    library than what the process of the unit finds by its environment."""

    def carry_out(words: list[str], environment: dict[str, str], log: str) -> int:
        import os
        import time

        with open(log, "ab") as file:
            process = subprocess.Popen(
                [sys.executable, *words],
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
            )
        try:
            while process.poll() is None:
                time.sleep(0.2)  # a cancellation is raised between two looks, not in a wait
            return process.returncode
        except BaseException:
            process.terminate()
            process.wait()
            raise

    return carry_out


def _looking() -> Callable[[str], bool]:
    def look(path: str) -> bool:
        import os

        return os.path.exists(path)

    return look


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "the package ray is missing; pip install -r requirements-ray.txt, or leave --cluster "
            "ray out."
        ) from error
    return ray


def _require_answer(address: str | None) -> None:
    """Raise UserError unless somebody answers at HOST:PORT; Ray itself asks for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if address is None or address in ("auto", "local"):
        return
    try:
        if not colon or not port.isdecimal():
            raise ValueError("it is no HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), REACHED_WITHIN).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(_unreachable(address, getattr(error, "strerror", None) or error)) from error


def _unreachable(address: str | None, why: object) -> str:
    return (
        f"the Ray cluster {address or 'of this machine'} does not answer ({why}); see that it runs "
        "(ray status), or name another, --cluster ray:HOST:PORT."
    )
