"""Which cells of a grid lie on its diagonal: a layer, and what is its counterpart in the other
network."""

from collections.abc import Mapping, Sequence

Pair = tuple[str, str]
"""A layer of the front and one of the end."""

STEP = 9
"""Digits of a depth: what differs by less is as deep."""


def diagonal(
    cells: Sequence[Pair], fronts: Mapping[str, float], ends: Mapping[str, float]
) -> list[Pair]:
    """Those on the diagonal, by depth: the cells themselves where they are pairs that somebody
    chose; else those of one name; or, where no names are the same, each layer of the side that has
    fewer with the one of the other side that is nearest in depth, the first of two.

    Parameters
    ----------
    cells : those that there are.
    fronts, ends : the layers of the cells to their depths, see `stages.depths`.
    """
    found = [cell for cell in cells if cell[0] == cell[1]]
    if len(cells) <= max(len(fronts), len(ends)) and len(cells) < len(fronts) * len(ends):
        found = list(cells)
    if not found:
        few, many = sorted((fronts, ends), key=len)
        nearest = [(layer, _nearest(depth, many)) for layer, depth in few.items()]
        pairs = nearest if few is fronts else [(own, other) for other, own in nearest]
        found = [pair for pair in pairs if pair in cells]
    return sorted(found, key=lambda cell: (fronts[cell[0]], ends[cell[1]]))


def _nearest(depth: float, layers: Mapping[str, float]) -> str:
    def distance(layer: str) -> tuple[float, float]:
        return round(abs(layers[layer] - depth), STEP), layers[layer]

    return min(layers, key=distance)
