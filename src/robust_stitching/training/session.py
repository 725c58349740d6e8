"""Training a network into its folder of snapshots: log, intermediate snapshots, resuming."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import TEMPORARY, NotWritten, claimed, replacing
from robust_stitching.basics.locks import Locked, locked
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.basics.signals import interruptions_noted
from robust_stitching.checkpoints.fitting import require_finite
from robust_stitching.checkpoints.published import flattened
from robust_stitching.training.examiner import Examiner
from robust_stitching.training.objectives import Adversary, objective_of
from robust_stitching.training.optimisation import TrainingConfig
from robust_stitching.training.trainer import Diverged, EpochRecord, Trainer

FINISHED, UNFINISHED, LOG = "model.pt", "resume.pt", "training_log.csv"


@dataclass(frozen=True)
class TrainingPlan:
    """A training that train.py can be asked for.

    Attributes
    ----------
    model : a name of the registry.
    dataset : a key of `data.SOURCES`, or the path of a folder.
    init_noise : seed of the initialisation; the seed of the order is `config.seed`.
    adversary : the attack of adversarial training; None for standard training.
    augment : whether training images are augmented, as their dataset has it.
    image_size : pixels of the side that images are scaled to; None takes that of the dataset.
    save_frequency : iterations between intermediate snapshots.
    """

    model: str
    dataset: str
    config: TrainingConfig
    init_noise: int = 0
    save_frequency: int = 10000
    adversary: Adversary | None = None
    augment: bool = True
    image_size: int | None = None

    def folder(self, out: Path, dataset: str) -> Path:
        """``<out>/<model>/<Dataset>/in<i>-gn<g>``; kind and radius of an adversarial training
        stand behind, so that it never meets a standard one."""
        name = f"in{self.init_noise}-gn{self.config.seed}"
        if self.adversary:
            name += f"-{self.adversary.label}"
        return out / models.entry(self.model).folder / dataset / name

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the checkpoints."""
        return {"kind": self.adversary.kind if self.adversary else "standard", **asdict(self)}


@dataclass(frozen=True)
class Trained:
    """A finished training: its network's file and its log."""

    path: Path
    history: list[EpochRecord]


def train_network(
    plan: TrainingPlan,
    out: Path,
    device: torch.device,
    resume: bool = False,
    progress: Progress = silent,
    after_epoch: Callable[[list[EpochRecord]], None] = lambda history: None,
    tell: Callable[[str], None] = lambda note: None,
) -> Trained:
    """Train a network and keep it in ``<out>/<model>/<Dataset>/in<i>-gn<g>/``.

    An interruption (Ctrl-C, SIGTERM, SIGHUP) is answered after the step under way: the state is
    kept in ``resume.pt``, as it is after every epoch, and KeyboardInterrupt is raised. The folder
    is locked meanwhile, and what is in it is whole even if the process is killed.

    Parameters
    ----------
    resume : go on from ``resume.pt``; the end is bit for bit that of an uninterrupted training.
    tell : is given what people should know of the images, in sentences.

    Raises
    ------
    UserError : when the folder holds a training already, is trained into by another process, cannot
        be written, or was begun with another plan; Diverged, with the last good snapshot kept.
    """
    models.entry(plan.model)
    train, test = data.load(plan.dataset, device, progress, plan.image_size)
    plan = replace(plan, image_size=train.image_size)
    notes = list(dict.fromkeys((*train.notes, *test.notes)))
    for note in notes:
        tell(note)
    record = {**plan.as_dict(), "notes": notes}
    if not plan.augment:
        train = replace(train, augmentation=None)
    folder = plan.folder(out, train.name)
    with _own(folder, resume), interruptions_noted() as interrupted:
        mean, std = train.statistics()
        network = models.build(
            plan.model,
            num_classes=len(train.classes),
            in_channels=train.channels,
            image_size=train.image_size,
            mean=mean,
            std=std,
            seed=plan.init_noise,
        )
        network = models.placed(network, device)

        examiner = Examiner(test, plan.adversary)
        objective = objective_of(plan.adversary, network, plan.config.iterations_on(train))
        trainer = Trainer(network, objective, train, plan.config, evaluate=examiner)
        unfinished = folder / UNFINISHED
        if resume and unfinished.exists():
            trainer.load_state_dict(_state_of(plan, unfinished))

        def keep_state() -> None:
            checkpoints.write(unfinished, {"plan": plan.as_dict(), "trainer": trainer.state_dict()})
            _write_log(folder / LOG, trainer.history)

        def on_step(trainer: Trainer) -> None:
            if trainer.iteration % plan.save_frequency == 0:
                trainer.check_weights()
                snapshot = folder / f"{trainer.iteration}.pt"
                checkpoints.save(snapshot, network, plan.dataset, record, train.classes)
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
            history = trainer.run(on_step, on_epoch, progress, before_failing)
            _write_log(folder / LOG, history)  # a killed training may have kept its state alone
            _refuse_a_finished_one(folder)
            training = {**record, "test_accuracy": history[-1].test_accuracy}
            checkpoints.save(folder / FINISHED, network, plan.dataset, training, train.classes)
        except Diverged as error:
            raise Diverged(f"{error} {_what_is_kept(folder)}") from error
        except NotWritten as error:
            again = " The same command with --resume goes on." if unfinished.exists() else ""
            raise NotWritten(f"{error} {_what_is_kept(folder)}{again}") from error
        except data.Unreadable as error:
            if not unfinished.exists():
                raise
            kept = f"The training so far is kept in {unfinished}: --resume goes on from there."
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
            "(-i, -g) or another folder (-o)."
        ) from error


def _refuse_a_finished_one(folder: Path) -> None:
    if (folder / FINISHED).exists():
        raise UserError(
            f"{folder / FINISHED} exists already; choose other seeds (-i, -g) or another folder "
            "(-o), or remove it."
        )


def _refuse_what_is_there(folder: Path, resume: bool) -> None:
    _refuse_a_finished_one(folder)
    if not resume and any(folder.glob("*.pt")):
        raise UserError(
            f"{folder} holds an unfinished training; go on with --resume, or remove the folder."
        )


def _state_of(plan: TrainingPlan, unfinished: Path) -> dict[str, Any]:
    """The trainer's state in `unfinished`, if it was begun with the same plan."""
    found = checkpoints.read(unfinished)
    if not isinstance(found, dict) or not {"plan", "trainer"} <= found.keys():
        raise UserError(f"{unfinished} holds no state of a training; remove the folder.")
    state = {".".join(keys): value for keys, value in flattened(found).items()}
    require_finite(state, unfinished)
    # Earlier versions knew one size of a dataset's images, and did not name it.
    known = {"image_size": data.usual_size(plan.dataset)} | found["plan"]
    before, now = _flat(known), _flat(plan.as_dict())
    changed = [
        f"{key} was {before.get(key)} and is {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"{unfinished} was begun with other settings ({'; '.join(changed)}); resume with "
            "the same ones, or remove the folder."
        )
    return found["trainer"]


def _flat(plan: dict[str, Any]) -> dict[str, Any]:
    parts = [plan["config"], plan["adversary"] or {}]
    own = {key: value for key, value in plan.items() if key not in ("config", "adversary")}
    return {key: value for part in (*parts, own) for key, value in part.items()}


def _what_is_kept(folder: Path) -> str:
    kept = sorted(p.name for p in folder.glob("*.pt"))
    return f"Kept in {folder}: {', '.join(kept)}." if kept else "No snapshot had been kept yet."


def _write_log(path: Path, history: list[EpochRecord]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(EpochRecord)])
        writer.writeheader()
        writer.writerows(asdict(record) for record in history)
