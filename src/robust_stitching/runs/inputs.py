"""The networks and data that a plan names: read, and checked against what it knows of them."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from robust_stitching import checkpoints, data
from robust_stitching.basics.code import functions_in
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit, notes_of
from robust_stitching.plans import DataRef, GridPlan, NetworkRef, StitchPlan
from robust_stitching.runs.listener import Listener

OF_NETWORKS = re.compile(r"(?<![\w.])(mean|std|weights|model)(?=[=`])")
"""Settings of a network, as sentences name them: ``mean=…`` or `` `mean` ``."""


def network_of(
    ref: NetworkRef,
    role: str,
    device: torch.device,
    dataset: str | None = None,
    otherwise: str | None = None,
) -> tuple[Checkpoint, NetworkRef]:
    """A network on its device, and how it is referred to once it is known.

    Parameters
    ----------
    role : what the plan calls it; sentences then say ``front.mean`` for ``mean``.
    dataset : what a bare state dict was made for.
    otherwise : the same, where nothing else says it.

    Raises
    ------
    UserError : see `checkpoints.load`, and where the file has changed since the plan was made.
    """

    def named(text: str) -> str:
        return OF_NETWORKS.sub(rf"{role}.\1", text)

    path = Path(ref.path)
    try:
        checkpoint = checkpoints.load(
            path,
            model=ref.model,
            dataset=dataset,
            mean=ref.mean,
            std=ref.std,
            weights=ref.weights,
            otherwise=otherwise and resolved(otherwise),
        )
    except UserError as error:
        raise UserError(named(str(error))) from error
    whole = hash_of(checkpoint)
    if ref.hash not in (None, whole):
        own = f", or its code by `{role}.model`" if functions_in(ref.model or "") else ""
        raise UserError(
            f"{path} holds another network than the {role} of the plan; name the file that it was "
            f"made with by `{role}.path`{own}."
        )
    known = replace(ref, path=str(path.resolve()), hash=whole, model=found_again(ref.model))
    return replace(checkpoint.to(device), notes=tuple(map(named, checkpoint.notes))), known


def hash_of(checkpoint: Checkpoint) -> str:
    """A text that differs where weights, architecture or the names of answers do."""
    network = checkpoint.network
    made = _without_files(network.architecture)
    said = json.dumps([made, checkpoint.class_names], sort_keys=True, default=str)
    about = torch.frombuffer(bytearray(said.encode()), dtype=torch.uint8)
    return checkpoints.fingerprint(about, *network.state_dict().values())


def _without_files(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """An architecture in which the hash of the user's own code stands for where it lies."""
    return {
        name: _without_files(value) if isinstance(value, Mapping) else value
        for name, value in architecture.items()
        if name != "model" or "code" not in architecture
    }


def found_again(model: str | None) -> str | None:
    """A model as plans keep it: files of the user's own code by their whole paths."""
    own = functions_in(model or "")
    return ",".join(str(f._replace(path=f.path.resolve())) for f in own) if own else model


def resolved(name: str) -> str:
    """A dataset as plans and checkpoints keep it: a folder by its whole path, else a key."""
    return str(Path(name).resolve()) if data.looks_like_a_path(name) else data.source_of(name)


def data_of(
    ref: DataRef,
    device: torch.device,
    *networks: Checkpoint,
    image_size: int | None = None,
    progress: Progress = silent,
) -> tuple[AnySplit, AnySplit, DataRef]:
    """Both splits of a dataset at the size of the networks' images, and how it is referred to once
    it is known.

    Raises
    ------
    UserError : see `data.load`; where networks take images of different sizes, and where the files
        have changed since the plan was made.
    """
    if networks:
        image_size = _common_size(*networks)
    name = resolved(ref.name)
    train, test = data.load(name, device, progress, image_size)
    whole = hash_of_data(train, test)
    if ref.hash not in (None, whole):
        raise UserError(
            f"the images of {name} are others than those of the plan; name the folder that it was "
            "made with by `dataset.name`."
        )
    return train, test, DataRef(name, whole)


def _common_size(first: Checkpoint, *others: Checkpoint) -> int:
    size = first.network.input_shape[-1]
    for other in others:
        theirs = other.network.input_shape[-1]
        if theirs != size:
            raise UserError(
                f"{first.called} takes images of {size}×{size} pixels and {other.called} of "
                f"{theirs}×{theirs}, but both have to see the same ones; train one of them at the "
                "size of the other (`image_size` of `train`)."
            )
    return size


def hash_of_data(train: AnySplit, test: AnySplit) -> str:
    """Differs where images, labels, their size or classes do, or the usual choices of a dataset."""
    known = train.source if train.source in data.SOURCES else ""
    said = json.dumps([known, train.classes, train.image_size]).encode()
    about = torch.frombuffer(bytearray(said), dtype=torch.uint8)
    return checkpoints.fingerprint(about, *train.content, *test.content)


class Inputs(NamedTuple):
    """What a stitch, or a grid of them, works on; the plan knows it by its content."""

    plan: Any
    front: Checkpoint
    end: Checkpoint
    train: AnySplit
    test: AnySplit
    elsewhere: AnySplit | None


def pair_of(plan: StitchPlan | GridPlan, device: torch.device, listener: Listener) -> Inputs:
    """The networks and data that a plan names; what was noted of the data is told.

    Raises
    ------
    UserError : see `network_of` and `data_of`.
    """
    front, known_front = network_of(plan.front, "front", device, otherwise=plan.dataset.name)
    end, known_end = network_of(plan.end, "end", device, otherwise=plan.dataset.name)
    looked_at, progress = (device, front, end), listener.progress
    train, test, dataset = data_of(plan.dataset, *looked_at, progress=progress)
    elsewhere, other = None, None
    if plan.eval_dataset is not None:
        _, elsewhere, other = data_of(plan.eval_dataset, *looked_at, progress=progress)
    plan = replace(plan, front=known_front, end=known_end, dataset=dataset, eval_dataset=other)
    listener.tell(*notes_of(train, test, elsewhere))
    return Inputs(plan, front, end, train, test, elsewhere)
