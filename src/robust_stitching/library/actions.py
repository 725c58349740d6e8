"""What is done with networks: evaluate, attack, compare, stitch, and report a stitch."""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robust_stitching import similarity
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.modes import usual_settings
from robust_stitching.basics.progress import Progress, shown, silent
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit
from robust_stitching.evaluation import Accuracy
from robust_stitching.evaluation import evaluate as measure
from robust_stitching.evaluation.known import Robustness
from robust_stitching.evaluation.misread import signs
from robust_stitching.evaluation.pair import look_at
from robust_stitching.evaluation.robustness import robustness
from robust_stitching.evaluation.suites import suite, threat_on
from robust_stitching.library.images import load_data
from robust_stitching.library.networks import network as as_network
from robust_stitching.plans import (
    AttackPlan,
    DataRef,
    EvaluatePlan,
    GridPlan,
    NetworkRef,
    from_flat,
    stitching,
)
from robust_stitching.report.grid.files import draw as draw_grid
from robust_stitching.report.stitch.pdf import draw
from robust_stitching.similarity import Comparison
from robust_stitching.stitching.files import write_files
from robust_stitching.stitching.grid import files as grid_files
from robust_stitching.stitching.grid.record import as_record as as_grid_record
from robust_stitching.stitching.grid.run import GridResult, stitch_grid
from robust_stitching.stitching.once import DonorScores
from robust_stitching.stitching.record import as_record
from robust_stitching.stitching.run import StitchResult
from robust_stitching.stitching.run import stitch as run_stitch

IN_MEMORY = NetworkRef("in memory")
"""The network of plans that are made to check what was said besides."""

AnyNetwork = Checkpoint | nn.Module
"""What `network` or `load` returned, or a module of which everything can be found out."""

Splits = str | tuple[AnySplit, AnySplit]
"""A dataset by its name or folder, or a training and a test split."""


@usual_settings()
def evaluate(
    network: AnyNetwork, images: str | AnySplit, *, batch_size: int = 500, progress: bool = False
) -> Accuracy:
    """Loss and accuracy of a network.

    Parameters
    ----------
    images : a dataset by its name or folder, of which the test images are taken, or a split; its
        classes are matched to the network's answers by name.
    progress : show bars with rates and times, on a terminal.

    Raises
    ------
    UserError : see `Checkpoint.answerable`.
    """
    EvaluatePlan(checkpoint=IN_MEMORY, batch_size=batch_size)  # which checks what was said
    (checkpoint,), split = _looked_up(images, [network])
    split, notes = checkpoint.answerable(split)
    accuracy = measure(checkpoint.network, split, batch_size, _bar(progress))
    _doubt(*notes, *signs(checkpoint, split, accuracy.accuracy, accuracy.loss))
    return accuracy


@usual_settings()
def attack(
    network: AnyNetwork,
    images: str | AnySplit,
    *,
    tier: str = "default",
    norm: str = "linf",
    epsilon: float | None = None,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 250,
    progress: bool = False,
) -> Robustness:
    """Attack every image that a network gets right; `accuracies()` of what is returned are those
    that are left, by attack and in the worst case.

    Parameters
    ----------
    images, progress : as those of `evaluate`.
    tier : "quick", "gradient", "default" or "standard", see `suites.suite`.
    epsilon : the radius, in pixel space; the usual one of the dataset and the norm if left out.
    steps, step_size, restarts : of the attacks, see `suites.suite`.

    Raises
    ------
    UserError : see `Checkpoint.answerable` and `suites.suite`.
    """
    asked = {"tier": tier, "norm": norm, "epsilon": epsilon, "steps": steps, "restarts": restarts}
    asked |= {"step_size": step_size, "seed": seed, "batch_size": batch_size}
    AttackPlan(checkpoint=IN_MEMORY, **asked)  # which checks what was said
    (checkpoint,), split = _looked_up(images, [network])
    split, notes = checkpoint.answerable(split)
    attacks = suite(
        tier,
        threat_on(split, epsilon, norm),
        len(split.classes),
        steps=steps,
        step_size=step_size,
        restarts=restarts,
        attributes=split.attributes,
    )
    settings = {"seed": seed, "batch_size": batch_size, "progress": _bar(progress)}
    known = robustness(checkpoint.network, split, attacks, **settings)
    _doubt(*notes, *known.warnings, *signs(checkpoint, split, known.clean_accuracy()))
    return known


@usual_settings()
def compare(
    network1: AnyNetwork,
    network2: AnyNetwork,
    images: str | AnySplit,
    *,
    layers1: Sequence[str] | None = None,
    layers2: Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    progress: bool = False,
    **settings: Any,
) -> Comparison:
    """Compare the layers of two networks, all with all, and their answers.

    Parameters
    ----------
    images, progress : as those of `evaluate`.
    layers1, layers2 : the clean cuts if left out.
    measures : their names, or "all"; the usual ones if left out.
    settings : `batch_size`, `k`, `positions` and `seed`, as those of `similarity.compare`.

    Raises
    ------
    UserError : see `similarity.compare`.
    """
    (first, second), split = _looked_up(images, [network1, network2])
    first.require_images(split)
    second.require_images(split)
    pair = look_at((first, second), split, progress=_bar(progress))
    _doubt(*pair.notes)
    return similarity.compare(
        *(first.network, second.network, split, layers1, layers2, measures),
        order=pair.order,
        progress=_bar(progress),
        **settings,
    )


@usual_settings()
def stitch(
    front: AnyNetwork,
    end: AnyNetwork,
    front_layer: str,
    end_layer: str,
    images: Splits,
    *,
    elsewhere: str | AnySplit | None = None,
    progress: bool = False,
    warn: Callable[..., None] = lambda *notes: None,
    donors: DonorScores | None = None,
    **settings: Any,
) -> StitchResult:
    """Stitch the front of one network to the end of another, and measure what that shows.

    Parameters
    ----------
    front_layer, end_layer : the one whose activation is mapped, and the one whose activation the
        map replaces, as `layers` names them.
    images : what the map is trained and measured on: a dataset by its name or folder, or a training
        and a test split.
    elsewhere : other images that it is measured on, too.
    progress : show bars with rates and times, on a terminal.
    warn : is given what is to be doubted of the networks, before anything is trained.
    donors : give the same to stitches of one pair at several layers, and what is measured of the
        two networks alone is measured once.
    settings : those of `find_transform`, by their names: ``epochs=5, init="ps_inv", l1=0.1``; see
        `plans.Stitching` and its parts.

    Raises
    ------
    UserError : for an unknown setting or layer, choices that exclude each other or do not fit the
        networks, images or classes that do not; Diverged when training does.
    """
    _check_hearers(warn, donors)
    plan = stitching(front_layer, end_layer, **settings)
    pair, (train, test) = _pair_of(images, [front, end])
    other = None if elsewhere is None else _looked_up(elsewhere, pair)[1]
    return run_stitch(*pair, train, test, plan, _bar(progress), other, warn, donors=donors)


@usual_settings()
def stitch_map(
    front: AnyNetwork,
    end: AnyNetwork,
    images: Splits,
    *,
    elsewhere: str | AnySplit | None = None,
    progress: bool = False,
    warn: Callable[..., None] = lambda *notes: None,
    donors: DonorScores | None = None,
    **settings: Any,
) -> GridResult:
    """Stitch every layer of one network to every layer of another in one pass, and measure what
    each stitch shows; `GridResult.table` has the numbers, layer by layer.

    Parameters
    ----------
    images, elsewhere, progress, warn, donors : as those of `stitch`.
    settings : those of `stitch_map`, by their names: ``front_layers=("bn1", "bn3")``,
        ``cells="diagonal"``, ``seeds=3``, ``controls=True``; see `plans.GridPlan` and its parts.

    Raises
    ------
    UserError : as `stitch`. A stitch that diverges ends alone, see `Cell.error`.
    """
    _check_hearers(warn, donors)
    for name in settings.keys() & {"dataset", "eval_dataset"}:
        raise UserError(f"`{name}` names files of a plan; give images, and `elsewhere`, instead.")
    given = {"front": IN_MEMORY, "end": IN_MEMORY, "dataset": DataRef("in memory")}
    plan = from_flat(GridPlan, given | settings)
    pair, (train, test) = _pair_of(images, [front, end])
    other = None if elsewhere is None else _looked_up(elsewhere, pair)[1]
    return stitch_grid(*pair, train, test, plan, _bar(progress), other, warn, donors=donors)


@usual_settings()
def write_report(
    result: StitchResult | GridResult, folder: str | Path, command: str | None = None
) -> dict[str, Path]:
    """Write what a stitch, or a map of stitches, found into a new folder: the report for people,
    the numbers as JSON, the trained maps, and the stitched network where files can say how its
    donors are made.

    Parameters
    ----------
    command : what the report says that asked for it.

    Returns
    -------
    kind of file to path: "pdf", "json", "matrix", "frank_model"; of a map "pdf", "html", "csv",
    "json", "figures", "maps", "frank_models".

    Raises
    ------
    UserError : where the folder exists, or something is not what it should be; then there is none.
    """
    if not isinstance(result, StitchResult | GridResult):
        raise UserError(f"result is what `stitch` or `stitch_map` returned, not {result!r:.60}.")
    for name, value, kinds in (("folder", folder, str | Path), ("command", command, str | None)):
        if not isinstance(value, kinds):
            raise UserError(f"{name}={value!r:.60} is no text.")
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already; choose another folder, or remove it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name[:100]}.", dir=folder.parent) as made:
        whole = Path(made) / "report"
        if isinstance(result, GridResult):
            record = as_grid_record(result, command or "robust_stitching.stitch_map(…)")
            paths = grid_files.write_files(result, record, whole) | draw_grid(whole)
        else:
            record = as_record(result, command or "robust_stitching.stitch(…)")
            paths = write_files(result, record, whole) | {"pdf": draw(whole)}
        whole.rename(folder)
    return {kind: folder / path.relative_to(whole) for kind, path in paths.items()}


def _bar(progress: bool) -> Progress:
    return shown if progress else silent


def _check_hearers(warn: Any, donors: Any) -> None:
    if not callable(warn):
        raise UserError(f"warn={warn!r:.60} is no function of sentences; leave it out.")
    if not isinstance(donors, DonorScores | None):
        raise UserError(f"donors={donors!r:.60} is no `DonorScores()`; leave it out, or give one.")


def _doubt(*notes: str) -> None:
    """Warn of what is to be doubted, as Python does: once for each place and text."""
    for note in notes:
        warnings.warn(note, stacklevel=4)  # where the function that is decorated was called


def _device_of(checkpoint: Checkpoint) -> torch.device:
    return next(checkpoint.network.parameters(), torch.empty(0)).device


def _networks(
    given: Sequence[AnyNetwork], dataset: str | None, size: int | None = None
) -> list[Checkpoint]:
    """Networks as they were given; of modules is found out what `network` can, from the images that
    they are about to be shown."""
    known = [n.network.input_shape[-1] for n in given if isinstance(n, Checkpoint)]
    size = size or (known[0] if known else None)
    return [
        n if isinstance(n, Checkpoint) else as_network(n, image_size=size, dataset=dataset)
        for n in given
    ]


def _pair_of(
    images: Splits, given: Sequence[AnyNetwork]
) -> tuple[list[Checkpoint], tuple[AnySplit, AnySplit]]:
    """Networks, and the training and test images that they are about to be shown, on the device of
    the last."""
    if isinstance(images, str):
        checkpoints = _networks(given, images)
        splits = load_data(images, image_size=checkpoints[0].network.input_shape[-1])
    else:
        if not _are_splits(images):
            raise UserError(
                f"images are a dataset's name, or a training and a test split, not {images!r:.60}."
            )
        splits = images
        checkpoints = _networks(given, None, splits[0].image_size)
    device = _device_of(checkpoints[-1])
    return [c.to(device) for c in checkpoints], tuple(split.to(device) for split in splits)


def _are_splits(images: Any) -> bool:
    parts = images if isinstance(images, tuple | list) else ()
    return len(parts) == 2 and all(isinstance(part, AnySplit) for part in parts)


def _looked_up(
    images: str | AnySplit, given: Sequence[AnyNetwork]
) -> tuple[list[Checkpoint], AnySplit]:
    """Networks, and the images that they are about to be shown: the test images of a dataset."""
    if isinstance(images, AnySplit):
        images = (images, images)
    checkpoints, (_, split) = _pair_of(images, given)
    return checkpoints, split
