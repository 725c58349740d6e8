"""A stitched ("frank") network: two donors and the map between them, as one graph."""

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs import graph
from robust_stitching.graphs.kinds import layer_between
from robust_stitching.graphs.norms import keeps_statistics
from robust_stitching.graphs.transform import Form
from robust_stitching.models.probe import attribute


class StitchedNetwork(fx.GraphModule):
    """The front of one network, a `StitchingLayer`, the end of another.

    Its children are ``front``, ``transform`` and ``end`` with only the modules that are used; they
    are copies, the donors stay as they are. Only the transformation requires a gradient.

    Parameters
    ----------
    front, end : networks of the registry, or stitched ones.
    front_layer, end_layer : the activation that is mapped, and the one that the map replaces.
    freeze_statistics : in training mode, keep the running statistics of the donors' batch norms
        and normalise by them. By default they move while a stitch is trained; weights never do.
    form : which maps it is chosen from; linear ones of channels if left out.

    Raises
    ------
    UserError : for unknown layers, networks for images that do not fit each other, or a network
        without one of the attributes `probe.NEEDED`.
    """

    def __init__(
        self,
        front: nn.Module,
        front_layer: str,
        end: nn.Module,
        end_layer: str,
        freeze_statistics: bool = False,
        form: Form | None = None,
    ):
        transform = layer_between(
            graph.layout_of(front, front_layer, "front layer"),
            graph.layout_of(end, end_layer, "end layer"),
            form,
        )
        joined = graph.join(front, front_layer, end, end_layer, transform)
        super().__init__(joined, joined.graph, class_name="StitchedNetwork")
        # A copy of a GraphModule keeps `meta` and loses other attributes.
        self.meta.update(
            architecture={
                "front": attribute(front, "architecture"),
                "front_layer": front_layer,
                "end": attribute(end, "architecture"),
                "end_layer": end_layer,
                "transform": transform.form.as_dict(),
            },
            freeze_statistics=freeze_statistics,
        )
        # A grey image fits a colour network, not the other way round.
        fed = min(front.input_shape, end.input_shape) if self.leaks else front.input_shape
        self.meta["input_shape"] = fed
        self.requires_grad_(False)
        self.transform.requires_grad_(True)

    @property
    def architecture(self) -> dict[str, Any]:
        """Plain values from which `rebuild` makes the same network again, without weights."""
        return self.meta["architecture"]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.meta["input_shape"]

    @property
    def leaks(self) -> bool:
        """Whether a skip connection of the end network lets the image pass by the map."""
        (image,) = (n for n in self.graph.nodes if n.op == "placeholder")
        (mapped,) = (n for n in self.graph.nodes if n.target == "transform")
        (output,) = (n for n in self.graph.nodes if n.op == "output")
        return image in graph.needed([output], stop=mapped)

    def watching(self, layers: Sequence[str]) -> nn.Module:
        """A function of images that gives the activations at some layers."""
        return graph.features(self, layers)

    def train(self, mode: bool = True) -> "StitchedNetwork":
        """Training mode for the map and, unless frozen, for the donors' batch norms; everything
        else of the donors (dropout) stays in evaluation mode."""
        super().train(mode)
        for name, donor in self.named_children():
            if name != "transform":
                let_move(donor, mode and not self.meta.get("freeze_statistics", False))
        return self


def let_move(donor: nn.Module, moving: bool) -> None:
    """Evaluation mode for all of a donor but, where they are to move, its batch norms."""
    for module in donor.modules():
        module.training = moving and keeps_statistics(module)


def rebuild(architecture: dict[str, Any]) -> nn.Module:
    """The network that an `architecture` describes, with weights that are still to be loaded."""
    if "model" in architecture:
        return models.rebuilt(architecture)
    if "front" not in architecture:
        raise UserError(f"the checkpoint describes a network of an unknown kind: {architecture}.")
    return StitchedNetwork(
        rebuild(architecture["front"]),
        architecture["front_layer"],
        rebuild(architecture["end"]),
        architecture["end_layer"],
        form=Form(**architecture.get("transform", {})),
    )
