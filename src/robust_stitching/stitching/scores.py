"""All that is measured of the networks of one stitching run, on one split."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching.basics.modes import evaluating
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.evaluation import accuracy_of, predict
from robust_stitching.evaluation.intervals import interval_of
from robust_stitching.graphs import graph
from robust_stitching.similarity import Activations, Moments, compare_outputs, linear_ckas
from robust_stitching.similarity.outputs import OutputComparison

BATCH_SIZE = 250
END = "end"


@dataclass(frozen=True)
class Scores:
    """One network's line in the table of results.

    Attributes
    ----------
    accuracy, loss : None for a front whose classes are not those of the data.
    relative_accuracy : accuracy over that of the end network.
    outputs : agreement, cross-entropy and overlap with the end network.
    cka_to_end, debiased_cka_to_end, l2_to_end : between the activation at the cut (behind the map,
        for a stitched network) and the end network's own. CKA is linear, exact and debiased: where
        features outnumber images the exact one is near 1 whatever they are. l2 is the mean over
        images of the Euclidean distance, None where shapes differ.
    logit_cka_to_end, logit_l2_to_end : the same of the logits.
    """

    accuracy: float | None
    loss: float | None
    n_images: int
    relative_accuracy: float | None = None
    outputs: OutputComparison | None = None
    cka_to_end: float | None = None
    debiased_cka_to_end: float | None = None
    l2_to_end: float | None = None
    logit_cka_to_end: float | None = None
    logit_l2_to_end: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values under the keys of the JSON report."""
        values = asdict(self)
        outputs = values.pop("outputs") or {}
        values |= {
            "agreement_with_end": outputs.get("agreement"),
            "cross_entropy_to_end": outputs.get("cross_entropy"),
            "overlap_with_end": outputs.get("overlap"),
        }
        for share in ("accuracy", "agreement_with_end"):
            values[f"{share}_interval"] = interval_of(values[share], self.n_images)
        values["overlap_with_end_interval"] = self.outputs and {
            part: interval_of(share, self.n_images) for part, share in self.outputs.overlap.items()
        }
        return values


def measure(
    networks: Mapping[str, tuple[nn.Module, str]],
    split: AnySplit,
    similarity: bool = True,
    progress: Progress = silent,
) -> dict[str, Scores]:
    """Scores of every network on `split`, each against the one called "end".

    Parameters
    ----------
    networks : name to (network, layer whose activation is compared).
    similarity : compare activations and logits too, not only answers.
    """
    if similarity:
        observed = _Observed(networks, split)
        ckas = linear_ckas(observed.activations, [(name, END) for name in networks], progress)
        logits, distances = observed.logits, observed.distances
    else:
        logits = {
            name: predict(network, split, progress=progress, what=f"evaluating {name}")
            for name, (network, _) in networks.items()
        }
        ckas = distances = {}
    reference = logits[END]
    best = accuracy_of(reference, split.labels)
    scores = {}
    for name, own in logits.items():
        cka = ckas.get((name, END))
        at_cut = {
            "cka_to_end": cka and _number(cka.exact),
            "debiased_cka_to_end": cka and _number(cka.debiased),
            "l2_to_end": distances[name].mean().item() if name in distances else None,
        }
        if own.shape != reference.shape:  # a front trained on other classes answers other questions
            scores[name] = Scores(None, None, len(split), **at_cut)
            continue
        accuracy = accuracy_of(own, split.labels)
        between = _logit_similarity(own, reference) if similarity else {}
        scores[name] = Scores(
            accuracy=accuracy.accuracy,
            loss=accuracy.loss,
            n_images=accuracy.n_images,
            relative_accuracy=accuracy.accuracy / best.accuracy if best.accuracy else None,
            outputs=compare_outputs(own, reference, split.labels),
            **at_cut,
            **between,
        )
    return scores


class _Observed:
    """Activations at the cut, block by block, and what is gathered on the way: the logits of every
    image, and its distance from the end network's activation."""

    def __init__(self, networks: Mapping[str, tuple[nn.Module, str]], split: AnySplit):
        self.split = split
        self.pieces = {
            name: graph.features(network, [layer, "output"])
            for name, (network, layer) in networks.items()
        }
        self.logits: dict[str, Tensor] = {}
        self.distances: dict[str, Tensor] = {}
        features = sum(
            graph.layout_of(network, layer).units for network, layer in networks.values()
        )
        self.activations = Activations(len(split), self._compute, features)

    def _compute(self, rows: slice) -> dict[str, Tensor]:
        batches = list(self.split.between(rows.start, rows.stop).batches(BATCH_SIZE))
        found = {}
        with evaluating(*self.pieces.values()):
            for name, piece in self.pieces.items():
                outputs = [piece(images) for images, _ in batches]
                found[name] = torch.cat([activation for activation, _ in outputs])
                self._keep(self.logits, name, rows, torch.cat([out for _, out in outputs]).float())
        for name, value in found.items():
            if value.shape == found[END].shape:
                gap = (value.double() - found[END].double()).flatten(1).norm(dim=1)
                self._keep(self.distances, name, rows, gap)
        return found

    def _keep(self, where: dict[str, Tensor], name: str, rows: slice, values: Tensor) -> None:
        if name not in where:
            where[name] = values.new_zeros(len(self.split), *values.shape[1:])
        where[name][rows] = values


def _logit_similarity(logits: Tensor, reference: Tensor) -> dict[str, float | None]:
    moments = Moments(logits.shape[1], reference.shape[1], logits.device)
    moments.update(logits, reference)
    gap = (logits.double() - reference.double()).norm(dim=1).mean().item()
    return {"logit_cka_to_end": _number(moments.cka()), "logit_l2_to_end": gap}


def _number(value: float | None) -> float | None:
    """None for NaN: the similarity to something constant is not defined."""
    return None if value is None or value != value else value
