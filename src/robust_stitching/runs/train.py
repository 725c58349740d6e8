"""Training a network into its folder of snapshots: log, plan, intermediate snapshots, resuming."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import TEMPORARY, NotWritten, claimed, replacing, write_json
from robust_stitching.basics.locks import Locked, locked
from robust_stitching.basics.origin import commit, versions
from robust_stitching.basics.signals import interruptions_noted
from robust_stitching.checkpoints.fitting import masks_of, require_finite
from robust_stitching.checkpoints.published import flattened
from robust_stitching.plans import TrainPlan, as_values, differences, from_values
from robust_stitching.runs.inputs import data_of, found_again
from robust_stitching.runs.listener import NOBODY, Listener
from robust_stitching.training import Diverged, EpochRecord, Trainer, objective_of
from robust_stitching.training.adversarial import warnings_of
from robust_stitching.training.examiner import Examiner
from robust_stitching.training.optimisation import iterations_on

FINISHED, UNFINISHED = "model.pt", "resume.pt"
LOG, REPORT = "training_log.csv", "training.json"


@dataclass(frozen=True)
class Trained:
    """A finished training: its network's file, its log, and whether it was there before."""

    path: Path
    history: list[EpochRecord]
    reused: bool = False


def run(
    plan: TrainPlan,
    out: Path,
    device: torch.device,
    listener: Listener = NOBODY,
    *,
    folder: Path | None = None,
    resume: bool = False,
    reuse: bool = False,
    after_epoch: Callable[[list[EpochRecord]], None] = lambda history: None,
) -> Trained:
    """Train a network and keep it in ``<out>/<model>/<Dataset>/in<i>-gn<g>/``, beside its log and
    the plan that made it.

    An interruption (Ctrl-C, SIGTERM, SIGHUP) is answered after the step under way: the state is
    kept in ``resume.pt``, as it is after every epoch, and KeyboardInterrupt is raised. The folder
    is locked meanwhile, and what is in it is whole even if the process is killed.

    Parameters
    ----------
    listener : hears of it meanwhile.
    folder : where it is kept instead.
    resume : go on from ``resume.pt``; the end is bit for bit that of an uninterrupted training.
    reuse : where the folder holds the network of the same plan, that is the result.
    after_epoch : is given the log so far.

    Raises
    ------
    UserError : when the folder holds a training already, is trained into by another process, cannot
        be written, or was begun with another plan; Diverged, with the last good snapshot kept.
    """
    entry = models.asked_for(plan.model)
    if plan.code not in (None, entry.code):
        raise UserError(
            f"the code of {plan.model} is another than that of the plan; name the file that it was "
            "made with by `model`."
        )
    plan = replace(plan, model=found_again(plan.model), code=entry.code)
    listener.warn(*warnings_of(plan.adversary))
    train, test, dataset = data_of(
        plan.dataset, device, image_size=plan.image_size, progress=listener.progress
    )
    plan = replace(plan, dataset=dataset, image_size=train.image_size)
    notes = data.notes_of(train, test)
    listener.tell(*notes)
    if plan.no_augmentation:
        train = replace(train, augmentation=None)
    folder = folder or out / entry.folder / train.name / plan.label
    if reuse and (folder / FINISHED).exists():
        _require_same(plan, folder / FINISHED)
        return Trained(folder / FINISHED, _read_log(folder / LOG), reused=True)
    with _own(folder, resume), interruptions_noted() as interrupted:
        mean, std = train.statistics()
        network = models.build(
            entry,
            num_classes=len(train.classes),
            in_channels=train.channels,
            image_size=train.image_size,
            mean=mean,
            std=std,
            seed=plan.init_noise,
        )
        if entry.code:
            models.require_trainable(network)
        network = models.placed(network, device)
        iterations, seed = iterations_on(train, plan.training), plan.gradient_noise
        trainer = Trainer(
            network,
            objective_of(plan.adversary, network, iterations, seed=seed),
            train,
            plan.training,
            evaluate=Examiner(test, plan.adversary, seed),
            seed=seed,
        )
        said = {
            "kind": plan.adversary.kind if plan.adversary else "standard",
            "plan": as_values(plan),
            "precision": trainer.precision,
            "notes": notes,
        }
        unfinished = folder / UNFINISHED
        if resume and unfinished.exists():
            trainer.load_state_dict(_state_of(plan, trainer, unfinished))

        def keep_state() -> None:
            state = {"plan": said["plan"], "precision": trainer.precision}
            checkpoints.write(unfinished, state | {"trainer": trainer.state_dict()})
            _write_log(folder / LOG, trainer.history)

        def keep_network(name: str, **more: Any) -> None:
            checkpoints.save(folder / name, network, dataset.name, said | more, train.classes)

        def on_step(trainer: Trainer) -> None:
            if trainer.iteration % plan.save_frequency == 0:
                trainer.check_weights()
                keep_network(f"{trainer.iteration}.pt")
            if interrupted():
                keep_state()
                raise KeyboardInterrupt

        def on_epoch(trainer: Trainer) -> None:
            keep_state()
            after_epoch(trainer.history)

        def before_failing(trainer: Trainer) -> None:
            if trainer.iteration:
                keep_state()

        try:
            history = trainer.run(on_step, on_epoch, listener.progress, before_failing)
            _write_log(folder / LOG, history)  # a killed training may have kept its state alone
            _refuse_a_finished_one(folder)
            accuracy = {"test_accuracy": history[-1].test_accuracy}
            origin = {"versions": versions(device), "commit": commit()}
            write_json(folder / REPORT, said | accuracy | origin)
            keep_network(FINISHED, **accuracy)
        except Diverged as error:
            raise Diverged(f"{error} {_what_is_kept(folder)}") from error
        except NotWritten as error:
            again = " The same with `resume` goes on." if unfinished.exists() else ""
            raise NotWritten(f"{error} {_what_is_kept(folder)}{again}") from error
        except data.Unreadable as error:
            if not unfinished.exists():
                raise
            kept = f"The training so far is kept in {unfinished}: `resume` goes on from there."
            raise data.Unreadable(f"{error} {kept}") from error
        unfinished.unlink(missing_ok=True)
    return Trained(folder / FINISHED, history)


@contextmanager
def _own(folder: Path, resume: bool) -> Iterator[None]:
    """The folder of a training, for this process alone. What a killed one had written halfway is
    removed."""
    try:
        with claimed(folder), locked(folder):
            _refuse_what_is_there(folder, resume)
            for half in folder.glob(f"{TEMPORARY}*"):
                half.unlink(missing_ok=True)
            yield
    except Locked as error:
        raise UserError(
            f"{folder} is being trained into by {error.holder}; wait for it, or choose other seeds "
            "(`init_noise`, `gradient_noise`) or another folder (`out_dir`)."
        ) from error


def _refuse_a_finished_one(folder: Path) -> None:
    if (folder / FINISHED).exists():
        raise UserError(
            f"{folder / FINISHED} exists already; choose other seeds (`init_noise`, "
            "`gradient_noise`) or another folder (`out_dir`), remove it, or take it as it is "
            "(`reuse`)."
        )


def _refuse_what_is_there(folder: Path, resume: bool) -> None:
    _refuse_a_finished_one(folder)
    if not resume and any(folder.glob("*.pt")):
        raise UserError(
            f"{folder} holds an unfinished training; go on with `resume`, or remove the folder."
        )


def _require_same(plan: TrainPlan, finished: Path) -> None:
    """Raise UserError unless a finished network was trained by the same plan."""
    training = checkpoints.load(finished, model=plan.code and plan.model).training
    if "plan" not in training:
        raise UserError(f"{finished} does not say by which plan it was trained; remove `reuse`.")
    _refuse_another(plan, training["plan"], finished, "was trained")


def _refuse_another(plan: TrainPlan, values: Any, path: Path, how: str) -> None:
    before = from_values(TrainPlan, values, f"the plan in {path}")
    changed = differences(before, plan)
    if changed:
        raise UserError(
            f"{path} {how} with other settings ({'; '.join(changed)}); take the same ones, or "
            "remove the folder."
        )


def _state_of(plan: TrainPlan, trainer: Trainer, unfinished: Path) -> dict[str, Any]:
    """The state of `trainer` in `unfinished`, if it was begun with the same plan."""
    kept = checkpoints.read(unfinished)
    if not isinstance(kept, dict) or not {"plan", "precision", "trainer"} <= kept.keys():
        raise UserError(
            f"{unfinished} holds no state of a training that this version can go on with; remove "
            "the folder."
        )
    state = {
        ".".join(keys): value for keys, value in flattened({"trainer": kept["trainer"]}).items()
    }
    masks = {f"trainer.network.{name}" for name in masks_of(trainer.network)}
    require_finite(state, unfinished, masks)
    _refuse_another(plan, kept["plan"], unfinished, "was begun")
    precision = trainer.precision
    if kept["precision"] != precision:
        raise UserError(
            f"{unfinished} was begun in {kept['precision']} and would go on in {precision}; say "
            f"precision={kept['precision']!r}, or remove the folder."
        )
    return kept["trainer"]


def _what_is_kept(folder: Path) -> str:
    kept = sorted(p.name for p in folder.glob("*.pt"))
    return f"Kept in {folder}: {', '.join(kept)}." if kept else "No snapshot had been kept yet."


def _write_log(path: Path, history: list[EpochRecord]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(EpochRecord)])
        writer.writeheader()
        writer.writerows(asdict(record) for record in history)


def _read_log(path: Path) -> list[EpochRecord]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(file)]
    return [EpochRecord(**row) for row in rows]


def _number(text: str) -> float | int | None:
    return None if text == "" else int(text) if text.isdecimal() else float(text)
