"""An evaluation under attack that keeps what it finds in a file, and goes on from there.

The file grows by one record a batch: which attack fooled which image at which step, and the
adversarial images that are new. A record is its length, its checksum, and tensors and plain values
as torch writes them; the first one holds the settings. What an interruption or a full disk leaves
of the last record is no whole record: reading stops before it, and the next run writes over it.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.known import Part, Robustness
from robust_stitching.evaluation.robustness import robustness
from robust_stitching.evaluation.suites import Suite

MAGIC = b"robust-stitching kept 1\n"
HEAD = struct.Struct("<QI")  # bytes and CRC-32 of what follows


def attack_and_keep(
    network: nn.Module,
    split: AnySplit,
    attacks: Suite,
    settings: Mapping[str, Any],
    path: Path | None,
    *,
    seed: int,
    batch_size: int,
    progress: Progress = silent,
) -> Robustness:
    """`robustness`, each batch of which is kept in `path`, adversarial images included.

    Parameters
    ----------
    settings : all that the result depends on, as plain values.
    path : None keeps nothing.

    Raises
    ------
    UserError : when `path` was kept by a run with other settings, holds something else or cannot be
        written, before any image is attacked; or, when the disk is full, with what was kept before.
    """
    options = {"seed": seed, "batch_size": batch_size, "progress": progress, "keep_images": False}
    if path is None:
        return robustness(network, split, attacks, **options)
    known = Robustness.begin(split, attacks, keep_images=False)
    end = _take_up(path, settings, known) if path.exists() else 0
    with _Journal.open(path, settings, end) as journal:
        return robustness(
            network, split, attacks, known=known, after_batch=journal.append, **options
        )


def adversarial_images(path: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """What a file has kept, batch by batch: the places of the fooled images in the evaluated
    split, (k,), and what each was changed into, (k, C, H, W).

    Raises
    ------
    UserError : when it is no such file, or damaged.
    """
    for number, (_, values) in enumerate(_records(path)):
        if number:
            yield values["places"], values["images"]


def _take_up(path: Path, settings: Mapping[str, Any], known: Robustness) -> int:
    """Tell `known` what a file has kept; returns where its whole records end."""
    end = 0
    for number, (stop, values) in enumerate(_records(path)):
        if number:
            known.add(Part(**values))
        elif values != settings:
            raise UserError(f"{path} was kept by a run with other settings; name another file.")
        end = stop
    return end


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole records of a file, each with the place where it ends; none of an empty one."""
    if not path.is_file():
        raise UserError(f"{path} is no file that images can be kept in; name another.")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(len(MAGIC))
        if start != MAGIC[: len(start)]:
            raise UserError(f"{path} was kept by no evaluation under attack; name another file.")
        while len(head := file.read(HEAD.size)) == HEAD.size:
            length, checksum = HEAD.unpack(head)
            if not length or length > size - file.tell():
                return
            content = file.read(length)
            if zlib.crc32(content) != checksum:
                if file.tell() < size:
                    raise UserError(f"{path} is damaged at byte {file.tell() - length}.")
                return
            yield file.tell(), torch.load(io.BytesIO(content), weights_only=True)


class _Journal:
    """A file that records are added to."""

    def __init__(self, file: io.FileIO, path: Path, settings: Mapping[str, Any], end: int):
        self.file, self.path, self.settings, self.end = file, path, settings, end

    @classmethod
    @contextmanager
    def open(cls, path: Path, settings: Mapping[str, Any], end: int) -> Iterator["_Journal"]:
        """A new file, or one whose whole records end at `end`; a file that stays empty is gone
        again at the end.

        Raises
        ------
        UserError : where it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb", buffering=0)
            file.truncate(end)
        except OSError as error:
            raise UserError(
                f"cannot write {path} ({error.strerror}); name another file to keep images in."
            ) from error
        with file:
            journal = cls(file, path, settings, end)
            try:
                yield journal
            finally:
                if not journal.end and not journal._size():
                    path.unlink(missing_ok=True)

    def append(self, part: Part) -> None:
        """Add a record, whole or not at all; the settings before the first one."""
        record = _record({field.name: getattr(part, field.name) for field in fields(part)})
        if not self.end:
            record = MAGIC + _record(dict(self.settings)) + record
        if self._size() != self.end:
            raise UserError(f"another run writes to {self.path}; name another file for this one.")
        try:
            self.file.seek(self.end)
            left = memoryview(record)
            while left:
                left = left[self.file.write(left) :]
            os.fsync(self.file.fileno())
        except OSError as error:
            self.file.truncate(self.end)
            raise UserError(
                f"cannot write {self.path} ({error.strerror}); what it held before is whole, and "
                "the same command goes on from there once there is room."
            ) from error
        self.end += len(record)

    def _size(self) -> int:
        return os.fstat(self.file.fileno()).st_size


def _record(values: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(values, file)
    content = file.getvalue()
    return HEAD.pack(len(content), zlib.crc32(content)) + content
