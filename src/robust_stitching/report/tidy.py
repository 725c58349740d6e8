"""The numbers of a record, a line each: what they are of, what they are, their interval."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from robust_stitching.stitching.record import NETWORKS

NUMBER = ("network", "quantity", "value", "low", "high", "n_images")
BOTH = ""
"""In the place of a network: a number of both, at the layers."""
INTERVAL = "_interval"
AT_THE_CUT = ("cka", "debiased_cka", "l2")
OF_ACTIVATIONS = tuple(f"{key}_to_end" for key in (*AT_THE_CUT, "relative_l2"))
"""What is compared on `similarity_images`; logits are compared on all."""
NO_QUANTITIES = ("n_images",)


def images_compared(record: Mapping[str, Any]) -> int | None:
    """On how many images a record compares activations; None for all."""
    planned = (record.get("plan") or {}).get("measured") or {}
    said = {**planned, **(record.get("params") or {})}.get("similarity_images")
    return said if isinstance(said, int) else None


def numbers_of(
    record: Mapping[str, Any], prefix: str = "", compared: int | None = None
) -> list[dict[str, Any]]:
    """What was measured of a stitch on one dataset; quantities are called behind the prefix.

    Parameters
    ----------
    compared : on how many images activations were, where there are more; None for all.
    """
    images = (record.get("data") or {}).get("n_images")
    attacked = (record.get("attacks") or {}).get("n_images")
    some = images if compared is None or images is None else min(images, compared)
    numbers = [
        number_of(BOTH, prefix + key, record.get(key), record.get(key + INTERVAL), some)
        for key in AT_THE_CUT
    ]
    numbers += [
        number_of(BOTH, prefix + key, value, None, images) for key, value in _beside(record).items()
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
                n_here = some if key in OF_ACTIVATIONS else n
                numbers.append(number_of(network, quantity, value, within, n_here))
    for network, values in (record.get("ood") or {}).items():
        ends = values["auroc_interval"]
        numbers.append(number_of(network, f"{prefix}ood_auroc", values["auroc"], ends, some))
    for score in record.get("noise_front") or []:
        labels = "shuffled" if score["shuffled_labels"] else "true"
        quantity = f"{prefix}accuracy.sigma {score['sigma']:g}, {labels} labels"
        ends = score["accuracy_interval"]
        numbers.append(number_of("noise_front", quantity, score["accuracy"], ends, images))
    return numbers


def _beside(record: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside the networks: the gaps to the controls, each random front, their mean."""
    fronts = record.get("random_fronts") or []
    found = {f"gaps.{name}": gap for name, gap in (record.get("gaps") or {}).items()}
    found |= {f"random_fronts.{number}": accuracy for number, accuracy in enumerate(fronts)}
    return found | ({"random_fronts.mean": fmean(fronts)} if fronts else {})


def number_of(
    network: str, quantity: str, value: Any, ends: Sequence[Any] | None, n_images: int | None
) -> dict[str, Any]:
    """A line; the value is None where it is no number."""
    low, high = ends or (None, None)
    counts = isinstance(value, int | float) and not isinstance(value, bool)
    value = float(value) if counts else None
    return dict(zip(NUMBER, (network, quantity, value, low, high, n_images), strict=True))
