"""A bar of images that also moves while a batch of them is worked on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from tqdm import tqdm

PULSE = 0.5  # seconds between two looks at a bar that does not move


class Pace:
    """Moves a bar on by the passes of a network that a batch takes at most; images that leave an
    attack early make it jump ahead.

    Parameters
    ----------
    bar : of images, at the number that are done.
    passes : how many a batch takes at most; 0 where nobody knows.
    """

    def __init__(self, bar: tqdm, passes: int):
        self.bar, self.passes = bar, passes
        self.done, self.size = bar.n, 0  # images: before this batch, in it
        self.before = self.most = self.seen = 0  # passes: of earlier parts, of this part
        self.what, self.looked = "", 0.0

    def batch(self, size: int) -> None:
        """A batch of so many images begins; the one before is done."""
        self.done += self.size
        self.size, self.before, self.most = size, 0, 0
        self._move_to(self.done)

    def part(self, what: str, passes: int) -> None:
        """A part of the batch's work begins, that takes so many passes at most."""
        self.before, self.most, self.seen, self.what = self.before + self.most, passes, 0, what
        self._show()

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Count the passes of `network`."""
        handle = network.register_forward_hook(self._tick)
        try:
            yield
        finally:
            handle.remove()

    def _tick(self, *_: object) -> None:
        self.seen += 1
        if self.passes:
            share = (self.before + min(self.seen, self.most)) / self.passes
            self._move_to(self.done + int(share * self.size))
        self._show()

    def _move_to(self, images: int) -> None:
        if images > self.bar.n:
            self.bar.update(images - self.bar.n)

    def _show(self) -> None:
        now = time.time()
        if self.bar.disable or now < max(self.bar.start_t + self.bar.delay, self.looked + PULSE):
            return
        counted = "" if self.passes else f" {self.seen:,} passes"
        self.bar.set_postfix_str(self.what + counted)
        self.looked = now
