"""A network with what its file says of it, and whether it can be asked about some images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.checkpoints import class_names
from robust_stitching.checkpoints.class_names import Matching
from robust_stitching.data import AnySplit


@dataclass(frozen=True)
class Checkpoint:
    """A network with what is known of it, from a file or as it lives in memory.

    Attributes
    ----------
    network : with its weights, on the CPU, in evaluation mode.
    model : its name in the registry, or "front-end" of a stitched one.
    dataset : what it was trained on: a key of `data.SOURCES`, or the path of a folder; None where
        nobody said.
    classes : how many it tells apart.
    training : how it was trained, plain values; empty where unknown.
    path : the file; None for a network in memory.
    class_names : of its answers, in their order; None where they are not known.
    notes : what a reader of its numbers has to know, in sentences: what was guessed.
    """

    network: nn.Module
    model: str
    dataset: str | None
    classes: int
    path: Path | None
    training: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def called(self) -> str:
        """What sentences call it: its file, or its name."""
        return str(self.path or self.model)

    @property
    def stitched(self) -> bool:
        """Whether it is a stitched network rather than a trained one."""
        return "front" in self.network.architecture

    def as_dict(self) -> dict[str, Any]:
        """What a report says of it, plain values."""
        return {
            "path": self.path and str(self.path),
            "model": self.model,
            "dataset": self.dataset,
            "classes": self.classes,
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "training": self.training,
        }

    def to(self, device: torch.device) -> "Checkpoint":
        """The same on another device, in the layout in which convolutions are fastest."""
        models.placed(self.network, device)
        return self

    def matching(self, split: AnySplit) -> Matching:
        """Which class of `split`, which has as many, each of the network's answers stands for: by
        name, or by number where the network does not know its names."""
        return class_names.matched(self.class_names or split.classes, split.classes)

    def shares_classes(self, split: AnySplit) -> bool:
        """Whether a class of `split`, which has as many, is called as one of the network's."""
        return len(self.matching(split).renamed) < self.classes

    def answerable(self, split: AnySplit) -> tuple[AnySplit, list[str]]:
        """`split` with its classes in the order of the network's answers, and a sentence where they
        could not all be matched by name.

        Raises
        ------
        UserError : unless the network can be asked about these images, and answers in as many
            classes.
        """
        self.require_fit(split)
        matching, notes = self.matching(split), []
        if matching.renamed:
            notes.append(
                f"The classes of {split.name} have other names than those of {self.called}: taken "
                f"were {matching}. Its accuracy means something only where these are the same."
            )
        if self.class_names is None and self.dataset != split.source:
            notes.append(
                f"{self.called} does not say what its {self.classes} classes are called: they were "
                f"taken for those of {split.name} in their order."
            )
        in_order = matching.order == tuple(range(self.classes))
        return split if in_order else split.relabelled(matching.order), notes

    def require_fit(self, split: AnySplit) -> None:
        """Raise UserError unless the network can be asked about the images of `split`, and answers
        in its classes."""
        self.require_images(split)
        if len(split.classes) != self.classes:
            raise UserError(
                f"{self.called} tells {self.classes} classes apart, but {split.name} has "
                f"{len(split.classes)}; choose a dataset with {self.classes} classes."
            )

    def require_images(self, split: AnySplit) -> None:
        """Raise UserError unless the network can be shown the images of `split`.

        Grey images fit a colour network, which spreads them over its channels.
        """
        channels, *_, size = self.network.input_shape
        if split.image_size != size:
            raise UserError(
                f"{self.called} takes images of {size}×{size} pixels, but those of {split.name} "
                f"have {split.image_size}×{split.image_size}; choose a dataset of its size, or "
                "train a network on this one with `train`."
            )
        if split.channels > channels:
            raise UserError(
                f"{self.called} takes grey images, but {split.name} is in colour; "
                "choose a grey dataset."
            )


def name_of(architecture: Mapping[str, Any]) -> str:
    """How a network is called in tables and file names."""
    if "model" in architecture:
        return architecture["model"]
    return f"{name_of(architecture['front'])}-{name_of(architecture['end'])}"
