"""What a stitch shows, in the sentences that one would write first."""

from collections.abc import Mapping
from typing import Any

from robust_stitching.evaluation.robustness import WORST
from robust_stitching.report.stitch.attacked import NORM_SIGNS
from robust_stitching.report.stitch.tables import began_matched, measured
from robust_stitching.report.tables import shown


def summary(record: Mapping[str, Any]) -> str:
    """Accuracies, clean, elsewhere and under attack, and what was there without training."""
    told = [_trained(record), _elsewhere(record), *_untrained(record), _robust(record)]
    return " ".join(filter(None, told))


def _trained(record: Mapping[str, Any]) -> str:
    stitched, end = record["stitched"], record["end"]
    relative = stitched["relative_accuracy"]
    return (
        f"With a trained map, the stitched network is right on {stitched['accuracy']:.2%} of "
        f"{record['data']['n_images']:,} test images; the end network itself on "
        f"{end['accuracy']:.2%}"
    ) + ("." if relative is None else f" (relative accuracy {relative:.3f}).")


def _elsewhere(record: Mapping[str, Any]) -> str | None:
    other = record["elsewhere"]
    if not other:
        return None
    name = other["data"]["name"]
    apart = "" if name == record["data"]["name"] else ", which it was not trained on,"
    return (
        f"On {other['data']['n_images']:,} test images of {name}{apart} it is right on "
        f"{other['stitched']['accuracy']:.2%}, the end network on {other['end']['accuracy']:.2%}."
    )


def _untrained(record: Mapping[str, Any]) -> list[str]:
    """Of the map before training and of direct matching, which may be one."""
    before = f"Before training, the map gave {record['untrained']['accuracy']:.2%}"
    matched, again = record["direct_matching"], record["direct_matching_recalibrated"]
    if matched is None:
        return [f"{before}."]
    direct = f"Direct matching, which sees no labels, gives {matched['accuracy']:.2%}"
    if began_matched(record):
        told, direct = [], f"{direct} and is where the training began"
    else:
        told = [f"{before}."]
    if again is not None:  # a trained stitch has moved these statistics: so may direct matching
        direct += f"; with the statistics of batch norms estimated again {again['accuracy']:.2%}"
    seen = (record["front"], record["stitched"], matched)
    front, trained, direct_cka = (shown(values, "cka_to_end", ".3f") for values in seen)
    return [
        *told,
        f"{direct}.",
        f"At the cut, linear CKA with the end network's own activations is {front} for the "
        f"front's, {trained} behind the trained map and {direct_cka} behind direct matching.",
    ]


def _robust(record: Mapping[str, Any]) -> str | None:
    """How the networks do under attack; None where none was attacked."""
    attacks = record["attacks"]
    if attacks is None:
        return None
    worst = {
        label: record[name]["robust"][WORST] for name, label in measured(record, "robust").items()
    }
    told = ", ".join(f"{share:.1%} ({label})" for label, share in worst.items())
    return (
        f"Under attack within {NORM_SIGNS[attacks['norm']]} radius {attacks['epsilon']:.4g}, "
        f"per-image worst case over {attacks['n_images']:,} images, "
        f"{f'accuracy is {told}' if any(worst.values()) else 'every network is always wrong'}."
    )
