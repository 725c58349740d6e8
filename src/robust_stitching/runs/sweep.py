"""A sweep on this machine: its plans completed by what files say, and its folder made ready.

Every mistake that can be seen beforehand is told here, before anything is written.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import claimed, replacing
from robust_stitching.basics.locks import locked
from robust_stitching.basics.names import Names
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit
from robust_stitching.plans import (
    ComparePlan,
    DataRef,
    GridPlan,
    NetworkRef,
    TrainPlan,
    as_values,
    identity,
)
from robust_stitching.plans.places import MODEL, NETWORKS, PLAN, PLANS, UNITS, plan_in
from robust_stitching.plans.settings import Settings
from robust_stitching.plans.sweep import Sweep, said_differently
from robust_stitching.runs.inputs import data_of, found_again, network_of
from robust_stitching.runs.units import Unit, units_in
from robust_stitching.similarity.deciding import prepared
from robust_stitching.stitching.check import (
    check_fit,
    check_images,
    check_robustness,
    check_target,
    check_terms,
)
from robust_stitching.stitching.grid.cells import Cuts, cuts_of
from robust_stitching.stitching.grid.run import check_cells
from robust_stitching.stitching.run import DEBUG_BATCHES

CPU = torch.device("cpu")
WAIT = 60.0
"""Seconds to wait for others who prepare the same folder."""


@dataclass(frozen=True)
class Known:
    """A network of a sweep: as it is, or as it will be when it is trained.

    Attributes
    ----------
    ref : how plans refer to it; without a hash before it is trained.
    named : the same for names of folders, where its training stands for what it leaves.
    """

    checkpoint: Checkpoint
    ref: NetworkRef
    named: NetworkRef


class Resolved:
    """A sweep whose networks and data were looked at.

    Attributes
    ----------
    units : all of them, the trainings of networks first.

    Raises
    ------
    UserError : for files that are not there, networks that do not fit the data or each other's
        layers, and settings that exclude each other.
    """

    def __init__(self, sweep: Sweep, folder: Path):
        self.sweep, self.folder = sweep, folder
        self._splits: dict[tuple[str, int], tuple[AnySplit, AnySplit, DataRef]] = {}
        self._networks: dict[str, Known] = {}
        self._cuts: dict[tuple, Cuts] = {}
        trainings = [self._training(key, plan) for key, plan in sweep.trainings.items()]
        for key, ref in sweep.files.items():
            checkpoint, known = network_of(ref, f"networks.{key}", CPU, otherwise=self._dataset)
            self._networks[key] = Known(checkpoint, known, known)
        self.units = [*trainings, *self._pairs()]
        self._networks.clear()  # a sweep may take days, and units read their own
        self._splits.clear()
        self._cuts.clear()

    @property
    def _dataset(self) -> str:
        return self.sweep.asked[0].plan.dataset.name

    def _training(self, key: str, plan: TrainPlan) -> Unit:
        """The unit that trains a network, of which only the layers are known yet."""
        entry = models.asked_for(plan.model)
        train, _, data = data_of(plan.dataset, CPU, image_size=plan.image_size)
        plan = replace(plan, model=found_again(plan.model), code=entry.code, dataset=data)
        plan = replace(plan, image_size=train.image_size)
        network = models.build(
            entry,
            num_classes=len(train.classes),
            in_channels=train.channels,
            image_size=train.image_size,
        ).eval()
        own = {"classes": len(train.classes), "class_names": train.classes, "path": None}
        checkpoint = Checkpoint(network, f"the network {key}", data.name, **own)
        path = str(self.folder.resolve() / NETWORKS / key / MODEL)
        ref = NetworkRef(path, model=plan.model if entry.code else None)
        self._networks[key] = Known(checkpoint, ref, replace(ref, hash=identity(plan)))
        return Unit(self.folder, NETWORKS, key, plan, parameters=_size(checkpoint))

    def _pairs(self) -> list[Unit]:
        units, names = {}, Names()
        for asked in self.sweep.asked:
            pair = front, end = self._networks[asked.front], self._networks[asked.end]
            plan = self._checked(asked.plan, front.checkpoint, end.checkpoint)
            roles = ("front", "end") if isinstance(plan, GridPlan) else ("model1", "model2")
            named = replace(plan, **dict(zip(roles, (one.named for one in pair), strict=True)))
            plan = replace(plan, **dict(zip(roles, (one.ref for one in pair), strict=True)))
            name = names.of(asked.front, asked.end, identity(named)[:8])
            keys = dict.fromkeys((asked.front, asked.end))
            units[name] = Unit(
                self.folder,
                UNITS,
                name,
                plan,
                tuple(key for key in keys if key in self.sweep.trainings),
                {
                    "number": len(units),
                    "front": asked.front,
                    "end": asked.end,
                    "options": asked.options,
                },
                _size(front.checkpoint) + _size(end.checkpoint),
            )
        return list(units.values())

    def _data(self, ref: DataRef, *networks: Checkpoint) -> tuple[AnySplit, AnySplit, DataRef]:
        key = ref.name, networks[0].network.input_shape[-1]
        if key not in self._splits or len({n.network.input_shape[-1] for n in networks}) > 1:
            self._splits[key] = data_of(ref, CPU, *networks)
        return self._splits[key]

    def _checked(self, plan: Settings, front: Checkpoint, end: Checkpoint) -> Settings:
        """A plan with its data known, after a look whether it can be carried out."""
        train, test, data = self._data(plan.dataset, front, end)
        plan = replace(plan, dataset=data)
        if isinstance(plan, ComparePlan):
            split = test if plan.split == "test" else train
            if plan.n_images is not None:
                split = split.sample(plan.n_images, plan.seed)
            asked = (front.network, end.network, split, plan.layers1, plan.layers2, plan.measures)
            sizes = {"batch_size": plan.batch_size, "k": plan.neighbours}
            prepared(*asked, **sizes, positions=plan.positions)
            return plan
        splits = [test]
        if plan.eval_dataset is not None:
            _, elsewhere, other = self._data(plan.eval_dataset, front, end)
            end.require_fit(elsewhere)
            plan = replace(plan, eval_dataset=other)
            splits.append(elsewhere)
        check_fit(front, end, train)
        check_target(plan.objective, front, train)
        check_terms(plan.objective, plan.training.batch_size)
        check_images(plan, train)
        if not plan.measured.no_robustness:
            check_robustness(plan.measured, *splits)
        few = train.sample(DEBUG_BATCHES * plan.training.batch_size) if plan.debug else train
        check_cells(self._cuts_of(plan, front, end), plan, front.network, few)
        return plan

    def _cuts_of(self, plan: GridPlan, front: Checkpoint, end: Checkpoint) -> Cuts:
        """The cells of a plan, looked for once for all those of the same networks and layers."""
        key = id(front), id(end), plan.cells, plan.front_layers, plan.end_layers
        if key not in self._cuts:
            self._cuts[key] = cuts_of(plan, front.network, end.network)
        return self._cuts[key]

    def require_own(self) -> None:
        """Raise UserError where the folder is that of another sweep; one that this adds to is its
        own."""
        now = {(unit.kind, unit.name): unit for unit in self.units}
        # In this order: who makes the folder meanwhile writes units before anything else.
        others = [path for path in self.folder.glob("[!.]*") if not _is_begun(path)]
        kept = units_in(self.folder)
        for before in kept:
            unit = now.get((before.kind, before.name))
            if unit is None or (unit.kind == NETWORKS and unit.plan_differs()):
                changed = self._changed(before)
                raise UserError(
                    f"{self.folder} is of another sweep, which has {before.name}{changed}; "
                    "choose another `name`, or remove that folder: only what adds units goes on "
                    "in it."
                )
        begun = kept or (self.folder / PLAN).is_file()
        if others and not begun:
            raise UserError(
                f"{self.folder} exists already and holds no sweep; choose another `name`, or "
                "remove that folder."
            )

    def _changed(self, before: Unit) -> str:
        """What this sweep has otherwise than that of a unit in the folder, in brackets."""
        changed = self._replaced(before)
        with suppress(OSError, UnicodeDecodeError):
            text = (self.folder / PLAN).read_text(encoding="utf-8")
            changed += said_differently(text, self.sweep)
        return f" ({'; '.join(changed)})" if changed else ""

    def _replaced(self, before: Unit) -> list[str]:
        """The files that hold something else than when a unit in the folder was planned."""
        was = _contents(before.about, plan_in(before.plan_file)["plan"])
        now: dict[str, str] = {}
        for unit in self.units:
            now |= _contents(unit.about, as_values(unit.plan))
        return [
            f"{what} than when the units there were planned"
            for what, content in was.items()
            if now.get(what, content) != content
        ]

    def prepare(self) -> None:
        """Make the folder ready: the sweep's text, and a file for each unit."""
        with claimed(self.folder), locked(self.folder, WAIT):
            self.require_own()
            for unit in self.units:
                unit.write()
            with replacing(self.folder / PLAN) as temporary:
                temporary.write_text(self.sweep.text, encoding="utf-8")


def _is_begun(path: Path) -> bool:
    """Whether a sweep that has written nothing else yet leaves such a folder."""
    return path.name == PLANS and {own.name for own in path.glob("*")} <= {NETWORKS, UNITS}


def _contents(about: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, str]:
    """What to say of the files of a unit where they have changed, to the hash of what they hold;
    without those of networks that are trained."""
    sides = (("front", "front"), ("end", "end"), ("model1", "front"), ("model2", "end"))
    found = {
        f"the file of the network {about.get(key)} holds another network": plan[side].get("hash")
        for side, key in sides
        if side in plan
    }
    found |= {
        f"the {name} {plan[name]['name']} holds other images": plan[name].get("hash")
        for name in ("dataset", "eval_dataset")
        if plan.get(name)
    }
    return {what: content for what, content in found.items() if content is not None}


def _size(checkpoint: Checkpoint) -> int:
    return sum(parameter.numel() for parameter in checkpoint.network.parameters())
