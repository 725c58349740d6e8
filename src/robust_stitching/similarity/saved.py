"""Activations saved in files: every array a layer, a row an image."""

import math
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robust_stitching.basics.errors import UserError, first_line, unknown
from robust_stitching.basics.modes import without_tf32
from robust_stitching.basics.seeds import generator_for
from robust_stitching.graphs.layout import Layout
from robust_stitching.similarity.blocks import floating
from robust_stitching.similarity.stream import Batch, Stream

IDS, LABELS = "ids", "labels"
"""Names of arrays that are no layers: which image each row is of, and of which class that is."""

NUMBERS = "fiub"
CHUNK = 2**22


@dataclass(frozen=True)
class Saved:
    """What a file holds of n images.

    Attributes
    ----------
    layers : name to activations, (n, d) or (n, C, H, W); they stay on the disk until they are
        looked at, where the file is not compressed.
    ids : (n,), no two alike; None where the file has none.
    notes : what was left out, in sentences.
    """

    path: Path
    layers: Mapping[str, np.ndarray]
    ids: np.ndarray | None
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(next(iter(self.layers.values())))

    def chosen(self, names: Sequence[str] | None, number: int) -> dict[str, np.ndarray]:
        """The layers of these names, all for None.

        Raises
        ------
        UserError : for an unknown name.
        """
        for name in names or ():
            if name not in self.layers:
                raise unknown(f"layer of model {number}", name, self.layers)
        return {name: self.layers[name] for name in dict.fromkeys(names or self.layers)}


def read(path: Path) -> Saved:
    """The activations in an ``.npz`` file, as `numpy.savez` or `extract_layers` writes it.

    Raises
    ------
    UserError : where it cannot be read, holds no activations, arrays of other numbers of images, or
        ids twice.
    """
    try:
        arrays = dict(_arrays(path))
    except FileNotFoundError as error:
        raise UserError(f"the file {path} does not exist.") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is no file of activations as numpy.savez writes it ({first_line(error)}); "
            "write one with `extract_layers`."
        ) from error
    ids, _ = arrays.pop(IDS, None), arrays.pop(LABELS, None)
    layers, notes = {}, []
    for name, array in arrays.items():
        if array.ndim in (2, 4) and array.dtype.kind in NUMBERS and array.size:
            layers[name] = array
        else:
            shape = "×".join(map(str, array.shape)) or "one"
            notes.append(
                f"'{name}' of {path} is left out: {shape} values of type {array.dtype} are no "
                "activations (n, d) or (n, C, H, W)."
            )
    if not layers:
        left_out = f" {' '.join(notes)}" if notes else ""
        raise UserError(
            f"{path} holds no activations; write some with `extract_layers`, or compare networks "
            f"on a dataset.{left_out}"
        )
    counts = {name: len(array) for name, array in layers.items()}
    if ids is not None:
        counts[IDS] = len(ids) if ids.ndim == 1 else -1
    (first, n), *others = counts.items()
    for name, count in others:
        if count != n:
            raise UserError(
                f"{path} has {n:,} images in '{first}' but "
                + (f"{count:,} in '{name}'" if count >= 0 else f"no list of them in '{name}'")
                + "; each row has to be of the same image in all arrays."
            )
    if ids is not None and ids.dtype.kind not in "iufUS":
        raise UserError(
            f"the {IDS} of {path} are of type {ids.dtype}; they have to be numbers or texts."
        )
    if ids is not None and ids.dtype.kind == "S":
        ids = np.char.decode(ids, "utf-8", "replace")
    if ids is not None and len(np.unique(ids)) < n:
        found, times = np.unique(ids, return_counts=True)
        raise UserError(
            f"{path} has the id {found[times > 1][0]} {times.max()} times; give each image its own."
        )
    return Saved(path, layers, ids, tuple(notes))


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Those that are stored as they are stay where they lie."""
    with zipfile.ZipFile(path) as archive, np.load(path) as loaded:
        (often, times), *_ = Counter(archive.namelist()).most_common(1) or [("", 0)]
        if times > 1:
            raise ValueError(f"it has '{often}' {times} times")
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            name = member.filename.removesuffix(".npy")
            stored = member.compress_type == zipfile.ZIP_STORED
            yield name, _mapped(path, archive, member) if stored else loaded[name]


def _mapped(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError(f"'{member.filename}' is of version {version}")
        shape, fortran, dtype = read_header(file)
        header = file.tell()
        if dtype.hasobject:
            raise ValueError(f"'{member.filename}' holds objects of Python")
        if header + dtype.itemsize * math.prod(shape) != member.file_size:
            raise ValueError(f"'{member.filename}' is not as long as it says")
        if 0 in shape or not shape:
            file.seek(0)
            return np.lib.format.read_array(file)
        while file.read(CHUNK):  # to the end, where the sum of the bytes is checked
            pass
    with path.open("rb") as whole:  # names in front of a member may differ from those at the end
        whole.seek(member.header_offset + 26)
        lengths = np.frombuffer(whole.read(4), "<u2")
    start = member.header_offset + 30 + int(lengths.sum()) + header
    order = "F" if fortran else "C"
    return np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape, order=order)


def rows_alike(first: Saved, second: Saved) -> np.ndarray:
    """For each row of the first the row of the second that is of the same image: by ids where both
    have some, else as they stand.

    Raises
    ------
    UserError : where they are not of the same images.
    """
    n = len(first)
    if first.ids is None or second.ids is None:
        if len(second) != n:
            raise UserError(
                f"{first.path} has {n:,} images and {second.path} {len(second):,}; save the same "
                f"ones, or '{IDS}' in both files and the same of them."
            )
        return np.arange(n)
    texts = [side.ids.dtype.kind == "U" for side in (first, second)]
    if texts[0] != texts[1]:
        numbered, named = (first, second) if texts[1] else (second, first)
        raise UserError(
            f"the {IDS} of {numbered.path} are numbers and those of {named.path} texts; save the "
            "same in both."
        )
    ours, theirs = np.argsort(first.ids, kind="stable"), np.argsort(second.ids, kind="stable")
    if not np.array_equal(first.ids[ours], second.ids[theirs]):
        for one, other in ((first, second), (second, first)):
            alone = np.setdiff1d(one.ids, other.ids)
            if len(alone):
                raise UserError(
                    f"{len(alone):,} of {len(one):,} images of {one.path} are not in {other.path}, "
                    f"id {alone[0]} for example; save the same images in both."
                )
    rows = np.empty(n, dtype=np.int64)
    rows[ours] = theirs
    return rows


class SavedStream(Stream):
    """Layers of two files, of the same images in the same order.

    Parameters
    ----------
    sides : of each file its layers, and the numbers of the rows that are looked at.
    """

    def __init__(
        self,
        sides: Sequence[tuple[Sequence[np.ndarray], np.ndarray]],
        batch_size: int,
        device: torch.device | str = "cpu",
    ):
        self.sides, self.batch_size, self.device = sides, batch_size, device
        self.n = len(sides[0][1])
        self.image_bytes = sum(
            4 * array[0].size if array.dtype.itemsize <= 4 else 8 * array[0].size
            for arrays, _ in sides
            for array in arrays
        )

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for at in range(start, self.n, self.batch_size):
            seen = [
                as_tensor(array[rows[at : at + self.batch_size]]).to(self.device)
                for arrays, rows in self.sides
                for array in arrays
            ]
            yield Batch(at, seen, [])

    def looking(self) -> AbstractContextManager[None]:
        return without_tf32()


def as_tensor(values: np.ndarray) -> Tensor:
    """Numbers as they are compared: float32 at least, whole ones as float64."""
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    native = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    if native.dtype.itemsize > 8:
        native = native.astype(np.float64)
    return floating(torch.from_numpy(native))


def layouts_of(layers: Mapping[str, np.ndarray]) -> dict[str, Layout]:
    """What each layer holds of an image."""
    return {name: Layout.of(array.shape[1:]) for name, array in layers.items()}


def drawn(n: int, count: int | None, seed: int) -> np.ndarray:
    """The numbers of `count` of n images, all for None, in a random order."""
    order = torch.randperm(n, generator=generator_for(seed, "saved")).numpy()
    return order[:count]
