"""What lies in folders of images, one folder per class: which files are images, what is left out.

The order is that of torchvision's ImageFolder: classes sorted as text (so "10" stands before "2"),
within them folders, then files; published networks were trained on labels that count so.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from robust_stitching.basics.errors import UserError
from robust_stitching.data.source import Files

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Files with one of these, in any case, are taken for images without a look; others by content."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""Of Pillow's, those by whose first bytes a file without such an ending is recognised."""

TOOLS = (
    *("__pycache__", "__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "$recycle.bin"),
    *("lost+found", "system volume information"),
)
"""Folders, in any case, that computers make beside people's own, besides all hidden ones."""

HIDDEN = "hidden"
"""What files are counted as whose names begin with a dot, instead of by their endings."""

TOLD = 6
"""So many names are given before the rest is only counted."""


def list_parts(folder: Path, names: Sequence[str]) -> list[Files]:
    """The parts of a dataset, such as ``train/`` and ``test/``, each with one folder per class.

    Files are images by their ending, or else by their first bytes. Hidden files and folders, and
    those of tools (`TOOLS`), are left out. A folder is read once: in its own place, else by the
    first link to it, and never by a link to a folder that it lies in.

    Raises
    ------
    UserError : when a part has no classes or a class no images, when parts differ in their classes,
        and when two links give the same folder to two classes.
    """
    parts = [_Part(folder / name).files() for name in names]
    first, *others = parts
    if len(first.classes) < 2:
        raise UserError(f"{folder / names[0]} has a single class; at least two are needed.")
    for name, other in zip(names[1:], others, strict=True):
        if other.classes != first.classes:
            odd = sorted(set(first.classes) ^ set(other.classes))
            raise UserError(
                f"{names[0]}/ and {name}/ of {folder} differ in their classes "
                f"({', '.join(odd[:5])}); both need the same folders."
            )
    return parts


def class_folders(part: Path) -> tuple[str, ...]:
    """The classes of one part of a dataset, by the names of its folders alone."""
    folders = [entry for entry in _entries(part) if _is_folder(entry) and not _is_tool(entry)]
    real = [entry for entry in folders if not (entry.is_symlink() and _leads_up(entry.path))]
    return tuple(sorted(entry.name for entry in real))


@dataclass
class _Part:
    """A folder of class folders while it is looked through.

    Attributes
    ----------
    images : class to (folder, file name) of its images.
    places : folders that were read, by their real paths: the class, and whether by a link.
    links : (path, class) of links to folders, which wait until all real folders have been read.
    others, beside : endings of files that are no images, and of files in no class.
    tools : names of folders that were passed over.
    loops : links to folders that are read elsewhere.
    """

    root: Path
    images: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    places: dict[str, tuple[str, bool]] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)
    others: Counter = field(default_factory=Counter)
    beside: Counter = field(default_factory=Counter)
    tools: Counter = field(default_factory=Counter)
    loops: list[str] = field(default_factory=list)

    def files(self) -> Files:
        self._look()
        notes = tuple(self._notes())
        empty = next((name for name, images in sorted(self.images.items()) if not images), None)
        if empty is not None or not self.images:
            none = "" if empty is None else f"{self.root / empty} has no images in it: "
            needs = f"{self.root} needs one folder per class, each with images in it."
            raise UserError(" ".join([none + needs, *notes]))
        classes = tuple(sorted(self.images))
        paths = [os.path.join(*at) for name in classes for at in sorted(self.images[name])]
        counts = torch.tensor([len(self.images[name]) for name in classes])
        return Files(
            paths=np.array([os.fsencode(path) for path in paths]),
            labels=torch.arange(len(classes)).repeat_interleave(counts),
            classes=classes,
            notes=notes,
        )

    def _look(self) -> None:
        for entry in _entries(self.root):
            if not _is_folder(entry):
                self.beside[_ending(entry)] += 1
            elif entry.is_symlink() and _leads_up(entry.path):
                self._leave_out(entry.path)
            elif not self._passed_over(entry):
                self.images[entry.name] = []
                self._enter(entry, entry.name, linked=False)
        # What lies in a real folder is of that class, whoever links to it: links come last.
        while self.links:
            self.links.sort(reverse=True)
            path, name = self.links.pop()
            if _leads_up(path):
                self._leave_out(path)
            else:
                self._walk(path, name, linked=True)

    def _enter(self, entry: os.DirEntry, name: str, linked: bool) -> None:
        """Read a folder for the class `name`, or remember a link to one."""
        if entry.is_symlink():
            self.links.append((entry.path, name))
        else:
            self._walk(entry.path, name, linked)

    def _walk(self, path: str, name: str, linked: bool) -> None:
        real = os.path.realpath(path)
        if real in self.places:
            other, by_link = self.places[real]
            if by_link and other != name:
                raise UserError(
                    f"{real} is linked to from the classes {other} and {name} of {self.root}, but "
                    "an image has one class; remove one of the links."
                )
            self._leave_out(path)
            return
        self.places[real] = (name, linked)
        for entry in _entries(path):
            if not _is_folder(entry):
                self._take(entry, path, name)
            elif not self._passed_over(entry):
                self._enter(entry, name, linked)

    def _take(self, entry: os.DirEntry, folder: str, name: str) -> None:
        """Add a file to the images of a class, or count it among the others."""
        ending = _ending(entry)
        if ending in ENDINGS and entry.is_symlink() and not os.path.exists(entry.path):
            raise UserError(f"{entry.path} is a link to a file that is not there; remove it.")
        if _is_file(entry) and (ending in ENDINGS or (ending != HIDDEN and _is_image(entry.path))):
            self.images[name].append((folder, entry.name))
        else:
            self.others[ending] += 1

    def _passed_over(self, entry: os.DirEntry) -> bool:
        """Whether a folder is hidden or a tool's; it is counted then."""
        passed_over = _is_tool(entry)
        if passed_over:
            self.tools[entry.name] += 1
        return passed_over

    def _leave_out(self, link: str) -> None:
        self.loops.append(os.path.relpath(link, self.root))

    def _notes(self) -> Iterator[str]:
        for left_out, what in (
            (self.others, "no images"),
            (self.beside, "in no class folder"),
            (self.tools, "hidden folders or those of tools"),
        ):
            if left_out:
                named = [f"{count:,} {name}" for name, count in left_out.most_common()]
                yield f"Left out in {self.root}, {what}: {_few(named)}."
        if self.loops:
            what = "links to folders that are read in their own place, or that hold them"
            yield f"Left out in {self.root}, {what}: {_few(self.loops)}."


def _few(names: Sequence[str]) -> str:
    more = len(names) - TOLD
    return ", ".join([*names[:TOLD], *([f"{more:,} more"] if more > 0 else [])])


def _ending(entry: os.DirEntry) -> str:
    """What a file is counted as."""
    if entry.name.startswith("."):
        return HIDDEN
    return os.path.splitext(entry.name)[1].lower() or "no ending"


def _entries(folder: str | Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read ({error.strerror}).") from error


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _is_tool(entry: os.DirEntry) -> bool:
    return entry.name.startswith(".") or entry.name.lower() in TOOLS


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_image(path: str) -> bool:
    """Whether a file begins as images do."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # whatever Pillow's readers raise at files of other kinds
        return False


def _leads_up(link: str) -> bool:
    """Whether a link leads to a folder that it lies in, by the way to it or by real paths."""
    target = os.path.realpath(link)
    above = [Path(link).absolute().parent, Path(os.path.realpath(os.path.dirname(link)))]
    return any(os.path.realpath(p) == target for start in above for p in (start, *start.parents))
