"""Networks that others wrote, made to take images in [0, 1] as ours do."""

from torch import Tensor, nn

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.modes import evaluating
from robust_stitching.models.answers import Place, logits_in, with_forward
from robust_stitching.models.layers import STATISTICS, Normalize

OURS = ("architecture", "input_shape")
"""Attributes that every network has here."""

NAMES = ("normalize", "normalize_images")
"""What the first layer is called: the second where a network has something of the first name."""


def adopted(network: nn.Module, channels: int, answer: Place = None) -> nn.Module:
    """`network` itself, made to normalise its images first, in a layer `normalize`.

    It becomes an instance of a class made on the spot, whose forward normalises and goes on as
    before. A wrapper around it would put a prefix before the name of every layer.

    Parameters
    ----------
    answer : where its logits are in what it returns, see `answers.place_of_logits`.

    Raises
    ------
    UserError : for a network whose forward was put on the object, where a class's does not count,
        for one that has attributes of its own under names that are needed, and for one whose
        `eval` leaves statistics moving.
    """
    _require_still(network)
    if "forward" in vars(network):
        raise UserError(
            f"the forward of this {type(network).__name__} was replaced on the object, which no "
            "copy of it would have; write a class that has it."
        )
    meant = isinstance(getattr(network, "architecture", None), dict)  # as ours, or made for us
    taken = [] if meant else [name for name in OURS if hasattr(network, name)]
    free = [name for name in NAMES if not hasattr(network, name)]
    if taken or not free:
        raise UserError(
            f"the network {type(network).__name__} has {' and '.join(taken or NAMES)} of its own, "
            "names that are needed here; call it otherwise."
        )
    theirs, name = type(network), free[0]

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        output = theirs.forward(_as_it_was(self, theirs, name), getattr(self, name)(x))
        return logits_in(output, answer)

    network.__class__ = with_forward(theirs, forward)
    setattr(network, name, Normalize(channels))
    return network


def _require_still(network: nn.Module) -> None:
    """Raise UserError where evaluation mode does not reach a module that keeps statistics."""
    with evaluating(network):
        modules = [(name, m) for name, m in network.named_modules() if m.training]
        kept = (name for name, m in modules if m._buffers.get(STATISTICS) is not None)
        moving = next(kept, None)
    if moving is not None:
        raise UserError(
            f"'{moving}' in the network {type(network).__name__} is in training mode also after "
            "`eval`, so its statistics would move and its answers depend on other images; let "
            "`eval` and `train` set its mode."
        )


def says_what_it_is(network: nn.Module) -> bool:
    """Whether a network has what those of the registry and stitched ones have."""
    said = getattr(network, "architecture", None)
    return isinstance(said, dict) and bool(said.keys() & {"num_classes", "front"})


def _as_it_was(network: nn.Module, theirs: type[nn.Module], name: str) -> nn.Module:
    """A view of an adopted network without the layer of that name: some go through all modules that
    they have, as `nn.Sequential` does."""
    view = object.__new__(theirs)
    kept = {key: module for key, module in network._modules.items() if key != name}
    view.__dict__ = vars(network) | {"_modules": kept}
    return view


def normalisation_of(network: nn.Module) -> tuple[str, Normalize]:
    """The layer by which a network normalises its images, and its name."""
    return next(
        (name, layer)
        for name in reversed(NAMES)
        if isinstance(layer := getattr(network, name, None), Normalize)
    )
