"""Networks in files of ours that functions of the user's own make: by which code, named again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robust_stitching import models
from robust_stitching.basics.code import functions_in
from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints.checkpoint import name_of


def made_by(
    architecture: Mapping[str, Any], model: str, path: Path, notes: list[str]
) -> dict[str, Any]:
    """An architecture whose networks of the user's own are made by the code that `model` names.

    Parameters
    ----------
    model : functions, with commas between them.
    path : of the file that has the architecture.
    notes : is told of code that has changed since.

    Raises
    ------
    UserError : for a name of the registry, and for a function that made none of these networks.
    """
    entries = [models.asked_for(str(own)) for own in functions_in(model)]
    used: set[str | None] = set()

    def renewed(part: Mapping[str, Any]) -> dict[str, Any]:
        if "front" in part:
            return {**part, "front": renewed(part["front"]), "end": renewed(part["end"])}
        entry = _maker(part, entries)
        if entry is None:
            return dict(part)
        if entry.code != part["code"]:
            notes.append(
                f"{entry.name} has another text than the {part['model']} that {path} was made "
                "with: its numbers are right only where the network is the same."
            )
        used.add(entry.code)
        return {**part, "model": entry.name, "code": entry.code}

    again = renewed(architecture)
    unused = [entry.name for entry in entries if entry.code not in used]
    if unused or not entries:
        raise UserError(
            f"{path} says itself what model it is, {name_of(architecture)}; leave "
            f"model={','.join(unused) or model!r} out."
        )
    return again


def _maker(part: Mapping[str, Any], entries: Sequence[models.Entry]) -> models.Entry | None:
    """The one that made a network: that of the same code, else that of the same function."""
    if "code" not in part:
        return None
    same = [entry for entry in entries if entry.code == part["code"]]
    alike = [entry for entry in entries if _function(entry.name) == _function(part["model"])]
    return next(iter((*same, *alike)), None)


def _function(name: str) -> str:
    return name.rpartition(":")[2]
