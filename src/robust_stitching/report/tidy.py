"""The numbers of a record, a line each: what they are of, what they are, their interval."""

from collections.abc import Mapping, Sequence
from typing import Any

from robust_stitching.stitching.record import NETWORKS

NUMBER = ("network", "quantity", "value", "low", "high", "n_images")
BOTH = ""
"""In the place of a network: a number of both, at the layers."""
INTERVAL = "_interval"
AT_THE_CUT = ("cka", "debiased_cka", "l2")
NO_QUANTITIES = ("n_images",)


def numbers_of(record: Mapping[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """What was measured of a stitch on one dataset; quantities are called behind the prefix."""
    images = (record.get("data") or {}).get("n_images")
    attacked = (record.get("attacks") or {}).get("n_images")
    numbers = [
        number_of(BOTH, prefix + key, record.get(key), record.get(key + INTERVAL), images)
        for key in AT_THE_CUT
    ]
    for network in NETWORKS:
        scores = record.get(network) or {}
        n = scores.get("n_images", images)
        for key, value in scores.items():
            if key.endswith(INTERVAL) or key in NO_QUANTITIES:
                continue
            within, quantity = scores.get(key + INTERVAL) or {}, prefix + key
            if isinstance(value, Mapping):
                n_here = attacked if key == "robust" else n
                numbers += [
                    number_of(network, f"{quantity}.{part}", inner, within.get(part), n_here)
                    for part, inner in value.items()
                ]
            else:
                numbers.append(number_of(network, quantity, value, within, n))
    return numbers


def number_of(
    network: str, quantity: str, value: Any, ends: Sequence[Any] | None, n_images: int | None
) -> dict[str, Any]:
    """A line; the value is None where it is no number."""
    low, high = ends or (None, None)
    counts = isinstance(value, int | float) and not isinstance(value, bool)
    value = float(value) if counts else None
    return dict(zip(NUMBER, (network, quantity, value, low, high, n_images), strict=True))
