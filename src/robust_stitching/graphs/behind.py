"""Many stitches behind one front: what the front makes of images does not depend on the map, so it
is computed once for all cells of a row of the grid, and for all rows in one pass."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from robust_stitching.graphs import graph
from robust_stitching.graphs.graph import graph_of, needed
from robust_stitching.graphs.stitched import StitchedNetwork, let_move


class SharedFront(nn.Module):
    """The activations of one network at many layers, computed once for each batch.

    It has batch norms of its own, that move, or are frozen, as those of a `StitchedNetwork`; the
    network stays as it is.

    Parameters
    ----------
    freeze_statistics : see `StitchedNetwork`.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], freeze_statistics: bool = False):
        super().__init__()
        self.layers, self.freeze_statistics = tuple(layers), freeze_statistics
        self.piece = graph.features(network, self.layers, moving=True).requires_grad_(False)
        self._seen: tuple[Tensor, int, bool] | None = None
        self._activations: tuple[Tensor, ...] = ()
        self.eval()

    def train(self, mode: bool = True) -> "SharedFront":
        self.training = mode
        let_move(self.piece, mode and not self.freeze_statistics)
        return self

    def at(self, layer: str, images: Tensor) -> Tensor:
        """The activation of a layer; all of them are computed for the first that is asked for."""
        now = images, images._version, self.training
        if self._seen is None or self._seen[0] is not images or self._seen[1:] != now[1:]:
            self._activations, self._seen = self.piece(images), now
        return self._activations[self.layers.index(layer)]

    def forget(self) -> None:
        """Keep no activations any more."""
        self._activations, self._seen = (), None

    def give_statistics(self, network: StitchedNetwork) -> None:
        """Set those of a stitched network's front to those that were gathered here."""
        own = dict(self.piece.named_buffers())
        for name, values in network.named_buffers():
            if name in own:
                values.copy_(own[name])


def alike(network: nn.Module, layers: Sequence[str]) -> list[list[str]]:
    """Layers in groups within which one pass moves statistics as a pass to each layer by itself
    would: a module that is called again behind a layer goes on moving what it keeps."""
    groups: list[tuple[dict[int, set[fx.Node]], list[str]]] = []
    for layer in layers:
        uses = _uses_of_buffers(network, layer)
        for known, some in groups:
            if all(known[key] == uses[key] for key in known.keys() & uses.keys()):
                known |= uses
                some.append(layer)
                break
        else:
            groups.append((uses, [layer]))
    return [some for _, some in groups]


def _uses_of_buffers(network: nn.Module, layer: str) -> dict[int, set[fx.Node]]:
    """By the identity of a buffer, the operations up to a layer that it is used in."""
    uses: dict[int, set[fx.Node]] = {}
    nodes = needed([graph_of(network).node(layer)])
    for node in nodes:
        if node.op == "call_module":
            for buffer in network.get_submodule(node.target).buffers():
                uses.setdefault(id(buffer), set()).add(node)
        elif node.op == "get_attr":
            owner, _, name = node.target.rpartition(".")
            value = getattr(network.get_submodule(owner), name, None)
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                uses.setdefault(id(value), set()).update(nodes & node.users.keys())
    return uses


class Behind(nn.Module):
    """A stitched network whose front is shared. It answers as that would, bit for bit on a CPU.

    Attributes
    ----------
    stitched : the whole network, with the map that is trained. Its front's statistics are not those
        that have moved here before `settle` is called.
    """

    def __init__(self, stitched: StitchedNetwork, front: SharedFront, layer: str):
        super().__init__()
        self.stitched, self.front, self.layer = stitched, front, layer
        self.tail = graph.behind(stitched, "transform")

    @property
    def transform(self) -> nn.Module:
        """The map."""
        return self.stitched.transform

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.stitched.input_shape

    def forward(self, images: Tensor) -> Tensor:
        return self.tail(images, self.front.at(self.layer, images))

    def mapped(self, images: Tensor) -> Tensor:
        """The activations behind the map alone."""
        return self.transform(self.front.at(self.layer, images))

    def watching(self, layers: Sequence[str]) -> "Watching":
        """A function of images that gives the activations at layers behind the map."""
        return Watching(graph.features(self.stitched, layers), self)

    def train(self, mode: bool = True) -> "Behind":
        self.training = mode
        self.stitched.train(mode)
        self.front.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What training changes: the map and the statistics of the end."""
        whole = self.stitched.state_dict(*args, **kwargs)
        kept = [name for name, p in self.stitched.named_parameters() if p.requires_grad]
        kept += [name for name, _ in self.stitched.named_buffers() if name.startswith("end.")]
        return {name: whole[name] for name in kept}

    def load_state_dict(self, state: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return self.stitched.load_state_dict(self.stitched.state_dict() | state)

    def settle(self) -> StitchedNetwork:
        """The whole network, in evaluation mode, as if it had been trained by itself."""
        self.front.give_statistics(self.stitched)
        return self.stitched.eval()


class Watching:
    """What a stitched network has at some layers, computed behind the shared front."""

    def __init__(self, piece: fx.GraphModule, cell: Behind):
        self.tail, self.cell = graph.behind(piece, f"{graph.FRONT}transform"), cell

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.tail(images, self.cell.front.at(self.cell.layer, images))
