"""What a bare state dict is of: what the user says goes before what the folders above it say,
``…/<model>/<Dataset>/…``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_stitching import data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.data import SOURCES, source_of

SAY_IT = (
    "put it under <model>/<Dataset>/, or name both with -m and -d to `eval_net`, or to "
    "`convert_checkpoint`, which makes it a checkpoint."
)


@dataclass(frozen=True)
class Claim:
    """What the folders above a file say that is in it.

    Attributes
    ----------
    entry, dataset : the model and the key of the dataset that one of them is named for, if any.
    paired : whether they are a model's folder and a dataset's in that, as people lay out networks;
        else they may be called so by chance.
    """

    entry: models.Entry | None
    dataset: str | None
    paired: bool


def claim_of(path: Path) -> Claim:
    """What ``…/<model>/<Dataset>/…`` says: the deepest such pair, else the deepest names."""
    parts = path.absolute().parent.parts
    entries = [_entry_of(part) for part in parts]
    datasets = [_dataset_of(part) for part in parts]
    for entry, dataset in reversed(list(zip(entries, datasets[1:], strict=False))):
        if entry and dataset:
            return Claim(entry, dataset, True)
    return Claim(_last(entries), _last(datasets), False)


def _entry_of(folder: str) -> models.Entry | None:
    try:
        return models.entry_of_folder(folder)
    except UserError:
        return None


def _dataset_of(folder: str) -> str | None:
    try:
        return source_of(folder)
    except UserError:
        return None


def _last(values: Sequence[Any]) -> Any:
    return next((value for value in reversed(values) if value is not None), None)


def entry_for(path: Path, model: str | None, claim: Claim, notes: list[str]) -> models.Entry:
    """The model of a bare state dict: the one that is named, else the one of its folder."""
    if model is None:
        if claim.entry is None:
            raise UserError(f"{path} is a bare state dict and its path names no model; {SAY_IT}")
        return claim.entry
    entry = models.asked_for(model)
    if claim.entry is not None and claim.entry.name != entry.name:
        notes.append(
            f"{path} was read as {entry.name}, as `model` says, though its folder says "
            f"{claim.entry.name}."
        )
    return entry


def made_for(
    path: Path,
    model: str | None,
    dataset: str | None,
    claim: Claim,
    notes: list[str],
    otherwise: str | None = None,
) -> str:
    """What a bare state dict was made for.

    A dataset that is named with the model says it, before any folder. One that is named alone, of a
    network that lies in ``<model>/<Dataset>/``, is only what it is evaluated on, if its images have
    the same size. A folder of images says least: it is believed where the path says nothing, or
    nothing that fits its classes.

    Parameters
    ----------
    otherwise : what it was made for where nothing of this says it.
    """
    if dataset is None:
        if claim.dataset is None and otherwise is None:
            raise UserError(f"{path} is a bare state dict and its path names no dataset; {SAY_IT}")
        return claim.dataset or otherwise
    laid_out = claim.paired and model is None
    if dataset not in SOURCES:
        believed = claim.dataset and (laid_out or _share_names(claim.dataset, dataset))
        return claim.dataset if believed else dataset
    if laid_out:
        laid_out = SOURCES[claim.dataset].image_size == SOURCES[dataset].image_size
    made_for = claim.dataset if laid_out else dataset
    if claim.dataset not in (None, dataset):
        why = "as its folders say" if laid_out else "as `dataset` says, whatever its folders say"
        notes.append(f"{path} was taken for a network made for {made_for}, {why}.")
    return made_for


def _share_names(dataset: str, folder: str) -> bool:
    """Whether a folder of images has classes of a dataset, but for mere numbers."""
    own, theirs = (set(data.names_of(name) or ()) for name in (dataset, folder))
    return any(not name.isdecimal() for name in own & theirs)
