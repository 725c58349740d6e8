"""A sweep: a file of TOML that says which networks, pairs and options, and the plans it comes to.

A list multiplies: every pair is stitched once for each combination of the values of all lists.
Which options there are is read off the plans.
"""

import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from robust_stitching.basics.code import functions_in
from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.basics.files import slug
from robust_stitching.data import SOURCES
from robust_stitching.plans.actions import ComparePlan, GridPlan, TrainPlan
from robust_stitching.plans.options import check_keys, idle_in, options_of, plan_of
from robust_stitching.plans.parts import CELLS, DataRef, NetworkRef
from robust_stitching.plans.settings import Kind, Settings, kind_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # the same, before it came with Python

Plan = TypeVar("Plan", bound=Settings)

OWN = ("name", "dataset", "eval_dataset", "pairs", "layers", "networks", "compare")
LONGEST_KEY = 80
"""Bytes of a network's key: names of files have two of them and more, and 255 bytes at most."""

LAYERS = tuple(cells for cells in CELLS if cells != "pairs")


@dataclass(frozen=True)
class Asked:
    """One plan of a sweep.

    Attributes
    ----------
    front, end : keys of its networks.
    options : what the lists say for it: name to value.
    """

    front: str
    end: str
    options: dict[str, Any]
    plan: GridPlan | ComparePlan


@dataclass(frozen=True)
class Sweep:
    """What a file asks for.

    Attributes
    ----------
    text, values : the file, and what it says.
    name : of the folder of results.
    files, trainings : the networks by their keys: those that lie in files, and those to be trained.
    asked : the plans; a network that is to be trained is in them as a file that its key names.
    """

    text: str
    values: dict[str, Any]
    name: str
    files: dict[str, NetworkRef]
    trainings: dict[str, TrainPlan]
    asked: tuple[Asked, ...]


def read(path: Path) -> Sweep:
    """The sweep in a file of TOML; paths in it count from its folder.

    Raises
    ------
    UserError : where it cannot be read, and for unknown keys and values that are none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"the plan {path} cannot be read ({error.strerror}).") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        told = str(error).rstrip(".")
        raise UserError(f"{path} is no TOML ({told}); correct it there.") from error
    try:
        return _understood(text, values, path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def said_differently(before: str, now: Sweep) -> list[str]:
    """What the text of an earlier sweep says otherwise: "`epochs` was 3 and is 5"."""
    try:
        earlier = tomllib.loads(before)
    except tomllib.TOMLDecodeError:
        return []
    return [
        f"`{key}` was {earlier.get(key)} and is {now.values.get(key)}"
        for key in dict.fromkeys((*earlier, *now.values))
        if key != "name"  # which is that of the folder, said or not
        if earlier.get(key) != now.values.get(key)
    ]


def _understood(text: str, values: dict[str, Any], path: Path) -> Sweep:
    known, folder = options_of(GridPlan), path.parent
    check_keys("key", values, (*OWN, *known))
    data = {key: _dataset(values, key, folder) for key in ("dataset", "eval_dataset")}
    if data["dataset"] is None:
        raise UserError("it lacks 'dataset'; name one, such as dataset = \"digits\".")
    networks = {
        key: _network(key, said, folder, values["dataset"])
        for key, said in _table(values, "networks").items()
    }
    trainings = {key: plan for key, plan in networks.items() if isinstance(plan, TrainPlan)}
    files = {key: ref for key, ref in networks.items() if isinstance(ref, NetworkRef)}
    refs = files | {key: NetworkRef(key) for key in trainings}
    pairs = _pairs(values, refs)
    said = {key: value for key, value in values.items() if key in known}
    layers = _layers(values.get("layers", LAYERS[0]), said)
    combined = list(_multiplied(GridPlan, said, layers | data))
    _require_seeds_apart([plan for _, plan in combined])
    asked = [
        Asked(front, end, options, replace(plan, front=refs[front], end=refs[end]))
        for front, end in pairs
        for options, plan in combined
    ]
    if "compare" in values:
        said = _table(values, "compare")
        check_keys("key in compare:", said, options_of(ComparePlan))
        compared = list(_multiplied(ComparePlan, said, {"dataset": data["dataset"]}))
        asked += [
            Asked(front, end, options, replace(plan, model1=refs[front], model2=refs[end]))
            for front, end in pairs
            for options, plan in compared
        ]
    name = values.get("name", path.stem)
    if not isinstance(name, str):
        raise UserError(f'name={name!r} is not a text; write name = "{path.stem}".')
    return Sweep(text, values, name, files, trainings, tuple(asked))


def _table(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise UserError(f"{key}={table!r} is not a table; write it under [{key}].")
    return table


def _dataset(values: Mapping[str, Any], key: str, folder: Path) -> DataRef | None:
    name = values.get(key)
    return None if name is None else DataRef(_dataset_path(key, name, folder))


def _dataset_path(key: str, name: Any, folder: Path) -> str:
    """A dataset's key as it is, whatever lies beside the plan; a folder by its path from here."""
    if not isinstance(name, str):
        raise UserError(f"{key}={name!r} is not a text; name one dataset.")
    if name.lower() in SOURCES:
        return name
    below = _path(folder, name)
    return str(below) if below.is_dir() else name


def _path(folder: Path, said: str) -> Path:
    if "\0" in said:
        raise UserError(f"{said!r} has a NUL in it, which no path can have; leave that out.")
    return (folder / said).resolve()


def _network(key: str, said: Any, folder: Path, dataset: str) -> NetworkRef | TrainPlan:
    """What stands for a network: its file, or how to train it."""
    if not key or slug(key) != key or key.startswith("."):
        raise UserError(
            f"the network's key {key!r} is no plain folder name; use letters, digits, '_' and '-'."
        )
    if len(os.fsencode(key)) > LONGEST_KEY:
        raise UserError(
            f"the network's key {key[:20]!r}… has more than {LONGEST_KEY} bytes; take a shorter "
            "one."
        )
    try:
        if isinstance(said, str):
            return NetworkRef(str(_path(folder, said)))
        if not isinstance(said, dict):
            raise UserError("name its file, or say how to train it, { model = … }.")
        said = dict(said)
        if isinstance(said.get("model"), str):
            own = functions_in(said["model"])
            paths = (f._replace(path=_path(folder, str(f.path))) for f in own)
            said["model"] = ",".join(map(str, paths)) or said["model"]
        if "path" in said:
            read = [own.name for own in fields(NetworkRef) if own.name != "hash"]
            check_keys("key", said, tuple(read))
            if not isinstance(said["path"], str):
                raise UserError(f"path={said['path']!r} is not a text; name a file.")
            return NetworkRef(**said | {"path": str(_path(folder, said["path"]))})
        check_keys("key", said, ("dataset", *options_of(TrainPlan)))
        said["dataset"] = DataRef(_dataset_path("dataset", said.pop("dataset", dataset), folder))
        return plan_of(TrainPlan, said)
    except UserError as error:
        raise UserError(f"network {key}: {error}") from error


def _pairs(values: Mapping[str, Any], networks: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = values.get("pairs")
    right = isinstance(pairs, list) and pairs != []
    if not right or not all(
        isinstance(p, list) and len(p) == 2 and all(isinstance(key, str) for key in p)
        for p in pairs
    ):
        raise UserError(
            f'pairs={pairs!r} is no list of pairs of networks; write pairs = [["A", "B"]].'
        )
    for key in itertools.chain(*pairs):
        if key not in networks:
            raise unknown("network", key, networks, "Say under [networks] what it is.")
    return list(dict.fromkeys(map(tuple, pairs)))


def _layers(said: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Which cells of the grid are stitched, as settings of its plan."""
    if said in LAYERS:
        return {"cells": said}
    if clash := [key for key in ("front_layers", "end_layers") if key in options]:
        raise UserError(f"layers={said!r} says which layers; leave {clash[0]} out.")
    if isinstance(said, list) and said and all(isinstance(name, str) for name in said):
        return {"cells": "all", "front_layers": tuple(said), "end_layers": tuple(said)}
    if isinstance(said, list) and said and all(_is_cell(cell) for cell in said):
        fronts, ends = zip(*said, strict=True)
        return {"cells": "pairs", "front_layers": fronts, "end_layers": ends}
    raise UserError(
        f"layers={said!r} is neither {' nor '.join(map(repr, LAYERS))}, nor a list of names, nor "
        "one of [front, end]."
    )


def _is_cell(cell: Any) -> bool:
    return isinstance(cell, list) and len(cell) == 2 and all(isinstance(c, str) for c in cell)


def _multiplied(
    owner: type[Plan], said: Mapping[str, Any], fixed: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], Plan]]:
    """Every combination of what is said, as the values of the lists, and a plan without networks.

    What says nothing beside the others, as the radius of an attack where there is none, does not
    multiply; what does so in no combination is refused.
    """
    known, nobody = options_of(owner), NetworkRef("?")
    choices = {name: _choices(name, known[name], value) for name, value in said.items()}
    networks = {
        own.name: nobody for own in fields(owner) if kind_of(owner, own.name).type is NetworkRef
    }
    combined = [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ]
    idle = [idle_in(options) for options in combined]
    for name in said:
        if all(name in unused for unused in idle):
            raise UserError(f"{name} {idle[0][name]}")
    seen = set()
    for options, unused in zip(combined, idle, strict=True):
        used = {name: value for name, value in options.items() if name not in unused}
        plan = plan_of(owner, used | dict(fixed) | networks)
        if plan not in seen:
            seen.add(plan)
            yield {name: value for name, value in used.items() if len(choices[name]) > 1}, plan


def _require_seeds_apart(plans: Sequence[GridPlan]) -> None:
    """Raise UserError where two plans that are alike otherwise make one seed both."""
    alike: dict[GridPlan, list[GridPlan]] = {}
    for plan in plans:
        others = alike.setdefault(replace(plan, seed=0, seeds=1), [])
        for other in others:
            if plan.seed < other.seed + other.seeds and other.seed < plan.seed + plan.seeds:
                raise UserError(
                    f"seed={other.seed} with seeds={other.seeds} and seed={plan.seed} with "
                    f"seeds={plan.seeds} make seed {max(plan.seed, other.seed)} twice; leave "
                    "`seeds` out, or choose seeds that are further apart."
                )
        others.append(plan)


def _choices(name: str, kind: Kind, value: Any) -> list[Any]:
    """The values that an option takes in turn: those of a list, where the option is none itself;
    then those of a list of lists."""
    several = isinstance(value, list)
    if kind.type is tuple:
        several = several and value != [] and all(isinstance(item, list) for item in value)
    if several and not value:
        raise UserError(f"{name}=[] has no value; name one, or leave {name} out.")
    return list(value) if several else [value]
