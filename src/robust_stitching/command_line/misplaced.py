"""Arguments that stand in each other's places: told apart before any of them is read."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from robust_stitching import models
from robust_stitching.basics.code import function_in
from robust_stitching.basics.errors import UserError
from robust_stitching.data import SOURCES, source_of, without_files

FILE, LAYER, DATASET, MODEL = "a network's file", "a layer", "a dataset", "a network's name"
PLACES = {
    "front_model": FILE,
    "end_model": FILE,
    "model1": FILE,
    "model2": FILE,
    "checkpoint": FILE,
    "front_layer": LAYER,
    "end_layer": LAYER,
    "dataset": DATASET,
    "eval_dataset": DATASET,
}
"""What belongs in the place of each argument without a flag."""

ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".pkl", ".safetensors")


@dataclass(frozen=True)
class Argument:
    """What stands in a place; `kind` is what it looks like, None for a word that may be a layer's
    name or a mistake."""

    place: str
    text: str
    kind: str | None

    @property
    def belongs(self) -> str:
        return PLACES[self.place]

    @property
    def is_no_file(self) -> bool:
        """Whether a file belongs here and this is the name of something else."""
        word = self.kind is None and not {os.sep, ":"} & set(self.text)
        other = word or self.kind in (DATASET, MODEL)
        return self.belongs == FILE and other and not Path(self.text).exists()

    @property
    def strayed(self) -> bool:
        """Whether this belongs in another place."""
        return self.kind in (FILE, DATASET) and self.kind != self.belongs


def check_places(args: argparse.Namespace, *places: str) -> None:
    """Look whether what stands in each of `places`, keys of `PLACES` in the order of the command,
    is what belongs there.

    Raises
    ------
    UserError : with the right order; for a network's name where its file belongs, with the command
        that trains it.
    """
    texts = {place: str(getattr(args, place)) for place in places}
    given = [Argument(place, text, looks_like(text)) for place, text in texts.items()]
    no_files = [argument for argument in given if argument.is_no_file]
    for argument in no_files:
        if argument.kind == MODEL:
            raise UserError(_train_first(argument.text, getattr(args, "dataset", None)))
    if all(a.kind == DATASET for a in given if a.belongs == DATASET) and not no_files:
        return  # a layer may have any name
    for argument in given:
        if argument.is_no_file or argument.strayed:
            raise UserError(_order(argument, [a.place.upper() for a in given]))


def looks_like(text: str) -> str | None:
    """What kind of argument a word is, where that can be seen."""
    if Path(text).is_file() or text.endswith(ENDINGS) or function_in(text):
        return FILE
    if models.is_name(text):
        return MODEL
    try:
        source_of(text)
    except UserError:
        return DATASET if Path(text).is_dir() else None
    return DATASET


def _order(argument: Argument, places: list[str]) -> str:
    what = f"looks like {argument.kind}" if argument.kind else "is none"
    order = f"; the order is {' '.join(places)}" if places[1:] else ""
    return (
        f"{argument.belongs} belongs in the place of {argument.place.upper()}, but "
        f"'{argument.text}' {what}{order}."
    )


def _train_first(name: str, dataset: str | None) -> str:
    """What to do where a network is named that has to be trained."""
    try:
        source = source_of(dataset or "")
    except UserError:
        source = without_files()
    left = f"snapshots/{models.entry(name).folder}/{SOURCES[source].name}/in0-gn0/model.pt"
    return (
        f"'{name}' is a network's name, and its file is needed: train it first, 'python "
        f"src/bin/train.py -m {name} -d {source}', and give what that leaves, {left}."
    )
