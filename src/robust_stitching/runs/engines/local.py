"""Units as processes on this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from robust_stitching.runs.engines import Ended, arguments, ended, environment
from robust_stitching.runs.units import Unit

LOOK_EVERY = 0.1
PATIENCE = 120.0
"""Seconds for a process to keep its state after it was asked to stop."""


@dataclass
class Begun:
    """A process of a unit, and the place that it takes."""

    unit: Unit
    process: subprocess.Popen
    place: int


class Local:
    """Processes on this machine, each with so many threads; of several GPUs each has one.

    Parameters
    ----------
    jobs : how many at once.
    devices : the CUDA devices that there are, as ``CUDA_VISIBLE_DEVICES`` calls them.
    """

    orders = False

    def __init__(self, jobs: int, threads: int, devices: Sequence[str] = ()):
        self.jobs, self.threads, self.devices = jobs, threads, devices
        self._begun: list[Begun] = []

    def room(self) -> int:
        return self.jobs - len(self._begun)

    def submit(self, units: Sequence[Unit]) -> None:
        for unit in units:
            taken = {begun.place for begun in self._begun}
            place = next(place for place in range(self.jobs) if place not in taken)
            self._begun.append(Begun(unit, self._start(unit, place), place))

    def _start(self, unit: Unit, place: int) -> subprocess.Popen:
        env = os.environ | environment(self.threads)
        if len(self.devices) > 1:
            env["CUDA_VISIBLE_DEVICES"] = self.devices[place % len(self.devices)]
        unit.log.parent.mkdir(parents=True, exist_ok=True)
        with unit.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments(unit, self.threads), "--attached"],
                env=env,
                stdin=subprocess.PIPE,  # which ends when we do, however that is
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us alone, who then ask it to stop
            )

    def wait(self, seconds: float) -> list[Ended]:
        until = time.monotonic() + seconds
        while True:
            over = [begun for begun in self._begun if begun.process.poll() is not None]
            if over or time.monotonic() >= until:
                break
            time.sleep(LOOK_EVERY)
        for begun in over:
            self._begun.remove(begun)
            begun.process.stdin.close()
        return [ended(begun.unit, begun.process.returncode) for begun in over]

    def stop(self) -> str:
        until = time.monotonic() + PATIENCE
        for begun in self._begun:
            begun.process.terminate()
        for begun in self._begun:
            try:
                begun.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                begun.process.kill()
                begun.process.wait()
            begun.process.stdin.close()
        self._begun.clear()
        return "the same command goes on from what is there."


def cuda_devices() -> list[str]:
    """The CUDA devices of this machine that we may use."""
    import torch

    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    named = said.split(",") if said else map(str, range(count))
    return list(named)[:count]
