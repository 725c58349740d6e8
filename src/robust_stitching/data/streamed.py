"""A split that is never wholly in memory: worker processes decode its files, batch by batch.

Where an image stands in an epoch, its window and its augmentation follow from seed and epoch alone,
drawn here before any worker starts, so their number changes nothing but the speed.
"""

import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from robust_stitching.basics.errors import first_line
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data.augment import as_float, augmented
from robust_stitching.data.decoding import Unreadable
from robust_stitching.data.pictures import Decoder, Square
from robust_stitching.data.source import Augmentation
from robust_stitching.data.split import (
    READ_AT_ONCE,
    AnySplit,
    Batch,
    Split,
    are_grey,
    laid_out,
    mean_and_deviation,
    order_and_draws,
    sizes_in_order,
)

WORTH_WORKERS = 500
"""So many images keep worker processes busy for longer than they take to start."""

STATISTICS_IMAGES = 1000


@dataclass(frozen=True)
class StreamedSplit(AnySplit):
    """Files of images, with labels in memory.

    Attributes
    ----------
    paths : array of N whole paths, as bytes.
    square : what is cut out of them.
    workers : processes that decode, where there are `WORTH_WORKERS` images to read; 0 decodes in
        this process.
    upright : turn pictures as their EXIF orientation says.
    channels : 3, or 1 where all pictures are known to be grey.
    """

    name: str
    paths: np.ndarray
    labels: Tensor
    classes: tuple[str, ...]
    square: Square
    augmentation: Augmentation | None = None
    source: str = ""
    workers: int = 0
    upright: bool = False
    channels: int = 3
    notes: tuple[str, ...] = ()

    @property
    def image_size(self) -> int:
        return self.square.size

    @property
    def content(self) -> tuple[Tensor, ...]:
        """Name of folder and file, and size, of every image.

        What is in them would take as long as a pass over the data.
        """
        names = b"\n".join(b"/".join(p.split(os.fsencode(os.sep))[-2:]) for p in self.paths)
        sizes = torch.tensor([os.path.getsize(path) for path in self.paths])
        return torch.frombuffer(bytearray(names), dtype=torch.uint8), sizes, self.labels

    def to(self, device: torch.device | str) -> "StreamedSplit":
        return replace(self, labels=self.labels.to(device))

    def take(self, rows: slice | Tensor) -> "StreamedSplit":
        if isinstance(rows, slice):
            return replace(self, paths=self.paths[rows], labels=self.labels[rows])
        labels = self.labels[rows.to(self.device)]
        return replace(self, paths=self.paths[rows.numpy()], labels=labels)

    def _in_order(self, sizes: Sequence[int]) -> Iterator[Batch]:
        rows = torch.arange(len(self))
        for some, images in self._decoded(rows, sizes):
            yield laid_out(as_float(images)), self.labels[some.to(self.device)]

    def _shuffled(
        self, sizes: Sequence[int], skip: int, generator: torch.Generator
    ) -> Iterator[Batch]:
        order, draws = order_and_draws(len(self), generator)
        seeds = torch.randint(2**63 - 1, (len(self),), generator=generator)
        augmentation, decoder = self.augmentation, self._decoder()
        if augmentation and augmentation.area:
            decoder = replace(decoder, area=augmentation.area, flip=augmentation.flip)
            augmentation = replace(augmentation, flip=False)
        start = sum(sizes[:skip])
        for rows, images in self._decoded(order[start:], sizes[skip:], seeds[start:], decoder):
            own = draws[start : start + len(rows)].to(self.device)
            images = augmented(images, augmentation, own)
            yield laid_out(images), self.labels[rows.to(self.device)]
            start += len(rows)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, on `STATISTICS_IMAGES` images at random."""
        return mean_and_deviation(self.sample(STATISTICS_IMAGES)._bytes())

    def is_grey(self, progress: Progress = silent) -> bool:
        """Whether all pictures are grey, after a look at them in colour until one is not."""
        spread = torch.linspace(0, len(self) - 1, min(READ_AT_ONCE, len(self))).long()
        if not all(map(are_grey, self.take(spread)._bytes())):
            return False
        with progress(len(self), "looking for colour") as bar:
            for images in self._bytes():
                if not are_grey(images):
                    return False
                bar.update(len(images))
        return True

    def in_memory(self, progress: Progress = silent) -> Split:
        """These images, decoded once for all, in this process."""
        size, at = self.square.size, 0
        images = torch.empty(len(self), self.channels, size, size, dtype=torch.uint8)
        with progress(len(self), f"reading {self.name}") as bar:
            for decoded in replace(self.to("cpu"), workers=0)._bytes():
                images[at : at + len(decoded)] = decoded
                at += len(decoded)
                bar.update(len(decoded))
        return Split(
            self.name,
            images.to(self.device),
            self.labels,
            self.classes,
            self.augmentation,
            self.source,
            self.notes,
        )

    def _bytes(self) -> Iterator[Tensor]:
        """All images in order, uint8 of shape (B, C, H, W), `READ_AT_ONCE` at a time."""
        rows = torch.arange(len(self))
        return (
            images for _, images in self._decoded(rows, sizes_in_order(len(rows), READ_AT_ONCE))
        )

    def _decoder(self) -> Decoder:
        """Of images as they are evaluated."""
        return Decoder(self.paths, self.square, upright=self.upright, channels=self.channels)

    def _decoded(
        self,
        rows: Tensor,
        sizes: Sequence[int],
        seeds: Tensor | None = None,
        decoder: Decoder | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The images with the numbers `rows` in batches of `sizes`: (rows on the CPU, uint8 images
        on the device).

        Raises
        ------
        Unreadable : for a file that cannot be read, or workers that die.
        """
        if not sizes:
            return
        batches = rows.split(sizes)
        seeds = torch.zeros_like(rows) if seeds is None else seeds
        asked = zip(batches, seeds.split(sizes), strict=True)
        on_gpu = self.device.type == "cuda"
        loader = DataLoader(
            decoder or self._decoder(),
            batch_size=None,  # the decoder makes whole batches
            sampler=((some.tolist(), own.tolist()) for some, own in asked),
            num_workers=min(self.workers, len(batches)) if len(rows) >= WORTH_WORKERS else 0,
            worker_init_fn=_leave_the_terminal,
            pin_memory=on_gpu,
            generator=torch.Generator(),  # it would draw a number from the global one otherwise
        )
        decoded = self._yielded_by(loader)
        for some, images in zip(batches, decoded, strict=True):
            if isinstance(images, Unreadable):
                decoded.close()  # whoever keeps the error does not keep the processes
                raise images
            yield some, images.to(self.device, non_blocking=on_gpu)

    def _yielded_by(self, loader: DataLoader) -> Generator[Tensor | Unreadable, None, None]:
        """What the loader yields; `Unreadable` where its workers have died."""
        iterator = reason = None
        try:
            iterator = _begun(loader)
            while (images := next(iterator, None)) is not None:
                yield images
        except (RuntimeError, OSError, EOFError) as error:
            # What a worker raises comes with its traceback, and is a mistake of ours.
            if not loader.num_workers or str(error).startswith("Caught"):
                raise
            reason = first_line(error)
        if reason is not None:
            del iterator  # the other processes end before anybody hears of it
            raise Unreadable(
                f"a process that reads {self.name} was ended by the system, mostly for want of "
                f"(shared) memory ({reason}); set DATASET_WORKERS to fewer than "
                f"{loader.num_workers}, 0 for none."
            )


def _begun(loader: DataLoader) -> Iterator[Tensor | Unreadable]:
    """The loader's iterator, which notices dead workers where it waits for them and nowhere else.

    Torch answers the signal of a child's death by an exception wherever the main thread is: in the
    midst of a training step, or while it ends the other workers. Its iterator looks after its
    workers without that signal, too, every few seconds in which no batch arrives.
    """
    handled = (
        loader.num_workers
        and hasattr(signal, "SIGCHLD")
        and threading.current_thread() is threading.main_thread()
    )
    before = signal.getsignal(signal.SIGCHLD) if handled else None
    iterator = iter(loader)
    if handled and _is_torchs(signal.getsignal(signal.SIGCHLD)):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if _is_torchs(before) else before)
    return iterator


def _is_torchs(handler: object) -> bool:
    """Whether a handler of a signal is torch's, or none that could be set again."""
    return handler is None or getattr(handler, "__module__", "").startswith("torch.utils.data")


def _leave_the_terminal(worker: int) -> None:
    """Ctrl-C goes to every process of a terminal's group, and so does what `timeout` sends. Workers
    leave that group: the parent decides what a signal means, and ends them when it is done. Should
    it be killed, they notice within seconds."""
    if hasattr(os, "setsid"):
        os.setsid()
