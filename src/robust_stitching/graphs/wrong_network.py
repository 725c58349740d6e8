"""A layer that the other of two networks has: what to say besides that it is unknown."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from torch import nn

from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.graph import graph_of

Asked = tuple[str, nn.Module, Sequence[str] | None]
"""What a network is called, the network, and the layers that are asked of it."""


@contextmanager
def telling_whose_layer(first: Asked, second: Asked) -> Iterator[None]:
    """Let a refusal within the block say, too, which layers belong to the other network."""
    try:
        yield
    except UserError as error:
        found: list[str] = []
        with suppress(UserError):  # a network without a graph has no layers to look for
            graphs = [graph_of(network).layers for _, network, _ in (first, second)]
            for (_, _, layers), own, other, name in (
                (first, *graphs, second[0]),
                (second, *reversed(graphs), first[0]),
            ):
                strayed = [layer for layer in layers or () if layer not in own and layer in other]
                found += [f"'{layer}' is a layer of {name}." for layer in strayed]
        if not found:
            raise
        raise UserError(" ".join([str(error), *found])) from error
