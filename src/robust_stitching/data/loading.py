"""From a dataset's name, or the path of a folder, to the splits that hold its images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.labels import are_attributes
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data.augment import scaled
from robust_stitching.data.config import config_file, dataset_root, dataset_workers
from robust_stitching.data.folder import class_names, read_folder
from robust_stitching.data.pictures import Square
from robust_stitching.data.source import Files, Images, Missing, Source
from robust_stitching.data.sources import (
    FOLDER_SIZE,
    SOURCES,
    looks_like_a_path,
    source_of,
    without_files,
)
from robust_stitching.data.split import MOST_IN_MEMORY, AnySplit, Split
from robust_stitching.data.streamed import StreamedSplit


def load(
    dataset: str,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    image_size: int | None = None,
) -> tuple[AnySplit, AnySplit]:
    """The training and the test split of a dataset: in memory, or streamed where it is large.

    Parameters
    ----------
    dataset : a key of `SOURCES`, or the path of a folder with ``train/`` and ``test/`` (or
        ``val/``), each with one folder per class.
    image_size : pixels of the side to which images are scaled; that of the dataset, see
        `usual_size`, if left out.

    Raises
    ------
    UserError : for an unknown name, missing or damaged files, labels of no class, a folder of
        another shape.
    """
    if image_size is not None and image_size < 1:
        raise UserError(f"images of {image_size}×{image_size} pixels are none; take 1 at least.")
    if looks_like_a_path(dataset):
        folder = Path(dataset).resolve()
        train, test = read_folder(folder, image_size or FOLDER_SIZE, device, progress)
        return train, test
    source = SOURCES[source_of(dataset)]
    size = image_size or source.image_size
    train, test = (_split(source, part, size, device) for part in _parts(source))
    return replace(train, augmentation=source.augmentation), test


def names_of(dataset: str) -> tuple[str, ...] | None:
    """The names of a dataset's classes, in the order of their numbers; None where nobody knows.

    Nobody looks into files for them: `dataset` is a key of `SOURCES`, or the path of a folder that
    is there.
    """
    return SOURCES[dataset].classes if dataset in SOURCES else class_names(Path(dataset))


def _parts(source: Source) -> Sequence[Images | Files]:
    """What a source reads, with labels that its classes have.

    Raises
    ------
    UserError : where its files are missing, or are another dataset's.
    """
    root = source.root and dataset_root(source.root)
    try:
        parts = source.read(root)
    except Missing as error:
        never = "" if source.downloaded else "nothing of its size is downloaded unasked; "
        raise UserError(
            f"the dataset {source.key} {error}, or {_name_its_folder(source)}; {never}the dataset "
            f"{without_files()} needs no files."
        ) from error
    for amiss in filter(None, (_amiss(part, source) for part in parts)):
        if root is None:
            raise ValueError(f"{source.key} is read wrongly: its parts {amiss}")
        raise UserError(
            f"the files of {source.key} in {root} {amiss}; put its own files there, or "
            f"{_name_its_folder(source)}."
        )
    return parts


def _name_its_folder(source: Source) -> str:
    variable = f"DATASET_ROOT_{source.root.upper()}"
    return f"name the folder that has them in {config_file()} or in {variable}"


def _amiss(part: Images | Files, source: Source) -> str | None:
    """What is wrong with a part: no images, or labels that none of its classes has."""
    labels, attributes = part.labels, are_attributes(part.labels)
    if not len(labels):
        return "have no images in one of the parts"
    classes = part.classes if isinstance(part, Files) else source.classes
    count = 2 if attributes else len(classes)
    if labels.min() >= 0 and labels.max() < count:
        return None
    kinds = "attributes are 0 or 1" if attributes else f"its {count} classes are 0 to {count - 1}"
    return f"have labels from {labels.min()} to {labels.max()}, but {kinds}"


def _split(source: Source, part: Images | Files, size: int, device: torch.device | str) -> AnySplit:
    usual = source.image_size
    note = (
        f"The images of {source.name} are scaled to {size}×{size} pixels, not to {usual}×{usual}."
    )
    notes = () if size == usual else (note,)
    labels = part.labels.to(device)
    if isinstance(part, Files):
        return StreamedSplit(
            name=source.name,
            paths=part.paths,
            labels=labels,
            classes=part.classes,
            square=Square(usual, source.shorter_side).at(size),
            source=source.key,
            workers=dataset_workers(),
            notes=(*part.notes, *notes),
        )
    # Images are kept at their size, unless that fills the memory: then they are scaled when asked.
    images, too_large = part.images, part.images[:, :, 0, 0].numel() * size**2 > MOST_IN_MEMORY
    return Split(
        name=source.name,
        images=(images if too_large else scaled(images, size)).to(device),
        labels=labels,
        classes=source.classes,
        source=source.key,
        notes=notes,
        size=size if too_large else None,
    )
