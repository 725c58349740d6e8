"""The units of a sweep carried out by an engine: in order, each once, tried again where they fail.

What is done is seen by its files, so that several sweeps of one plan share the work, and one that
was killed goes on with what is missing.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from robust_stitching.plans.places import NETWORKS
from robust_stitching.runs.engines import Ended, Engine
from robust_stitching.runs.units import Unit

LOOK_EVERY = 5.0
PUT_OFF = 2.0
"""Seconds until a unit that another process works on is looked at again."""


class Heard(Protocol):
    """Who hears of the units while they are carried out."""

    def done(self, unit: Unit) -> None:
        """Its result is there."""

    def again(self, unit: Unit, error: str) -> None:
        """It failed, and will be tried again."""

    def failed(self, unit: Unit, error: str) -> None:
        """It was tried as often as may be."""

    def elsewhere(self, unit: Unit) -> None:
        """Another process works on it."""


@dataclass
class Work:
    """What is left to do.

    Attributes
    ----------
    left : units that no engine has.
    given : those that one has.
    failed : those that were tried as often as may be, to why.
    """

    engine: Engine
    retries: int
    heard: Heard
    left: list[Unit] = field(default_factory=list)
    given: list[Unit] = field(default_factory=list)
    failed: dict[Unit, str] = field(default_factory=dict)
    _tried: Counter[Unit] = field(default_factory=Counter)
    _early: set[Unit] = field(default_factory=set)
    _not_before: dict[Unit, float] = field(default_factory=dict)

    def carry_out(self, units: Sequence[Unit]) -> dict[Unit, str]:
        """Carry out units; returns those that failed, with why.

        Whatever ends this early, the engine is told to stop.
        """
        self.left = list(units)
        try:
            while self.left or self.given:
                self._give()
                if self.given:
                    for ended in self.engine.wait(PUT_OFF if self.left else LOOK_EVERY):
                        self._take(ended)
                elif self.left:
                    time.sleep(PUT_OFF)  # others work on all of them
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self.engine.stop()) from None
        except BaseException:
            self.engine.stop()
            raise
        return self.failed

    def _give(self) -> None:
        """Give the engine what it has room for."""
        room, chosen = self.engine.room(), []
        for unit in list(self.left):
            if len(chosen) >= room:
                break
            if self._is_ready(unit):
                self.left.remove(unit)
                self.given.append(unit)
                chosen.append(unit)
        if chosen:
            self.engine.submit(chosen)

    def _is_ready(self, unit: Unit) -> bool:
        """Whether a unit can be given to the engine now. One that is done, or cannot be any more,
        is left no longer."""
        if unit.is_done():
            self.left.remove(unit)
            self.heard.done(unit)
            return False
        if lost := [other for other in self.failed if self._needs(unit, other)]:
            self.left.remove(unit)
            self._fail(unit, f"its network {lost[0].name} failed")
            return False
        if unit.needs and (unit in self._early or not self.engine.orders):
            others = (*self.left, *self.given)
            if any(self._needs(unit, other) for other in others):
                return False
        if time.monotonic() < self._not_before.get(unit, 0):
            return False
        if unit.worker() is not None:
            self._put_off(unit)
            return False
        return True

    @staticmethod
    def _needs(unit: Unit, other: Unit) -> bool:
        return other.kind == NETWORKS and other.name in unit.needs

    def _put_off(self, unit: Unit) -> None:
        if unit not in self._not_before:
            self.heard.elsewhere(unit)
        self._not_before[unit] = time.monotonic() + PUT_OFF

    def _fail(self, unit: Unit, error: str) -> None:
        self.failed[unit] = error
        self.heard.failed(unit, error)

    def _take(self, ended: Ended) -> None:
        """Note what became of a unit that the engine is through with."""
        unit = ended.unit
        self.given.remove(unit)
        if unit.is_done():
            self.heard.done(unit)
            return
        if ended.busy:
            self._put_off(unit)
            self.left.append(unit)
            return
        if any(self._needs(unit, other) for other in (*self.left, *self.given, *self.failed)):
            self._early.add(unit)  # its network failed once and is trained again
            self.left.append(unit)
            return
        error = unit.ended().get("error") or ended.error
        self._tried[unit] += 1
        if ended.again and self._tried[unit] <= self.retries:
            self.left.append(unit)
            self.heard.again(unit, error)
        else:
            self._fail(unit, error)
